"""What counts as one answer in a vote, as the files of rewards say."""

from fractions import Fraction

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import PluginError
from rl_llm.plugins import resolve
from rl_llm.scoring import answer_reader, build_rubric, read_examples

VOTERS = ("choice_answer", "exact_answer", "numeric_answer", "reasoning_gym_verifier")


def reader_of(*uses, columns=()):
    rubric = build_rubric([RewardUse(**use) for use in uses], columns=columns)
    try:
        return answer_reader(rubric.rewards)
    finally:
        rubric.close()


def test_numbers_are_one_answer_however_they_are_written():
    read = reader_of({"use": "numeric_answer"})
    texts = (r"so \boxed{1,000}", "#### 1000.0", "It is 1000.", "no idea")
    assert [read(text) for text in texts] == [Fraction(1000)] * 3 + [None]


def test_texts_are_answers_without_what_stands_around_the_tags():
    read = reader_of({"use": "answer_tags", "channel": "format"}, {"use": "exact_answer"})
    assert [read(text) for text in ("a <answer> 85 </answer>", " 85\n", "84")] == ["85", "85", "84"]


def test_without_a_reward_on_correctness_that_says_so_there_are_no_answers():
    silent = {"use": "answer_tags"}
    assert reader_of(silent) is None
    assert reader_of(silent, {"use": "exact_answer", "channel": "other"}) is None
    assert reader_of(silent, {"use": "exact_answer"}) is not None


def test_mathematics_votes_by_what_is_marked_without_units_and_delimiters():
    pytest.importorskip("math_verify", reason="needs the extra math")
    read = reader_of({"use": "math_answer"})
    texts = (r"So \boxed{$5\text{ cm}$}.", "<answer>5</answer>", "#### 5", "It is 5.")
    assert [read(text) for text in texts] == ["5", "5", "5", None]


@pytest.mark.parametrize("name", VOTERS)
def test_what_a_shipped_reward_calls_correct_has_an_answer(name):
    plugin = resolve(name, kind="rewards")
    solved = [each.inputs["completion"] for each in read_examples(plugin) if each.expected == 1.0]
    assert len(solved) >= 3
    assert all(plugin.module.read_answer(completion) is not None for completion in solved)


@pytest.mark.parametrize(
    ("body", "fault"), [("1 / 0", "ZeroDivisionError"), ("[text]", "TypeError: unhashable")]
)
def test_a_reader_that_fails_is_named_with_its_file(tmp_path, body, fault):
    file = tmp_path / "own.py"
    file.write_text(
        f"def own(completion):\n    return 1.0\ndef read_answer(text):\n    return {body}\n"
    )
    read = reader_of({"use": f"{file}:own"})
    with pytest.raises(PluginError, match=rf"own\.py: read_answer failed .*{fault}"):
        read("85")
