"""Rewards that count only if another one does its part."""

import pytest

from rl_llm.errors import ConfigError
from rl_llm.scoring import build_rubric

RIGHT = "def right(completion, answer):\n    return float(answer in completion)\n"
TAGS = "def tags(completion):\n    return float(completion.startswith('<')) / 2\n"
STEPS = "def steps():\n    return [1.0, 2.0, 3.0]\n"


@pytest.fixture
def score_texts(make_group):
    """Score completions with these texts on a problem whose answer is 7."""

    def score(uses, *texts):
        (scored,) = build_rubric(uses, columns=()).score([make_group(*texts)])
        return scored.scores

    return score


def test_format_counts_only_if_correct(use_reward, score_texts):
    uses = [
        use_reward(RIGHT, "right"),
        use_reward(TAGS, "tags", weight=0.2, channel="format", only_if="right"),
    ]
    scores = score_texts(uses, "<7>", "<8>", "7")
    assert [each.total for each in scores] == pytest.approx([1.1, 0.0, 1.0])
    assert [each.parts["tags"] for each in scores] == [0.5, 0.5, 0.0]
    assert [each.held_back for each in scores] == [(), ("tags",), ()]


def test_correctness_counts_only_if_well_formed_and_correct_knows_nothing_of_it(
    use_reward, score_texts
):
    uses = [
        use_reward(RIGHT, "right", only_if="tags"),
        use_reward(TAGS, "tags", weight=0.2, channel="format", correct_at=0.5),
    ]
    scores = score_texts(uses, "<7>", "<8>", "7")
    assert [each.total for each in scores] == pytest.approx([1.1, 0.1, 0.0])
    assert [each.correct for each in scores] == [True, False, True]
    assert [each.parts["right"] for each in scores] == [1.0, 0.0, 1.0]


def test_a_condition_holds_from_the_correct_at_of_the_named_reward_on(use_reward, score_texts):
    for correct_at, total in [(0.5, 0.5 + 1.0), (0.51, 0.5)]:
        uses = [
            use_reward(RIGHT, "right", only_if="tags"),
            use_reward(TAGS, "tags", channel="format", correct_at=correct_at),
        ]
        (only,) = score_texts(uses, "<7>")
        assert only.total == total


def test_where_the_named_reward_does_not_apply_the_other_adds_nothing(use_reward, score_texts):
    uses = [
        use_reward(RIGHT, "right"),
        use_reward(TAGS, "tags", channel="format", only_if="r"),
        use_reward("def r():\n    return None\n", channel="judge"),
    ]
    (only,) = score_texts(uses, "<7>")
    assert (only.total, only.parts) == (1.0, {"right": 1.0, "tags": 0.5})
    assert only.held_back == ("tags",)


def test_a_reward_per_token_that_does_not_count_adds_0_at_every_token(use_reward, score_texts):
    uses = [
        use_reward(RIGHT, "right"),
        use_reward(STEPS, "steps", weight=-1.0, channel="style", only_if="right"),
    ]
    right, wrong = score_texts(uses, "7", "8")
    assert (right.total, right.token_rewards) == (-5.0, (-1.0, -2.0, -3.0))
    assert (wrong.total, wrong.token_rewards) == (0.0, (0.0, 0.0, 0.0))
    assert wrong.parts["steps"] == 6.0


def test_the_sum_of_a_reward_per_token_may_be_what_another_waits_for(use_reward, score_texts):
    for correct_at, total in [(6.0, 7.0), (6.5, 6.0)]:
        uses = [
            use_reward(RIGHT, "right", only_if="steps"),
            use_reward(STEPS, "steps", channel="style", correct_at=correct_at),
        ]
        (only,) = score_texts(uses, "7")
        assert only.total == total


def test_what_the_named_reward_gave_decides_where_it_does_not_count_itself(use_reward, score_texts):
    uses = [
        use_reward(RIGHT, "right", only_if="tags"),
        use_reward(TAGS, "tags", channel="format"),
        use_reward(STEPS, "steps", channel="style", only_if="right"),
    ]
    (only,) = score_texts(uses, "7")
    assert only.total == 6.0


def refusal(uses):
    with pytest.raises(ConfigError) as caught:
        build_rubric(uses, columns=())
    return str(caught.value)


def test_a_condition_on_an_unknown_reward_names_place_value_and_names(use_reward):
    uses = [use_reward(RIGHT, "right"), use_reward(TAGS, "tags", only_if="rihgt")]
    assert refusal(uses) == (
        "rewards.1.only_if='rihgt': there is no reward of that name in the recipe (did you mean "
        "'right'?); known: right, tags; name another reward by its function's name"
    )


def test_a_reward_that_waits_for_itself_is_refused(use_reward):
    uses = [use_reward(RIGHT, "right"), use_reward(TAGS, "tags", only_if="tags")]
    assert refusal(uses) == (
        "rewards.1.only_if='tags': this is the reward itself, and a reward counts only if another "
        "one does its part; name another of right, tags, or drop only_if"
    )


def test_conditions_that_go_in_a_circle_are_refused_at_the_first_reward_of_the_circle(use_reward):
    uses = [
        use_reward(RIGHT, "right", only_if="tags"),
        use_reward(TAGS, "tags", only_if="steps"),
        use_reward(STEPS, "steps", only_if="tags"),
    ]
    assert refusal(uses) == (
        "rewards.1.only_if='steps': 'tags' only if 'steps' only if 'tags' goes in a circle, and "
        "conditions must lead to a reward without one; drop one only_if among the rewards "
        "right, steps, tags"
    )
