"""Notice that the model loses what it had.

Legend: K buckets.
"""

from dataclasses import dataclass

import numpy as np

from rl_llm.curriculum.belief import BetaBelief, check_range
from rl_llm.curriculum.pool import Outcomes, PoolIndex, StateDict

MOST_DEVIATIONS = 2.0
"""A round counts as at most so many standard deviations below what was expected.

Where nearly all is solved, the few wrong completions come in clumps: a single group that is all
wrong may lie ten deviations out by mere chance. With this bound it takes several bad rounds.
"""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A bucket does worse than was believed of it.

    The rates are shares of correct ones among `num_completions`, those since the evidence began to
    pile up; `step` is the one that made it enough.
    """

    bucket_id: int
    bucket_name: str
    expected_rate: float
    observed_rate: float
    num_completions: int
    step: int

    @property
    def message(self) -> str:
        """What to tell the user."""
        return (
            f"{self.bucket_name}: {100 * self.observed_rate:.0f} % of {self.num_completions} "
            f"completions correct where {100 * self.expected_rate:.0f} % were expected: the model "
            "is losing what it had; what has retired of it is reviewed more often"
        )


class RegressionDetector:
    """A one-sided cumulative sum (CUSUM; Page 1954) for every bucket.

    With z the number of correct completions of a round, less what was expected, in standard
    deviations and at least -`MOST_DEVIATIONS`:

        S = max(0, S - z - slack)

    and a regression when S > threshold; then S starts again from 0. Mean and variance are those of
    beta-binomial counts under the beliefs of before the round, summed over its problems: n mu and
    n mu (1 - mu) (a + b + n) / (a + b + 1). Simulated with calibrated beliefs, a bucket has a false
    alarm about every 1,500 rounds that show it, and every 750 at worst.
    """

    def __init__(self, index: PoolIndex, *, slack: float = 0.5, threshold: float = 5.0) -> None:
        """Start without evidence.

        `slack` is half the fall, in standard deviations of a round, that is to be found soonest.
        Raises `ConfigError` for a parameter out of range.
        """
        check_range("slack", slack, least=0.0, most=MOST_DEVIATIONS / 2)
        check_range("threshold", threshold, above=0.0)
        self._index = index
        self._slack = slack
        self._threshold = threshold
        self._sum_K = np.zeros(index.num_buckets)
        # Over the excursion, the rounds since S was 0: expected correct, correct, completions.
        self._excursion_3K = np.zeros((3, index.num_buckets))

    def observe(self, outcomes: Outcomes, expected: BetaBelief) -> list[Regression]:
        """Return the regressions that a round shows.

        `expected` holds the beliefs about `outcomes.indices` as they were before they learnt from
        this round.
        """
        bucket_ids = self._index.bucket_ids[outcomes.indices]
        a, b = np.asarray(expected.a, np.float64), np.asarray(expected.b, np.float64)
        n, strength = outcomes.num_counted, a + b
        mean = a / strength
        variance = n * mean * (1.0 - mean) * (strength + n) / (strength + 1.0)
        weights = (n * mean, outcomes.num_correct, n, variance)
        expected_K, correct_K, counted_K, variance_K = (
            np.bincount(bucket_ids, weight, minlength=self._index.num_buckets) for weight in weights
        )
        seen = np.flatnonzero(variance_K > 0)
        z = (correct_K[seen] - expected_K[seen]) / np.sqrt(variance_K[seen])
        z = np.maximum(z, -MOST_DEVIATIONS)
        self._sum_K[seen] = np.maximum(self._sum_K[seen] - z - self._slack, 0.0)
        self._excursion_3K += [expected_K, correct_K, counted_K]
        self._excursion_3K[:, self._sum_K == 0.0] = 0.0
        found = np.flatnonzero(self._sum_K > self._threshold)
        regressions = [self._describe(bucket_id, outcomes.step) for bucket_id in found.tolist()]
        self._sum_K[found] = 0.0
        self._excursion_3K[:, found] = 0.0
        return regressions

    def _describe(self, bucket_id: int, step: int) -> Regression:
        expected, correct, completions = self._excursion_3K[:, bucket_id].tolist()
        return Regression(
            bucket_id=bucket_id,
            bucket_name=self._index.bucket_names[bucket_id],
            expected_rate=expected / completions,
            observed_rate=correct / completions,
            num_completions=int(completions),
            step=step,
        )

    def state_dict(self) -> StateDict:
        """Return the evidence of every bucket that has some, by its name."""
        rows = np.vstack([self._sum_K, self._excursion_3K]).T.tolist()
        names = self._index.bucket_names
        piles = {name: row for name, row in zip(names, rows, strict=True) if row[0]}
        return {"columns": {}, "rest": {"piles": piles}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the evidence; a bucket that the state does not know starts without."""
        piles = state["rest"]["piles"]
        for bucket, name in enumerate(self._index.bucket_names):
            self._sum_K[bucket], *excursion = piles.get(name, (0.0, 0.0, 0.0, 0.0))
            self._excursion_3K[:, bucket] = excursion
