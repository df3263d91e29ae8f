"""By how much pass rates have moved since they were believed, by maximum likelihood.

Legend: K buckets, R problems of one round.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solveh_banded

from rl_llm.curriculum.beta import Floats
from rl_llm.curriculum.pool import Indices, PoolIndex
from rl_llm.records import Level, level_order

_MOST_STEPS, _PRECISION = 40, 1e-10
_GAIN_DECAY = 0.97  # What remains of what is known of a gain, a step.
_LEAST_INFORMATION = 8.0  # Of what is known of a gain: a deviation of about 1/3 logit.
_LEFT_OUT = 0.1  # Logits.


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Completions that were counted and correct, and the logits at which they were believed."""

    logits: Floats
    counted: ArrayLike
    correct: ArrayLike


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """By how many logits buckets (K) moved, and the gain; `information` is what the round tells of
    the gain where buckets are known, the inverse of its variance."""

    bucket_K: Floats
    gain: float
    information: float


class Neighbours:
    """Which buckets move alike: levels of one source that are numbers, each with the next higher.

    In a round the difference of their moves has the prior N(0, 1 / coupling). The shift of a bucket
    that a round shows is its move and what was not known of it before, so the difference of two
    shifts varies by that much more, see `loosened`.
    """

    def __init__(self, index: PoolIndex, *, coupling: float) -> None:
        """With `coupling` 0 every bucket moves by itself."""
        levels, sources = index.bucket_levels, index.bucket_sources
        order = sorted(range(index.num_buckets), key=lambda k: (sources[k], level_order(levels[k])))
        alike = [
            sources[low] == sources[high] and _is_number(levels[low]) and _is_number(levels[high])
            for low, high in pairwise(order)
        ]
        self._order_K = np.array(order, np.int64)
        self._coupling = coupling * np.array(alike, np.float64)
        self.coupled_K = np.zeros(index.num_buckets, np.bool_)
        """Which buckets have a neighbour."""
        self.coupled_K[self._order_K[:-1][self._coupling > 0]] = True
        self.coupled_K[self._order_K[1:][self._coupling > 0]] = True

    def __bool__(self) -> bool:
        """Say whether any bucket has a neighbour."""
        return bool(self.coupled_K.any())

    def loosened(self, variance_K: Floats) -> "Neighbours":
        """Return these neighbours where shifts vary by `variance_K` beside their moves."""
        apart = variance_K[self._order_K[:-1]] + variance_K[self._order_K[1:]]
        found = copy(self)
        found._coupling = self._coupling / (1.0 + self._coupling * apart)
        return found

    def pull(self, shift_K: Floats) -> Floats:
        """Return how strongly the prior pulls the shifts (K) towards those of their neighbours: the
        gradient of its logarithm."""
        apart = self._coupling * np.diff(shift_K[self._order_K])
        pulled_K = np.zeros_like(shift_K)
        pulled_K[self._order_K[:-1]] += apart
        pulled_K[self._order_K[1:]] -= apart
        return pulled_K

    def solve(self, weight_K: Floats, columns: Floats) -> Floats:
        """Solve (diag(weight) + the prior's precision) x = columns (K, C) for x."""
        if not self:
            return columns / weight_K[:, None]
        bands = np.zeros((2, len(weight_K)))
        bands[0, 1:] = -self._coupling
        bands[1] = weight_K[self._order_K]
        bands[1, :-1] += self._coupling
        bands[1, 1:] += self._coupling
        found = np.empty_like(columns)
        found[self._order_K] = solveh_banded(bands, columns[self._order_K])
        return found


class Gain:
    """By how many logits a problem rises by being learnt from, beyond its bucket: one number for
    the pool, found from how such problems do when they are seen again.

    It is never negative, so what a model loses is told from buckets. Of what is found, a tenth of a
    logit is left out: about so much is found where nothing is gained, since what is learnt from are
    the groups that were mixed, and beliefs about the others err towards 0 and 1.
    """

    def __init__(self, *, most: float) -> None:
        """Start at 0; it stays at or below `most`."""
        self.most = most
        self.information = _LEAST_INFORMATION
        self._found = 0.0
        self._step = -1

    @property
    def logits(self) -> float:
        """What is believed."""
        return min(max(self._found - _LEFT_OUT, 0.0), self.most)

    @property
    def unused(self) -> float:
        """What was found beyond what is believed."""
        return self._found - self.logits

    @property
    def odds(self) -> np.float32:
        """The factor by which odds rise."""
        return np.float32(np.exp(self.logits))

    def begin(self, step: int) -> None:
        """Forget, before the first round of a step that shows problems that were learnt from."""
        if self._step < step:
            self.information = max(_GAIN_DECAY * self.information, _LEAST_INFORMATION)
            self._step = step

    def learn(self, found: Shifts) -> None:
        """Take what a round has shown."""
        self._found = min(max(self.logits + found.gain, 0.0), self.most + _LEFT_OUT)
        self.information += found.information

    def state(self) -> list[float]:
        """Return all that is remembered."""
        return [self._found, self.information, self._step]

    def take(self, state: Sequence[float]) -> None:
        """Take over what `state` returned."""
        self._found, self.information = min(state[0], self.most + _LEFT_OUT), state[1]
        self._step = int(state[2])


def find_shifts(
    seen: Seen,
    bucket_ids: Indices,
    learnt: NDArray[np.bool_],
    *,
    known: Seen,
    neighbours: Neighbours,
    gain: Gain,
) -> Shifts:
    """Return the shifts d (K) that make the outcomes of a round most likely, and the gain g that
    does where it is free.

    Problem i of bucket k is believed at `seen.logits` and moved to that + d_k, and where it was
    `learnt` from since + g too. `known` (K) is what buckets have shown before, which moves by d
    alone; d has the prior of `neighbours`, loosened by what is not known of the buckets that the
    round shows, and g has N(gain.unused, 1 / gain.information). The d that are returned are those
    at g = 0: what a round shows moves buckets until the gain has been found in many.
    """
    num_K = len(known.logits)
    rates_K = 1.0 / (1.0 + np.exp(-known.logits))
    shown_K = np.bincount(bucket_ids, minlength=num_K) > 0
    known_K = np.asarray(known.counted, np.float64) * rates_K * (1.0 - rates_K)
    trials = _Trials(
        logits=np.concatenate([seen.logits, known.logits]),
        counted=np.concatenate([seen.counted, known.counted]),
        correct=np.concatenate([seen.correct, known.correct]),
        ids=np.concatenate([bucket_ids, np.arange(num_K)]),
        neighbours=neighbours.loosened(shown_K / known_K),
    )
    nothing = np.zeros(len(trials.ids))
    found = _most_likely(trials, nothing, mean=gain.unused, information=gain.information)
    if not learnt.any():
        return found
    is_learnt = np.concatenate([learnt, np.zeros(num_K, np.bool_)]).astype(np.float64)
    free = _most_likely(trials, is_learnt, mean=gain.unused, information=gain.information)
    return replace(free, bucket_K=found.bucket_K)


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Completions of a round, and those that buckets have shown before, each with its bucket."""

    logits: Floats
    counted: Floats
    correct: Floats
    ids: Indices
    neighbours: Neighbours


def _most_likely(trials: _Trials, is_learnt: Floats, *, mean: float, information: float) -> Shifts:
    """Return the shifts and the gain where the posterior is highest; `is_learnt` is 1 where the
    gain moves a trial, and 0 elsewhere.

    Its logarithm is concave; Newton's method finds the top, with the d eliminated from each step.
    """
    ids, num_K = trials.ids, int(trials.ids[-1]) + 1
    shift_K, gain, own = np.zeros(num_K), 0.0, 0.0
    for _ in range(_MOST_STEPS):
        rates = 1.0 / (1.0 + np.exp(-trials.logits - shift_K[ids] - gain * is_learnt))
        surprise = trials.correct - trials.counted * rates
        weight = trials.counted * rates * (1.0 - rates)
        surprise_K = np.bincount(ids, surprise, num_K) + trials.neighbours.pull(shift_K)
        both_K = np.bincount(ids, weight * is_learnt, num_K)
        weight_K: Floats = np.bincount(ids, weight, num_K).astype(np.float64)
        solved = trials.neighbours.solve(weight_K, np.stack([surprise_K, both_K], axis=1))
        own = float(both_K.sum())
        left = is_learnt @ surprise - information * (gain - mean) - both_K @ solved[:, 0]
        step = float(np.clip(left / (own + information - both_K @ solved[:, 1]), -1.0, 1.0))
        step_K = np.clip(solved[:, 0] - step * solved[:, 1], -1.0, 1.0)
        gain, shift_K = gain + step, shift_K + step_K
        if max(np.abs(step_K).max(initial=0.0), abs(step)) < _PRECISION:
            break
    return Shifts(bucket_K=shift_K, gain=gain, information=own)


def _is_number(level: Level) -> bool:
    return not level_order(level)[0]
