from dataclasses import replace

import numpy as np
import pytest

from rl_llm.curriculum import Informative, Solved, dry_message, solved_of
from rl_llm.curriculum.gates import admits
from rl_llm.errors import PluginError


@pytest.fixture
def group(make_problems, score_group):
    (problem,) = make_problems(1)
    return lambda *args, **kwargs: score_group(problem, *args, **kwargs)


@pytest.mark.parametrize(
    ("correct", "kept"), [([0, 0, 0, 0], False), ([1, 1, 1, 1], False), ([0, 0, 1, 0], True)]
)
def test_informative_keeps_groups_with_right_and_wrong_answers(group, correct, kept):
    assert Informative().admit(group(correct)) is kept


def test_a_format_reward_does_not_make_an_all_wrong_group_informative(group):
    all_wrong = group([0, 0, 0, 0], totals=[0.1, 0.0, 0.1, 0.1])
    assert not Informative().admit(all_wrong)
    assert Informative(of="total").admit(all_wrong)


def test_by_total_equal_rewards_teach_nothing_whatever_is_correct(group):
    assert not Informative(of="total").admit(group([0, 1, 0, 1], totals=[0.3] * 4))


def test_completions_whose_reward_failed_do_not_make_a_difference(group):
    assert not Informative().admit(group([0, 1, 1, 1], failed=[0]))
    assert not Informative(of="total").admit(group([0, 1, 1, 1], failed=[0]))
    assert Informative().admit(group([0, 0, 1, 1], failed=[0]))
    assert not Informative().admit(group([0, 1], failed=[0, 1]))


def test_the_dry_message_says_what_all_wrong_groups_may_come_from(group):
    message = dry_message(
        [group([0, 0], finish_reason="length"), group([0, 0])], when_dry="continue"
    )
    assert "in 2 groups (2 all wrong, 0 all correct, 0 without a working reward): " in message
    assert "rewards constant at 0" in message
    assert "too hard" in message
    assert "2 of 4 completions ran into rollout.max_new_tokens" in message
    assert "\n" not in message


@pytest.mark.parametrize(("part", "is_told"), [(0.5, True), (0.0, False), (1.0, False)])
def test_the_dry_message_names_correct_at_where_rewards_fall_short_of_it(group, part, is_told):
    wrong = group([0, 0])
    scores = (replace(wrong.scores[0], parts={"half": part}), wrong.scores[1])
    message = dry_message([replace(wrong, scores=scores)], when_dry="continue")
    assert ("a reward that gives 0.5 at most falls short of its correct_at" in message) == is_told


@pytest.mark.parametrize(("right", "is_told"), [(1.0, True), (0.0, False)])
def test_the_dry_message_names_the_reward_that_alone_keeps_answers_from_being_correct(
    group, right, is_told
):
    wrong = group([0, 0])
    parts = ({"exact": right, "budget": -0.5}, {"exact": 0.0, "budget": 0.0})
    scores = tuple(replace(s, parts=p) for s, p in zip(wrong.scores, parts, strict=True))
    message = dry_message(
        [replace(wrong, scores=scores)],
        when_dry="continue",
        correct_at={"exact": 1.0, "budget": 1.0},
    )
    told = (
        "reward 'budget' is on channel correctness and gave 0 at most, below its correct_at of 1: "
        "it alone makes 1 of 2 completions wrong; put it on another channel, as `channel: length`"
    )
    assert (told in message) == is_told
    assert ("too hard" in message) != is_told


def test_a_dry_step_behind_a_dry_one_is_told_of_in_a_line(group):
    message = dry_message([group([0, 0])], when_dry="continue", is_again=True)
    assert message == (
        "again nothing to learn from in 1 groups (1 all wrong, 0 all correct, 0 without a working "
        "reward)"
    )


def test_the_dry_message_says_that_the_pass_rate_fell_where_the_step_before_solved_much(group):
    before = solved_of([group([1, 1, 1, 0])] * 8 + [group([1, 1], failed=[0, 1])])
    assert before == Solved(groups=8, solved=8, pass_rate=0.75)
    told = dry_message([group([0, 0])] * 8, when_dry="continue", before=before)
    assert (
        "rewards constant at 0. The pass rate fell from 0.75 in the step before to 0: an update "
        "has likely broken the policy, so lower optim.lr. Else: the problems are too "
        "hard for the model, or" in told
    )


@pytest.mark.parametrize(
    ("solved", "groups", "now", "is_told"),
    # (1 - 7 / 14)^12 is .0002 and (1 - 5 / 14)^12 is .005; (1 - 4 / 6)^4 is .012.
    [(7, 12, 12, True), (5, 12, 12, False), (0, 12, 99, False), (4, 4, 4, False), (6, 6, 6, True)],
)
def test_what_chance_may_have_drawn_is_no_fall(group, solved, groups, now, is_told):
    before = Solved(groups=groups, solved=solved, pass_rate=solved / groups)
    told = dry_message([group([0, 0])] * now, when_dry="continue", before=before)
    assert ("lower optim.lr" in told) == is_told
    assert ("Likely: the problems are too hard" in told) != is_told


def test_where_all_is_solved_or_no_reward_works_nothing_is_said_of_a_fall(group):
    before = Solved(groups=12, solved=12, pass_rate=0.9)
    for groups in ([group([1, 1])] * 12, [group([0, 0], failed=[0, 1])] * 12):
        assert "fell" not in dry_message(groups, when_dry="continue", before=before)


def test_the_dry_message_tells_a_mastered_pool_from_a_broken_reward(group):
    def told(*groups):
        return dry_message(groups, when_dry="continue")

    assert "what can be drawn is mastered" in told(*[group([1, 1])] * 3)
    assert "a broken reward (reward timed out)" in told(group([0, 0], failed=[0, 1]))
    assert "rewards from 0 to 0.1" in told(group([0, 0], totals=[0.0, 0.1]))


def test_the_dry_message_names_the_cause_of_most_groups(group):
    right, wrong, failed = group([1, 1]), group([0, 0]), group([0, 0], failed=[0, 1])
    message = dry_message([right, right, wrong, failed], when_dry="continue")
    assert "4 groups (1 all wrong, 2 all correct, 1 without a working reward): " in message
    assert "Likely: what can be drawn is mastered" in message


def test_the_dry_message_blames_the_gates_when_groups_were_mixed(group):
    message = dry_message([group([0, 1])] * 2, when_dry="continue")
    assert "2 mixed, which the gates dropped): rewards" in message
    assert "Likely: curriculum.gates admits less" in message


def test_the_dry_message_speaks_of_the_gates_beside_another_cause(group):
    message = dry_message([group([1, 1])] * 3 + [group([0, 1])], when_dry="continue")
    assert "of those all correct, what can be drawn is mastered" in message
    assert "of those mixed, look at what curriculum.gates leaves out" in message


def test_the_dry_message_names_both_sides_where_as_many_groups_were_wrong_as_right(group):
    right, wrong = group([1, 1]), group([0, 0], finish_reason="length")
    told = dry_message([right] * 4 + [wrong] * 3, when_dry="continue")
    assert "Likely, of those all correct, what can be drawn is mastered" in told
    # The figure is of those all wrong alone.
    assert "; of those all wrong, 6 of 6 completions ran into rollout.max_new_tokens" in told


@pytest.mark.parametrize(("num_cut", "comes_first"), [(2, True), (3, True), (1, False)])
def test_the_dry_message_puts_the_limit_first_where_more_than_half_ran_into_it(
    group, num_cut, comes_first
):
    cut = [group([0, 0], finish_reason="length")] * num_cut
    told = dry_message([*cut, *[group([0, 0])] * (3 - num_cut)], when_dry="continue")
    first = f"Likely: {2 * num_cut} of 6 completions ran into rollout.max_new_tokens before they "
    assert (f"{first}ended; raise it, or else the problems are too hard" in told) is comes_first
    assert told.count("max_new_tokens") == 1


def test_the_dry_message_speaks_of_cut_answers_whoever_is_to_blame_and_only_if_there_are(group):
    right, wrong = group([1, 1]), group([0, 0], finish_reason="length")
    told = dry_message([right] * 3 + [wrong], when_dry="continue")
    assert "Likely: what can be drawn is mastered" in told
    assert "(2 of 8 completions ran into rollout.max_new_tokens)" in told
    assert "too hard" not in told
    for uncut in (right, group([0, 0])):
        assert "max_new_tokens" not in dry_message([uncut], when_dry="continue")


def test_the_dry_message_ends_with_what_follows(group):
    for scored in ([group([0, 0])], []):
        goes_on = dry_message(scored, when_dry="continue")
        stops = dry_message(scored, when_dry="stop")
        assert goes_on.endswith("refill.when_dry=continue: the run goes on with the next step")
        assert stops.endswith("refill.when_dry=stop: the run ends here")
    assert "no group was scored" in goes_on


class Says:
    """Answers with what it was given."""

    def __init__(self, answer):
        self.answer = answer

    def admit(self, scored_group):
        return self.answer


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_a_gate_that_says_neither_true_nor_false_is_caught(group, answer):
    with pytest.raises(PluginError, match=f"gate Says: admit returned {answer!r}; it must return"):
        admits(Says(answer), group([0, 1]))


@pytest.mark.parametrize("answer", [True, False, np.True_, np.False_])
def test_a_gate_may_answer_as_numpy_does(group, answer):
    assert admits(Says(answer), group([0, 1])) is bool(answer)
