"""The solutions of GSM8K score 1.0 against their own answers, and 0.0 against other ones."""

from pathlib import Path

import pytest

from rl_llm.plugins import build, resolve
from rl_llm.scoring import final_answer

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GSM8K.is_dir(), reason=f"GSM8K is not in {GSM8K}"),
]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["numeric_answer", "math_answer"])
def test_a_solution_is_right_for_its_own_problem_and_wrong_for_the_next(name, split):
    source = resolve("gsm8k", kind="data").target
    problems = list(build(source, {"path": str(GSM8K), "split": split}, path="data.train.0"))
    reward = resolve(name, kind="rewards").target
    solutions = [problem.meta["solution"] for problem in problems]
    assert len(problems) == {"train": 7473, "test": 1319}[split]
    own = [
        reward(solution, answer)
        for solution, problem in zip(solutions, problems, strict=True)
        for answer in (problem.answer, solution)
    ]
    assert own == [1.0] * 2 * len(problems)
    answers = [problem.answer for problem in [*problems[1:], problems[0]]]
    others = [
        (reward(solution, answer), float(final_answer(solution) == final_answer(answer)))
        for solution, answer in zip(solutions, answers, strict=True)
    ]
    assert [given for given, _ in others] == [equal for _, equal in others]
    assert sum(equal for _, equal in others) < 0.05 * len(others)
