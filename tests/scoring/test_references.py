"""References that a shipped reward cannot use are named before a run; nothing else is asked."""

import pytest

from rl_llm.config import RewardUse
from rl_llm.records import Problem
from rl_llm.scoring import build_rubric
from rl_llm.scoring.references import reference_faults


def problems(*answers):
    return [
        Problem(key=f"k{number}", prompt=f"{number}?", answer=answer, source="mine")
        for number, answer in enumerate(answers)
    ]


def faults(use, *answers):
    rubric = build_rubric([use], columns=())
    return list(reference_faults(rubric.rewards, problems(*answers)))


def test_references_without_a_number_are_counted_and_the_first_is_named():
    (line,) = faults(RewardUse(use="numeric_answer"), "7", "seven", "#### 8", "eight")
    assert line == (
        "reward 'numeric_answer' cannot use the references of 2 of 4 problems; the first is of "
        "problem k1 (source 'mine'): ValueError: the reference answer 'seven' holds no number"
    )


def test_references_that_can_be_used_give_no_line():
    for name in ("numeric_answer", "exact_answer", "choice_answer", "answer_tags"):
        answers = ("A", "b") if name == "choice_answer" else ("7", "8")
        assert faults(RewardUse(use=name), *answers) == []


def test_a_reward_of_ones_own_is_not_called(use_reward):
    source = "def r(completion, answer):\n    raise ValueError('it costs something')\n"
    assert faults(use_reward(source, inline=True), "7") == []


@pytest.mark.slow
def test_references_that_are_no_mathematics_are_found_by_workers():
    use = RewardUse(use="math_answer", timeout_s=2.0)
    (line,) = faults(use, r"\frac{1}{2}", r"\frac{1}{", "Monday", r"\boxed{5}")
    assert "references of 1 of 4 problems; the first is of problem k1 (source 'mine'): " in line
    assert line.endswith("or remove the problem")
