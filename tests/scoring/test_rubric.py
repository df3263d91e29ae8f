"""Weights, channels, failures, and what a rubric refuses to be built from."""

import logging
import pickle

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError, PluginError, RunError, Stopped
from rl_llm.records import Problem
from rl_llm.scoring import Failure, build_rubric, call_reward, common_columns

CORRECT = "def right(completion, answer):\n    return completion == answer\n"
LENGTH = "def length(completion):\n    return len(completion)\n"
HALF = "def half():\n    return 0.5\n"
FAILS_ON_BAD = """
def r(completion, answer):
    if completion == "bad":
        raise ValueError("cannot read it")
    return float(completion == answer)
"""


def score(uses, *groups, columns=()):
    rubric = build_rubric(uses, columns=columns)
    return rubric, [scored.scores for scored in rubric.score(groups)]


def test_total_is_the_weighted_sum_and_parts_are_unweighted(use_reward, make_group):
    uses = [
        use_reward(CORRECT, "right", weight=2.0),
        use_reward(LENGTH, "length", weight=-0.1, channel="format"),
    ]
    _, [(right, wrong)] = score(uses, make_group("7", "seven"))
    assert right.parts == {"right": 1.0, "length": 1.0}
    assert right.total == pytest.approx(2.0 * 1 - 0.1 * 1)
    assert wrong.parts == {"right": 0.0, "length": 5.0}
    assert wrong.total == pytest.approx(-0.5)
    assert all(type(part) is float for part in right.parts.values())


def test_only_the_correctness_channel_decides_what_is_correct(use_reward, make_group):
    uses = [use_reward(CORRECT, "right"), use_reward(HALF, "half", channel="format")]
    _, [scores] = score(uses, make_group("7", "8"))
    assert [each.correct for each in scores] == [True, False]


def test_correct_at_is_the_least_value_that_counts_as_correct(use_reward, make_group):
    for correct_at, correct in [(0.5, True), (0.51, False)]:
        _, [(only,)] = score([use_reward(HALF, "half", correct_at=correct_at)], make_group("7"))
        assert only.correct is correct


def test_every_correctness_reward_must_reach_its_bar(use_reward, make_group):
    uses = [use_reward(CORRECT, "right"), use_reward(LENGTH, "length", correct_at=2.0)]
    _, [(short,), (long,)] = score(uses, make_group("7"), make_group("77", answer="77"))
    assert (short.correct, long.correct) == (False, True)


def test_groups_come_out_as_they_went_in_one_by_one(use_reward, make_group):
    groups = [make_group("7"), make_group("1", "2")]
    scored = build_rubric([use_reward(CORRECT, "right")], columns=()).score(iter(groups))
    assert next(scored).group is groups[0]
    second = next(scored)
    assert second.group is groups[1]
    assert len(second.scores) == 2


def test_inputs_are_passed_by_name(use_reward, make_group):
    source = """
def r(prompt, problem, token_count, truncated, finish_reason, unit):
    assert (prompt, problem.key, token_count, truncated) == ("3+4=", "k1", 5, True)
    assert (finish_reason, unit) == ("length", "cm")
    return 1.0
"""
    group = make_group("7", num_tokens=5, finish_reason="length", unit="cm")
    _, [(only,)] = score([use_reward(source)], group, columns=["unit"])
    assert only.error is None
    assert only.correct


def test_options_of_the_recipe_reach_the_reward_and_its_defaults_stand(use_reward, make_group):
    source = "def r(completion, *, base: int, step: float = 0.25):\n    return base + step\n"
    _, [(only,)] = score([use_reward(source, base=2)], make_group("7"))
    assert only.parts == {"r": 2.25}
    _, [(only,)] = score([use_reward(source, base=2, step=0.5)], make_group("7"))
    assert only.parts == {"r": 2.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limt": 9, "cache": 1}, r"rewards\.0\.limt: unknown option \(did you mean 'limit'\?\)"),
        ({"limit": 9}, r"rewards\.0\.cache: required, and missing"),
        ({"limit": "9", "cache": 1}, r"rewards\.0\.limit='9'"),
    ],
)
def test_options_that_the_signature_does_not_allow_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_rubric([RewardUse(use="length_budget", **settings)], columns=())


def test_an_unknown_input_names_reward_parameter_nearest_match_and_all_inputs(use_reward):
    use = use_reward("def r(completion, anwser):\n    return 1.0\n")
    with pytest.raises(PluginError) as caught:
        build_rubric([use], columns=["unit"])
    message = str(caught.value)
    assert "'r'" in message
    assert "'anwser'" in message
    assert "did you mean 'answer'?" in message
    assert (
        "answer, completion, finish_reason, problem, prompt, token_count, token_ids, truncated, "
        "unit" in message
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def r(completion, tolerance=0.1):\n    return 1.0\n", "after a bare \\*"),
        ("def r(completion, completions):\n    return [1.0]\n", "did you mean 'completions'"),
        ("def r(completion, **columns):\n    return 1.0\n", "asks for 'completion'.*completions"),
        ("def r(*args):\n    return 1.0\n", "'args' cannot be passed by name"),
        ("def r(completion, /):\n    return 1.0\n", "'completion' cannot be passed by name"),
        ("class r:\n    pass\n", "is a class"),
    ],
)
def test_a_signature_that_cannot_be_called_is_refused_at_build(use_reward, source, message):
    with pytest.raises(PluginError, match=message):
        build_rubric([use_reward(source)], columns=())


def test_two_rewards_of_one_name_are_refused_and_both_are_named(use_reward):
    uses = [
        RewardUse(use="exact_answer"),
        use_reward("def exact_answer(completion):\n    return 1.0\n", "exact_answer"),
    ]
    with pytest.raises(ConfigError, match=r"rewards\.1: '.*py:exact_answer'.*after 'exact_answer'"):
        build_rubric(uses, columns=())


def test_a_failure_masks_its_own_completion_and_no_other(use_reward, make_group, caplog):
    group = make_group("7", "bad", "8", "bad")
    with caplog.at_level(logging.WARNING):
        rubric, [scores, _] = score([use_reward(FAILS_ON_BAD)], group, group)
    assert [each.correct for each in scores] == [True, False, False, False]
    assert [each.total for each in scores] == [1.0, 0.0, 0.0, 0.0]
    assert [each.error for each in scores] == [
        None,
        "reward 'r' failed on problem k1: ValueError: cannot read it, in r.py line 4, r",
        None,
        "reward 'r' failed on problem k1: ValueError: cannot read it, in r.py line 4, r",
    ]
    assert rubric.num_failures == {"r": 4}
    assert len(caplog.records) == 1
    assert "ValueError: cannot read it" in caplog.text


def test_one_failing_reward_takes_the_whole_total(use_reward, make_group):
    uses = [use_reward(FAILS_ON_BAD), use_reward(HALF, "half", channel="format")]
    rubric, [(only,)] = score(uses, make_group("bad"))
    assert only.total == 0.0
    assert only.parts == {"half": 0.5}
    assert rubric.num_failures == {"r": 1}


def test_under_on_error_raise_a_failure_ends_the_run(use_reward, make_group):
    message = (
        "reward 'r' failed on problem k1: ValueError: cannot read it, in r.py line 4, r; correct"
    )
    with pytest.raises(RunError, match=message):
        score([use_reward(FAILS_ON_BAD, on_error="raise")], make_group("7", "bad"))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("float('nan')", "gave nan, which is not finite"),
        ("float('inf')", "gave inf, which is not finite"),
        ("10 ** 400", "OverflowError"),
        ("'1.0'", "gave '1.0', which is not a number"),
        ("b'abc'", "gave b'abc', which is not a number"),
        ("{0: 1.0, 1: 1.0, 2: 1.0}", "which is not a number"),
    ],
)
def test_what_is_no_finite_number_is_a_failure(use_reward, make_group, value, error):
    _, [(only,)] = score([use_reward(f"def r():\n    return {value}\n")], make_group("7"))
    assert only.error is not None
    assert error in only.error


@pytest.mark.parametrize("value", ["True", "1", "np.float32(1)", "np.bool_(True)", "np.array(1)"])
def test_every_scalar_that_is_a_number_counts(use_reward, make_group, value):
    source = f"import numpy as np\ndef r():\n    return {value}\n"
    _, [(only,)] = score([use_reward(source)], make_group("7"))
    assert only.parts == {"r": 1.0}
    assert only.correct


def test_under_zero_a_failure_counts_as_wrong_and_as_reward_0(use_reward, make_group, caplog):
    uses = [
        use_reward(FAILS_ON_BAD, weight=2.0, on_error="zero", correct_at=0.0),
        use_reward(HALF, "half", channel="format"),
    ]
    rubric, [(right, bad)] = score(uses, make_group("7", "bad"))
    assert (right.total, right.correct, right.failures) == (2.5, True, {})
    assert (bad.total, bad.correct, bad.error) == (0.5, False, None)
    assert bad.parts == {"r": 0.0, "half": 0.5}
    assert bad.failures == {"r": "raised"}
    assert rubric.num_failures == {"r": 1}
    assert "reward 'r' failed on problem k1: ValueError: cannot read it" in caplog.text


def test_under_zero_a_failure_on_another_channel_leaves_a_right_completion_right(
    use_reward, make_group
):
    uses = [
        use_reward(CORRECT, "right"),
        use_reward(FAILS_ON_BAD, channel="format", on_error="zero"),
    ]
    _, [(only,)] = score(uses, make_group("bad", answer="bad"))
    assert (only.total, only.correct, only.error) == (1.0, True, None)


def test_what_waits_for_a_reward_that_fails_under_zero_does_not_count(use_reward, make_group):
    uses = [
        use_reward(FAILS_ON_BAD, on_error="zero", correct_at=0.0),
        use_reward(HALF, "half", channel="format", only_if="r"),
    ]
    _, [(bad,)] = score(uses, make_group("bad"))
    assert (bad.total, bad.held_back) == (0.0, ("half",))


def test_each_kind_of_failure_is_logged_once_with_an_example(use_reward, make_group, caplog):
    source = FAILS_ON_BAD.replace("return float", "return 'x' if completion == 'odd' else float")
    texts = ["bad", "odd", "bad", "7", "odd"]
    rubric, _ = score([use_reward(source, inline=True)], make_group(*texts), make_group(*texts))
    assert rubric.failures == {("r", "raised"): 4, ("r", "wrong_value"): 4}
    assert [record.getMessage() for record in caplog.records] == [
        f"reward 'r' failed on problem k1: {said}; further failures of this kind ({kind}) of this "
        "reward are only counted"
        for kind, said in [
            ("raised", "ValueError: cannot read it, in r.py line 4, r"),
            ("wrong_value", "TypeError: gave 'x', which is not a number"),
        ]
    ]


def test_none_means_that_a_reward_does_not_apply(use_reward, make_group):
    uses = [
        use_reward(CORRECT, "right"),
        use_reward("def r(completion):\n    return None if completion == '7' else 1.0\n"),
    ]
    rubric, [(first, second)] = score(uses, make_group("7", "8"))
    assert (first.parts, first.total, first.correct) == ({"right": 1.0}, 1.0, True)
    assert second.parts == {"right": 0.0, "r": 1.0}
    assert not rubric.num_failures


def test_where_no_correctness_reward_applies_the_completion_is_masked(use_reward, make_group):
    uses = [
        use_reward("def r():\n    return None\n"),
        use_reward(HALF, "half", channel="format"),
    ]
    _, [(only,)] = score(uses, make_group("7"))
    assert not only.correct
    assert only.total == 0.0
    assert only.error == "no reward on channel 'correctness' applies to problem k1"


def test_a_group_level_reward_sees_all_completions_at_once(use_reward, make_group):
    source = """
def r(completions, answer, token_count):
    assert answer == "7"
    return [n * completions.count(text) / 3 for text, n in zip(completions, token_count)]
"""
    _, [scores] = score([use_reward(source)], make_group("a", "b", "a", num_tokens=3))
    assert [each.parts["r"] for each in scores] == [2.0, 1.0, 2.0]


def test_a_group_level_reward_that_gives_too_few_numbers_fails_the_group(use_reward, make_group):
    source = "def r(completions):\n    return [1.0]\n"
    rubric, [scores] = score([use_reward(source)], make_group("a", "b"))
    assert all("gave 1 values for 2 completions" in each.error for each in scores)
    assert rubric.num_failures == {"r": 2}


@pytest.mark.parametrize(
    "given",
    ["None", "0.5", "__import__('numpy').array(0.5)", "{1.0: 0, 2.0: 0}", "{0.0, 1.0}", "bytes(2)"],
)
def test_a_group_level_reward_that_gives_no_list_is_told_the_rule(use_reward, make_group, given):
    source = f"def r(completions):\n    return {given}\n"
    _, [scores] = score([use_reward(source)], make_group("a", "b"))
    rule = "for 2 completions; a reward of a group gives a list with one for each completion"
    assert all(rule in each.error for each in scores)


def test_in_a_group_one_number_that_is_not_finite_fails_alone(use_reward, make_group):
    source = "def r(completions):\n    return [1.0, float('nan'), None]\n"
    use = use_reward(source, channel="format")
    _, [scores] = score([use, use_reward(HALF, "half")], make_group("a", "b", "c"))
    assert [each.error is None for each in scores] == [True, False, True]
    assert scores[2].parts == {"half": 0.5}


def test_async_rewards_of_a_group_wait_together(use_reward, make_group):
    """Every call waits until both have begun, so one after the other would never end."""
    source = """
import asyncio
waiting = []
async def r(completion, answer):
    waiting.append(completion)
    while len(waiting) < 2:
        await asyncio.sleep(0)
    return float(completion == answer)
"""
    _, [scores] = score([use_reward(source)], make_group("7", "8"))
    assert [each.total for each in scores] == [1.0, 0.0]


def test_an_async_reward_that_raises_fails_alone(use_reward, make_group):
    source = FAILS_ON_BAD.replace("def r", "async def r")
    _, [scores] = score([use_reward(source)], make_group("7", "bad"))
    assert [each.error for each in scores] == [
        None,
        "reward 'r' failed on problem k1: ValueError: cannot read it, in r.py line 4, r",
    ]


@pytest.mark.parametrize(
    ("leaving", "error"),
    [("sys.exit(3)", "SystemExit: 3"), ("await cancelled()", "CancelledError")],
)
def test_an_async_reward_that_leaves_or_is_cancelled_fails_alone(
    use_reward, make_group, leaving, error
):
    source = f"""
import asyncio, sys
async def cancelled():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task
async def r(completion):
    if completion == "bad":
        {leaving}
    return 1.0
"""
    _, [scores] = score([use_reward(source)], make_group("7", "bad", "8"))
    failed = f"reward 'r' failed on problem k1: {error}"
    assert [each.error for each in scores] == [None, failed, None]


def test_a_reward_whose_own_loop_is_cancelled_fails(use_reward, make_group):
    source = """
import asyncio
def r(completion):
    raise asyncio.CancelledError("took too long")
"""
    _, [scores] = score([use_reward(source)], make_group("7"))
    said = "reward 'r' failed on problem k1: CancelledError: took too long, in r.py line 4, r"
    assert scores[0].error == said


def test_a_signal_goes_through_an_async_reward(use_reward, make_group):
    source = """
from rl_llm.errors import Stopped
async def r(completion):
    raise Stopped(143)
"""
    with pytest.raises(Stopped):
        score([use_reward(source, inline=True)], make_group("7"))


def test_an_async_group_level_reward_is_awaited_once(use_reward, make_group):
    source = "async def r(completions):\n    return [float(len(text)) for text in completions]\n"
    _, [scores] = score([use_reward(source)], make_group("a", "bb"))
    assert [each.total for each in scores] == [1.0, 2.0]


def test_an_object_that_can_be_called_is_a_reward(use_reward, make_group):
    source = """
class Match:
    def __call__(self, completion, answer, *, gain: float = 3.0):
        return gain * (completion == answer)
r = Match()
"""
    _, [scores] = score([use_reward(source, gain=2.0)], make_group("7", "8"))
    assert [each.total for each in scores] == [2.0, 0.0]


def test_a_reward_crosses_process_borders_by_reference(
    use_reward, make_group, monkeypatch, tmp_path
):
    use_reward(FAILS_ON_BAD)
    monkeypatch.chdir(tmp_path)
    (reward,) = build_rubric([RewardUse(use="r.py:r")], columns=()).rewards
    monkeypatch.chdir("/")
    sent = pickle.loads(pickle.dumps((reward, make_group("7", "bad"))))
    outcomes = pickle.loads(pickle.dumps(call_reward(*sent)))
    assert outcomes == [1.0, Failure("ValueError: cannot read it")]


def test_common_columns_are_those_that_no_problem_lacks():
    def problem(**meta):
        return Problem(key="k", prompt="", answer="", meta=meta)

    assert common_columns([problem(a=1, b=2), problem(b=3, c=4)]) == {"b"}
    assert common_columns([]) == frozenset()


def test_a_column_that_some_problems_lack_is_named_with_the_first_of_them(use_reward):
    problems = [
        Problem(key=f"k{n}", prompt=f"{n}+1=", answer="", source="sums", meta=meta)
        for n, meta in enumerate([{"unit": "kg"}, {}, {"unit": None}, {}])
    ]
    use = use_reward("def r(completion, unit):\n    return 1.0\n")
    message = (
        r"'r' .* asks for 'unit', a column that 2 of 4 problems lack; the first is '1\+1=' "
        r"\(key k1, source 'sums'\): give it to every problem"
    )
    with pytest.raises(PluginError, match=message):
        build_rubric([use], columns=common_columns(problems), problems=problems)
    build_rubric([use], columns=common_columns(problems[::2]), problems=problems[::2])


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_completion_of_a_problem_without_the_column_fails_alone(use_reward, make_group, kind):
    use = use_reward(f"{kind} r(completion, solution):\n    return float(completion == solution)\n")
    lacks, whole = build_rubric([use], columns=["solution"]).score(
        [make_group("7", "8"), make_group("7", "8", solution="8")]
    )
    assert ["no column 'solution'" in score.error for score in lacks.scores] == [True, True]
    assert [score.total for score in whole.scores] == [0.0, 1.0]
