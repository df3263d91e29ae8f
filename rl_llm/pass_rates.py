"""Pass rates of problems and what is estimated from them: pass@k, maj@k, the difference of two.

Every estimate is a mean over problems of one number for each, and problems are the unit of its
standard error. Legend: N problems.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from rl_llm.records import Level, ScoredGroup, level_order

ReadAnswer = Callable[[str], Hashable | None]

_UPPER = 0.975  # The upper end of a 95 % interval.


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """A mean over problems of their pass rates, with its standard error and their number."""

    mean: float
    standard_error: float
    num_problems: int


@dataclass(frozen=True, kw_only=True)
class ProblemResult:
    """How many of the samples of a problem were correct; `masked` ones could not be scored, and
    count as wrong.

    `majority` holds, by k, the problem's maj@k; it is empty where answers cannot be told apart.
    """

    key: str
    source: str
    level: Level
    correct: int
    samples: int
    masked: int = 0
    majority: Mapping[int, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The share of correct samples."""
        return self.correct / self.samples

    @property
    def row(self) -> dict[str, Any]:
        """The result as it is written; `majority` only where there is one."""
        row = asdict(self)
        return row if self.majority else {k: v for k, v in row.items() if k != "majority"}


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The results of one level of a source; None stands for all levels, or all sources."""

    source: str | None
    level: Level | None
    results: tuple[ProblemResult, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher the pass rate of `b` is than that of `a` on the same problems, with a 95 %
    interval; `higher_a` and `higher_b` count the problems of which one solves a larger share.

    A single problem has no standard error, and no interval: they are None.
    """

    num_problems: int
    a: float
    b: float
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    higher_a: int
    higher_b: int


def pass_rate(rates_N: ArrayLike) -> PassRate:
    """Return the mean of per-problem rates; problems are the unit of the standard error.

    One problem alone has no standard error: it is given as 0.
    """
    values_N: NDArray[np.float64] = np.asarray(rates_N, np.float64)
    count = len(values_N)
    deviation = float(values_N.std(ddof=1)) if count > 1 else 0.0
    return PassRate(
        mean=float(values_N.mean()),
        standard_error=deviation / count**0.5,
        num_problems=count,
    )


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Return 1 - C(n - c, k) / C(n, k), the share of the sets of k samples with a correct one: the
    unbiased estimate from n samples, c of them correct (https://arxiv.org/abs/2107.03374)."""
    sets = math.comb(samples, k)
    return (sets - math.comb(samples - correct, k)) / sets


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Return how often the majority of k samples is right: the mean over blocks of k samples, in
    their order; a last block that is not full is left out.

    In a block the most frequent answer wins, and it is as right as the share of correct samples
    among those that gave it; of answers that are equally frequent each wins equally often. None is
    no answer and has no vote. A block without any answer is wrong.
    """
    starts = range(0, len(answers) - k + 1, k)
    votes = [_vote(answers[at : at + k], correct[at : at + k]) for at in starts]
    return sum(votes) / len(votes)


def _vote(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    counts = Counter(answer for answer in answers if answer is not None)
    most = max(counts.values(), default=0)
    won = [
        right
        for answer, right in zip(answers, correct, strict=True)
        if answer is not None and counts[answer] == most
    ]
    return sum(won) / len(won) if won else 0.0


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to `most`."""
    return [2**exponent for exponent in range(most.bit_length())]


def result_of(scored: ScoredGroup, read_answer: ReadAnswer | None = None) -> ProblemResult:
    """Return the result of a problem; with a reader of answers, also of votes among them."""
    problem, texts = scored.group.problem, [each.text for each in scored.group.completions]
    correct = [score.correct for score in scored.scores]
    majority = {}
    if read_answer is not None:
        answers = [read_answer(text) for text in texts]
        majority = {k: maj_at_k(answers, correct, k) for k in powers_of_two(len(answers))[1:]}
    return ProblemResult(
        key=problem.key,
        source=problem.source,
        level=problem.level,
        correct=sum(correct),
        samples=len(correct),
        masked=sum(score.error is not None for score in scored.scores),
        majority=majority,
    )


def read_result(row: Mapping[str, Any]) -> ProblemResult:
    """Return a result from the row that it was written as; raises what a wrong row raises."""
    level, *counts = (row[name] for name in ("level", "correct", "samples", "masked"))
    correct, samples, masked = counts
    if not all(type(count) is int for count in counts) or samples < 1:
        raise ValueError(f"correct={correct!r}, masked={masked!r}, samples={samples!r}")
    if not (0 <= correct <= samples and 0 <= masked <= samples):
        raise ValueError(f"correct={correct} and masked={masked} of samples={samples}")
    if isinstance(level, list | dict) or level is None:
        raise ValueError(f"level={level!r}")
    return ProblemResult(
        key=str(row["key"]),
        source=str(row["source"]),
        level=level,
        correct=correct,
        samples=samples,
        masked=masked,
        majority={int(k): float(share) for k, share in row.get("majority", {}).items()},
    )


def estimates(results: Sequence[ProblemResult]) -> dict[str, PassRate]:
    """Return pass@k for the powers of two up to the samples that every problem has, and maj@k from
    k = 2 on where every problem has a vote of so many; pass@1 is the pass rate."""
    ks = powers_of_two(min(result.samples for result in results))
    passes = {
        f"pass@{k}": pass_rate([pass_at_k(r.correct, r.samples, k) for r in results]) for k in ks
    }
    votes = {
        f"maj@{k}": pass_rate([result.majority[k] for result in results])
        for k in ks
        if all(k in result.majority for result in results)
    }
    return passes | votes


def by_level(results: Iterable[ProblemResult]) -> dict[Level, list[ProblemResult]]:
    """Return the results of each level, numbers before names; a number that one source writes as
    text is the same level."""
    levels: dict[str, Level] = {}
    grouped: dict[str, list[ProblemResult]] = {}
    for result in results:
        levels[str(result.level)] = result.level
        grouped.setdefault(str(result.level), []).append(result)
    in_order = sorted(levels, key=level_order)
    return {levels[name]: grouped[name] for name in in_order}


def buckets(results: Sequence[ProblemResult]) -> list[Bucket]:
    """Return each level of each source, behind those of a source all of it where there are several
    sources, and last of all everything."""
    sources = list(dict.fromkeys(result.source for result in results))
    found = []
    for source in sources:
        own = tuple(result for result in results if result.source == source)
        levels = by_level(own).items()
        found += [Bucket(source=source, level=k, results=tuple(each)) for k, each in levels]
        if len(sources) > 1:
            found.append(Bucket(source=source, level=None, results=own))
    return [*found, Bucket(source=None, level=None, results=tuple(results))]


def difference(pairs: Sequence[tuple[ProblemResult, ProblemResult]]) -> Difference:
    """Compare two results of each problem: d is b's rate less a's, problem by problem.

    The interval is mean(d) +- t s / sqrt(N), s the standard deviation (N - 1) of d, and t the
    0.975 quantile of Student's distribution with N - 1 degrees of freedom.
    """
    rate = pass_rate([b.rate - a.rate for a, b in pairs])
    num = len(pairs)
    margin = float(stdtrit(num - 1, _UPPER)) * rate.standard_error if num > 1 else None
    return Difference(
        num_problems=num,
        a=pass_rate([a.rate for a, _ in pairs]).mean,
        b=pass_rate([b.rate for _, b in pairs]).mean,
        difference=rate.mean,
        standard_error=None if margin is None else rate.standard_error,
        low=None if margin is None else rate.mean - margin,
        high=None if margin is None else rate.mean + margin,
        higher_a=sum(a.rate > b.rate for a, b in pairs),
        higher_b=sum(b.rate > a.rate for a, b in pairs),
    )
