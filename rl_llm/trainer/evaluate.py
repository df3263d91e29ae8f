"""Pass rates on held-out problems, with their standard errors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_llm.records import Level, Problem, Request, Sampling, ScoredGroup
from rl_llm.seeds import derive_seed
from rl_llm.trainer.generation import Generation


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """A mean over problems of their pass rates, with its standard error and their number."""

    mean: float
    standard_error: float
    num_problems: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out pass rates: over all problems, and by level; and the groups behind them."""

    overall: PassRate
    by_level: Mapping[Level, PassRate]
    completion_tokens_mean: float
    truncated_share: float
    num_masked: int
    elapsed_s: float
    scored: tuple[ScoredGroup, ...]


class Evaluator:
    """Samples held-out problems with the same randomness every time, so that weights alone
    matter."""

    def __init__(
        self,
        problems: Sequence[Problem],
        generation: Generation,
        *,
        sampling: Sampling,
        samples_per_problem: int,
        seed: int,
    ) -> None:
        """`sampling` is training's own: its temperature is part of what is measured."""
        self._requests = [
            Request(
                problem=problem,
                num_completions=samples_per_problem,
                sampling=sampling,
                stream_key=derive_seed(seed, "evaluation", problem.key),
            )
            for problem in problems
        ]
        self._generation = generation

    @property
    def has_problems(self) -> bool:
        """Say whether there is anything to evaluate on."""
        return bool(self._requests)

    def __call__(self) -> Evaluation:
        """Generate, score and count; a completion whose reward failed counts as wrong."""
        started = time.perf_counter()
        scored = tuple(self._generation(self._requests))
        rates_N = np.array([np.mean([s.correct for s in group.scores]) for group in scored])
        levels = [group.group.problem.level for group in scored]
        completions = [c for group in scored for c in group.group.completions]
        return Evaluation(
            overall=pass_rate(rates_N),
            by_level={
                level: pass_rate(rates_N[[own == level for own in levels]])
                for level in sorted(set(levels), key=lambda level: (str(type(level)), level))
            },
            completion_tokens_mean=float(np.mean([len(c.token_ids) for c in completions])),
            truncated_share=float(np.mean([c.finish_reason == "length" for c in completions])),
            num_masked=sum(s.error is not None for group in scored for s in group.scores),
            elapsed_s=time.perf_counter() - started,
            scored=scored,
        )


def pass_rate(rates_N: NDArray[np.float64]) -> PassRate:
    """Return the mean of per-problem rates; problems are the unit of the standard error.

    One problem alone has no standard error: it is given as 0.
    """
    count = len(rates_N)
    deviation = float(rates_N.std(ddof=1)) if count > 1 else 0.0
    return PassRate(
        mean=float(rates_N.mean()),
        standard_error=deviation / count**0.5,
        num_problems=count,
    )
