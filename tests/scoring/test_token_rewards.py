"""Rewards that give a number for each token. Every completion of `make_group` has 3 tokens."""

import pytest

from rl_llm.plugins import resolve
from rl_llm.scoring import Example, build_rubric, run_example

RIGHT = "def right(completion, answer):\n    return completion == answer\n"
STEPS = "def steps(token_ids):\n    return [0.5 * number for number in token_ids]\n"
LAST = "def last():\n    return (0.0, 0.0, 4.0)\n"


def scores_of(uses, group):
    (scored,) = build_rubric(uses, columns=()).score([group])
    return scored.scores


def gives(use_reward, make_group, expression):
    """Return the score of one completion whose only reward returns this expression."""
    source = f"import numpy as np, torch\ndef r():\n    return {expression}\n"
    (only,) = scores_of([use_reward(source)], make_group("7"))
    return only


def test_a_sequence_is_its_sum_in_parts_and_in_the_total(use_reward, make_group):
    uses = [use_reward(RIGHT, "right"), use_reward(STEPS, "steps", weight=0.1, channel="style")]
    (only,) = scores_of(uses, make_group("7"))
    assert only.parts == {"right": 1.0, "steps": 1.5}
    assert only.total == pytest.approx(1.15)
    assert only.token_rewards == pytest.approx((0.0, 0.05, 0.1))
    assert type(only.parts["steps"]) is float


def test_rewards_per_token_are_weighted_and_added_token_by_token(use_reward, make_group):
    uses = [use_reward(STEPS, "steps", weight=2.0), use_reward(LAST, "last", weight=-0.25)]
    (only,) = scores_of(uses, make_group("7"))
    assert only.token_rewards == (0.0, 1.0, 1.0)
    assert only.total == 2.0


def test_without_a_reward_per_token_there_are_no_token_rewards(use_reward, make_group):
    (only,) = scores_of([use_reward(RIGHT, "right")], make_group("7"))
    assert only.token_rewards == ()


def test_a_completion_without_tokens_takes_an_empty_sequence(use_reward, make_group):
    (only,) = scores_of([use_reward(STEPS, "steps")], make_group("", num_tokens=0))
    assert (only.error, only.parts, only.token_rewards) == (None, {"steps": 0.0}, ())


def test_the_sum_is_rounded_once_so_that_it_reaches_correct_at(use_reward, make_group):
    use = use_reward("def r():\n    return [0.1] * 10\n")
    (only,) = scores_of([use], make_group("7", num_tokens=10))
    assert only.parts == {"r": 1.0}
    assert only.correct


@pytest.mark.parametrize(
    "expression",
    [
        "[1, 2.0, True]",
        "(1, 2, 1)",
        "np.array([1, 2, 1], dtype=np.int8)",
        "[np.float32(1), np.array(2), torch.tensor(1)]",
        "torch.tensor([1.0, 2.0, 1.0], dtype=torch.bfloat16, requires_grad=True)",
    ],
)
def test_lists_tuples_arrays_and_tensors_are_sequences(use_reward, make_group, expression):
    score = gives(use_reward, make_group, expression)
    assert score.token_rewards == (1.0, 2.0, 1.0)
    assert all(type(each) is float for each in score.token_rewards)
    assert score.total == 4.0


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("[1.0]", "ValueError: gave 1 numbers for 3 tokens"),
        ("torch.ones(4)", "ValueError: gave 4 numbers for 3 tokens"),
        ("[]", "ValueError: gave 0 numbers for 3 tokens"),
        (
            "[0.0, float('nan'), 0.0]",
            "ValueError: gave nan, which is not finite, among 3 numbers for 3 tokens",
        ),
        (
            "[0.0, '1.0', 0.0]",
            "TypeError: gave '1.0', which is not a number, among 3 numbers for 3 tokens",
        ),
        ("[0.0, None, 0.0]", "TypeError: gave None, which is not a number, among 3 numbers"),
        ("np.zeros((3, 1))", "TypeError: gave [0.0], which is not a number, among 3 numbers"),
        (
            "[1e308, 1e308, 0.0]",
            "ValueError: gave 3 numbers for 3 tokens, the sum of which is not finite",
        ),
        ("'123'", "TypeError: gave '123', which is not a number"),
        ("np.array(['1', '2', '3'])", "TypeError: gave '1', which is not a number"),
    ],
)
def test_a_sequence_that_does_not_fit_the_tokens_is_a_failure(
    use_reward, make_group, expression, error
):
    score = gives(use_reward, make_group, expression)
    assert score.error is not None
    assert score.error.startswith(f"reward 'r' failed on problem k1: {error}")
    assert (score.total, score.parts, score.token_rewards) == (0.0, {}, ())


def test_none_for_the_whole_completion_still_means_that_a_reward_does_not_apply(
    use_reward, make_group
):
    source = "def r(completion, token_ids):\n    return None if completion == '7' else [1.0] * 3\n"
    uses = [use_reward(RIGHT, "right"), use_reward(source, channel="style")]
    applies_not, applies = scores_of(uses, make_group("7", "8"))
    assert (applies_not.parts, applies_not.token_rewards) == ({"right": 1.0}, ())
    assert (applies.parts, applies.token_rewards) == ({"right": 0.0, "r": 3.0}, (1.0, 1.0, 1.0))


def test_a_failure_of_another_reward_leaves_no_token_rewards(use_reward, make_group):
    uses = [use_reward(STEPS, "steps"), use_reward("def r():\n    return float('inf')\n")]
    (only,) = scores_of(uses, make_group("7"))
    assert (only.total, only.parts, only.token_rewards) == (0.0, {"steps": 1.5}, ())


def test_a_group_level_reward_gives_numbers_for_some_and_sequences_for_others(
    use_reward, make_group
):
    source = """
def r(completions, token_ids):
    assert token_ids == [(0, 1, 2)] * 3
    return [2.0, list(token_ids[1]), [1.0]]
"""
    number, tokens, wrong = scores_of([use_reward(source)], make_group("a", "b", "c"))
    assert (number.total, number.token_rewards) == (2.0, ())
    assert (tokens.total, tokens.token_rewards) == (3.0, (0.0, 1.0, 2.0))
    assert wrong.error is not None
    assert "gave 1 numbers for 3 tokens" in wrong.error


def test_an_array_with_a_row_for_each_completion_is_a_sequence_for_each(use_reward, make_group):
    source = "import numpy as np\ndef r(completions):\n    return np.eye(2, 3)\n"
    scores = scores_of([use_reward(source)], make_group("a", "b"))
    assert [each.token_rewards for each in scores] == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]


def test_an_async_reward_may_give_a_sequence(use_reward, make_group):
    (only,) = scores_of([use_reward(STEPS.replace("def", "async def"), "steps")], make_group("7"))
    assert only.token_rewards == (0.0, 0.5, 1.0)


def test_an_example_may_give_token_ids_and_expects_a_tuple(tmp_path):
    (tmp_path / "steps.py").write_text(STEPS)
    plugin = resolve(f"{tmp_path / 'steps.py'}:steps", kind="rewards")
    example = Example(inputs={"token_ids": [4, 6]}, expected=(2.0, 3.0))
    assert run_example(plugin, example) == example.expected


def test_an_example_of_a_group_gives_token_ids_for_each_completion(tmp_path):
    (tmp_path / "r.py").write_text("def r(completions, token_ids):\n    return token_ids\n")
    plugin = resolve(f"{tmp_path / 'r.py'}:r", kind="rewards")
    inputs = {"completions": ["a", "b"], "token_ids": [[4], [5, 6]]}
    assert run_example(plugin, Example(inputs=inputs, expected=None)) == [(4.0,), (5.0, 6.0)]
    with pytest.raises(ValueError, match=r"token_ids=\[\[4\]\] with 2 completions"):
        run_example(plugin, Example(inputs=inputs | {"token_ids": [[4]]}, expected=None))
