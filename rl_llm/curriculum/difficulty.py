"""What a data set says about the difficulty of its problems, put to use by what comes of them.

Legend: N problems of the training pool, K buckets, S sources.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats
from rl_llm.curriculum.beta import design_effect
from rl_llm.curriculum.pool import Outcomes, PoolIndex, StateDict
from rl_llm.records import Problem

COLUMN = "difficulty"

_MAX_NEWTON_STEPS = 20


class DifficultySlopes:
    """Learns, for each source, how the logit of the pass rate falls or rises with difficulty.

    A problem's difficulty z is standardised over its source and then centred in its bucket, for
    what a whole bucket has in common is the bucket's own pass rate; a problem without one has
    z = 0. In a source with slope beta, a problem of a bucket with logit m has the prior logit

        m + beta z

    Each source's beta starts as a Gaussian with mean 0 and deviation `prior_deviation`, and learns
    by Bayesian logistic regression, m being given: the mean becomes the most likely slope, the
    precision the curvature there (Laplace's approximation; Spiegelhalter and Lauritzen 1990).
    Before it learns, its evidence is discounted by `decay`.

    It learns from the first group of every problem alone. Later ones were chosen by what the
    problem itself had shown, near one half whatever its difficulty, and would flatten the slope.
    The completions of a group share what difficulty does not tell of their problem, so they count
    for fewer than they are: by the `design_effect` of pass rates spread like a Beta of
    `prior_strength`.

    Memory: 4 bytes a problem.
    """

    def __init__(
        self,
        index: PoolIndex,
        difficulty_N: NDArray[np.float32],
        *,
        prior_strength: float = 3.0,
        prior_deviation: float = 1.0,
        decay: float = 0.98,
    ) -> None:
        """`difficulty_N` is in whatever unit each source has, NaN where a problem has none."""
        self._index = index
        self._sources = tuple(dict.fromkeys(index.bucket_sources))
        position = {source: number for number, source in enumerate(self._sources)}
        self._source_ids_K = np.array([position[s] for s in index.bucket_sources], np.int64)
        self._z_N = _standardised(index, self._source_ids_K, difficulty_N)
        self._prior_strength = prior_strength
        self._prior_precision = prior_deviation**-2.0
        self._decay = decay
        self._slope_S = np.zeros(len(self._sources))
        self._precision_S = np.full(len(self._sources), self._prior_precision)

    @classmethod
    def of(
        cls, index: PoolIndex, problems: Sequence[Problem], *, prior_strength: float
    ) -> "DifficultySlopes | None":
        """Read `Problem.meta["difficulty"]`, where it is a number; None if no problem has one."""
        values = [problem.meta.get(COLUMN) for problem in problems]
        if not any(map(_is_number, values)):
            return None
        difficulty_N = [value if _is_number(value) else math.nan for value in values]
        return cls(index, np.array(difficulty_N, np.float32), prior_strength=prior_strength)

    @property
    def z_N(self) -> NDArray[np.float32]:
        """The difficulty (N) as it is regressed on: z above. With `slope_K` it is what
        `PoolBelief.set_offsets` takes."""
        return self._z_N

    @property
    def slope_K(self) -> Floats:
        """The slope (K) of each bucket, which is its source's: logits of pass rate for each
        standard deviation of difficulty."""
        return self._slope_S[self._source_ids_K]

    def observe(self, outcomes: Outcomes, *, bucket_logits_K: Floats) -> None:
        """Learn from the first groups of problems that a round shows, after the belief has;
        `bucket_logits_K` are the belief's."""
        shown = outcomes.where((outcomes.num_counted > 0) & (self._z_N[outcomes.indices] != 0))
        bucket_ids = self._index.bucket_ids[shown.indices]
        source_ids = self._source_ids_K[bucket_ids]
        seen_S = np.bincount(source_ids, minlength=len(self._sources)) > 0
        information_S = self._decay * self._precision_S * self._slope_S
        self._precision_S[seen_S] *= self._decay
        self._precision_S[seen_S] += (1.0 - self._decay) * self._prior_precision
        self._slope_S = np.where(seen_S, information_S / self._precision_S, self._slope_S)
        self._climb(shown, source_ids, bucket_logits_K[bucket_ids])

    def _climb(
        self, shown: Outcomes, source_ids: NDArray[np.int64], intercepts: NDArray[np.float64]
    ) -> None:
        """Move to the most likely slopes by Newton's method, and take over the curvature there."""
        z = self._z_N[shown.indices].astype(np.float64)
        mean_S, precision_S = self._slope_S.copy(), self._precision_S.copy()
        num_S = len(self._sources)
        effect = design_effect(self._prior_strength, shown.num_counted)
        correct, counted = shown.num_correct / effect, shown.num_counted / effect
        for _ in range(_MAX_NEWTON_STEPS):
            rates = 1.0 / (1.0 + np.exp(-intercepts - self._slope_S[source_ids] * z))
            surprise = z * (correct - counted * rates)
            weight = z * z * counted * rates * (1.0 - rates)
            prior_pull_S = precision_S * (mean_S - self._slope_S)
            pull_S = np.bincount(source_ids, surprise, num_S) + prior_pull_S
            self._precision_S = precision_S + np.bincount(source_ids, weight, num_S)
            step_S = np.clip(pull_S / self._precision_S, -1.0, 1.0)
            self._slope_S = self._slope_S + step_S
            if np.abs(step_S).max() < 1e-9:
                return

    def state_dict(self) -> StateDict:
        """Return slope and precision of each source, by name; offsets follow from them."""
        facts_S = zip(self._slope_S.tolist(), self._precision_S.tolist(), strict=True)
        return {
            "columns": {},
            "rest": {"slopes": dict(zip(self._sources, facts_S, strict=True))},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the slopes; a source that the state does not know starts anew."""
        for position, source in enumerate(self._sources):
            known = state["rest"]["slopes"].get(source, (0.0, self._prior_precision))
            self._slope_S[position], self._precision_S[position] = known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _standardised(
    index: PoolIndex, source_ids_K: NDArray[np.int64], difficulty_N: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return difficulties in standard deviations of their source, centred in their bucket; 0 where
    there is none, in an endless bucket, and where a source or a bucket has one difficulty alone."""
    known = np.flatnonzero(np.isfinite(difficulty_N) & ~index.endless_K[index.bucket_ids])
    values, bucket_ids = difficulty_N[known].astype(np.float64), index.bucket_ids[known]
    source_ids = source_ids_K[bucket_ids]
    magnitude_S = np.sqrt(_means(source_ids, values**2))
    values = _centred(source_ids, values)
    deviation_S = np.sqrt(_means(source_ids, values**2))
    varies_S = deviation_S > 1e-6 * magnitude_S  # Else a constant, but for rounding.
    scale_S = np.where(varies_S, 1.0 / np.where(varies_S, deviation_S, 1.0), 0.0)
    z_N = np.zeros(index.num_problems, np.float32)
    z_N[known] = _centred(bucket_ids, values * scale_S[source_ids])
    return z_N


def _centred(ids: NDArray[np.integer], values: Floats) -> Floats:
    centred: Floats = values - _means(ids, values)[ids]
    return centred


def _means(ids: NDArray[np.integer], values: Floats) -> Floats:
    """Return the mean of the values of each id, 0 for an id without any."""
    means: Floats = np.bincount(ids, values) / np.maximum(np.bincount(ids), 1)
    return means
