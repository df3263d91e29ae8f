from collections.abc import Callable, Sequence

import pytest

from rl_llm.records import (
    Completion,
    Group,
    Problem,
    Sampling,
    Score,
    ScoredGroup,
    content_key,
)


@pytest.fixture
def make_problems() -> Callable[..., list[Problem]]:
    """Return `(count, level=..., first=0) -> problems` with prompts q0, q1, ..."""

    def make(count: int, *, level: int = 1, first: int = 0) -> list[Problem]:
        prompts = [f"q{number}" for number in range(first, first + count)]
        return [
            Problem(key=content_key(q, "a"), prompt=q, answer="a", level=level, source="s")
            for q in prompts
        ]

    return make


@pytest.fixture
def score_group() -> Callable[..., ScoredGroup]:
    """Return `(problem, correct, totals=None, failed=()) -> scored group`: one completion per entry
    of `correct`; those at the positions `failed` have an error."""

    def make(
        problem: Problem,
        correct: Sequence[bool | int],
        *,
        totals: Sequence[float] | None = None,
        failed: Sequence[int] = (),
        finish_reason: str = "stop",
    ) -> ScoredGroup:
        completion = Completion(
            token_ids=(1,), logprobs=(0.0,), text="", finish_reason=finish_reason, policy_version=0
        )
        group = Group(problem=problem, prompt_ids=(0,), completions=(completion,) * len(correct))
        scores = tuple(
            Score(
                total=float(good) if totals is None else totals[position],
                parts={},
                correct=bool(good),
                error="reward timed out" if position in failed else None,
            )
            for position, good in enumerate(correct)
        )
        return ScoredGroup(group=group, scores=scores)

    return make


@pytest.fixture
def sampling() -> Sampling:
    return Sampling(temperature=1.0, max_new_tokens=4)
