"""What is believed about the model's pass rate on every prompt.

Legend: N problems, K buckets. A *belief* is a Beta(a, b) distribution over a prompt's pass rate p;
its *strength* is a + b, counted in completions.
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.errors import ConfigError, InputError

Floats = NDArray[np.float64]

_FACTORS_PER_LOG = 8  # Products of 8 factors stay finite up to factors of 1e38, and logs are dear.
_LARGEST = sys.float_info.max


@dataclass(frozen=True, eq=False)
class BetaBelief:
    """Beta(a, b) over a pass rate: one belief, or one for each element of two arrays of one shape.

    Raises `InputError` unless every a and b is above 0.
    """

    a: Floats | float
    b: Floats | float

    def __post_init__(self) -> None:
        """Check that both parameters are positive."""
        for name, values in (("a", np.asarray(self.a)), ("b", np.asarray(self.b))):
            if values.size and not values.min() > 0:
                raise InputError(f"BetaBelief {name}={values.min()}: must be above 0")

    @property
    def mean(self) -> Floats | float:
        """The expected pass rate, a / (a + b)."""
        mean: Floats | float = self.a / (self.a + self.b)
        return mean


def informative_probability(a: ArrayLike, b: ArrayLike, *, group_size: int) -> Floats:
    """Return the probability that a group of `group_size` completions holds both a correct and a
    wrong one, under Beta(a, b) beliefs.

    The beta-binomial closed form, elementwise and computed in logs:
    `1 - prod_{j<G} (a+j)/(a+b+j) - prod_{j<G} (b+j)/(a+b+j)`. For a belief that is sure of p it is
    1 - p^G - (1-p)^G; for G = 1 it is 0. Raises `InputError` for a group size below 1.
    """
    if group_size < 1:
        raise InputError(f"group_size={group_size}: a group has at least 1 completion")
    a64, b64 = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if group_size == 1:
        return np.zeros(np.broadcast_shapes(a64.shape, b64.shape))
    log_total = _log_rising(a64 + b64, group_size)
    log_all_correct = _log_rising(a64, group_size) - log_total
    log_all_wrong = _log_rising(b64, group_size) - log_total
    mixed: Floats = -np.expm1(log_all_wrong) - np.exp(log_all_correct)
    return np.maximum(mixed, 0.0)


def _log_rising(x: Floats, count: int) -> Floats:
    """Return the logarithm of the product of x, x + 1, and so on up to x + count - 1."""
    total = np.zeros_like(x)
    for start in range(0, count, _FACTORS_PER_LOG):
        product = x + start
        for j in range(start + 1, min(start + _FACTORS_PER_LOG, count)):
            product = product * (x + j)
        total = total + np.log(product)
    return total


class PoolBelief:
    """A discounted Beta for every prompt of a pool, shrunk to its bucket and carried along with it.

    With m the bucket's pass rate, kappa `prior_strength`, lambda `visit_decay` and age counted in
    visits of the prompt:

        a = kappa m + sum lambda^age s,   b = kappa (1 - m) + sum lambda^age (G - s)

    m is (correct + 1/2) / (counted + 1) over the bucket's completions, both discounted by
    `bucket_decay` for each step that shows the bucket, so it is 1/2 until the bucket is seen.

    The model learns while a prompt waits, so an old belief is too hard. Each prompt therefore
    remembers its bucket's logit as of its last visit; the belief of that visit moves by the drift
    of that logit since, and keeps its strength. Evidence moves by at most `max_drift` either way
    (at 0 the formula above holds as it stands), and is rebased in the same way at the next visit,
    before it is discounted. A prompt that was never visited has the bucket's own belief.

    The bucket's rate is that of the prompts that were drawn, not of all prompts in the bucket.
    Memory: 12 bytes a prompt beside the index.
    """

    def __init__(
        self,
        index: PoolIndex,
        *,
        prior_strength: float,
        visit_decay: float,
        bucket_decay: float,
        max_drift: float,
    ) -> None:
        """Start without evidence.

        Raises `ConfigError` for a parameter out of range.
        """
        check_range("prior_strength", prior_strength, above=0.0)
        check_range("visit_decay", visit_decay, least=0.0, most=1.0)
        check_range("bucket_decay", bucket_decay, least=0.0, most=1.0)
        check_range("max_drift", max_drift, least=0.0, most=10.0)
        self._index = index
        self._prior_strength = prior_strength
        self._visit_decay = visit_decay
        self._bucket_decay = bucket_decay
        self._max_drift = max_drift
        self._correct_N = np.zeros(index.num_problems, np.float32)
        self._wrong_N = np.zeros(index.num_problems, np.float32)
        self._visit_logit_N = np.zeros(index.num_problems, np.float32)
        self._correct_K = np.zeros(index.num_buckets)
        self._counted_K = np.zeros(index.num_buckets)
        self._step_K = np.full(index.num_buckets, -1, np.int64)

    def bucket_rates(self) -> Floats:
        """Return the current pass rate of every bucket (K), strictly between 0 and 1."""
        rates: Floats = (self._correct_K + 0.5) / (self._counted_K + 1.0)
        return rates

    def beta(self, where: Indices | slice) -> BetaBelief:
        """Return today's beliefs about the problems at `where`."""
        bucket_odds = _odds(self.bucket_rates())[self._index.bucket_ids[where]]
        drift_odds = np.clip(
            bucket_odds * np.exp(-self._visit_logit_N[where]),
            np.exp(-self._max_drift),
            np.exp(self._max_drift),
        )
        visit_rate = bucket_odds / (bucket_odds + drift_odds)  # odds at the visit: bucket / drift
        a = self._prior_strength * visit_rate + self._correct_N[where]
        b = self._prior_strength * (1.0 - visit_rate) + self._wrong_N[where]
        moved_a = a * drift_odds
        scale = (a + b) / (moved_a + b)
        return BetaBelief(moved_a * scale, b * scale)

    def observe(self, outcomes: Outcomes) -> None:
        """Learn from one round; problems without a counted completion are left as they were."""
        seen = outcomes.num_counted > 0
        where, step = outcomes.indices[seen], outcomes.step
        correct, counted = outcomes.num_correct[seen], outcomes.num_counted[seen]
        self._observe_buckets(self._index.bucket_ids[where], correct, counted, step)
        before = self.beta(where)
        rates = self.bucket_rates()[self._index.bucket_ids[where]]
        old_correct = np.maximum(before.a - self._prior_strength * rates, 0.0)
        old_wrong = np.maximum(before.b - self._prior_strength * (1.0 - rates), 0.0)
        self._correct_N[where] = self._visit_decay * old_correct + correct
        self._wrong_N[where] = self._visit_decay * old_wrong + (counted - correct)
        self._visit_logit_N[where] = np.log(_odds(rates))

    def _observe_buckets(
        self,
        bucket_ids: NDArray[np.int32],
        correct: NDArray[np.int64],
        counted: NDArray[np.int64],
        step: int,
    ) -> None:
        """Add a round's counts to its buckets; those that this step shows for the first time are
        discounted before."""
        new_counted_K = np.bincount(bucket_ids, counted, minlength=self._index.num_buckets)
        faded_K = (new_counted_K > 0) & (self._step_K != step)
        for totals_K, new in ((self._correct_K, correct), (self._counted_K, counted)):
            totals_K[faded_K] *= self._bucket_decay
            totals_K += np.bincount(bucket_ids, new, minlength=self._index.num_buckets)
        self._step_K[faded_K] = step

    def state_dict(self) -> StateDict:
        """Return copies of all evidence, buckets by name."""
        facts_K = zip(
            self._correct_K.tolist(), self._counted_K.tolist(), self._step_K.tolist(), strict=True
        )
        return {
            "columns": {
                "belief_correct": self._correct_N.copy(),
                "belief_wrong": self._wrong_N.copy(),
                "belief_visit_logit": self._visit_logit_N.copy(),
            },
            "rest": {"buckets": dict(zip(self._index.bucket_names, facts_K, strict=True))},
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the evidence; a bucket that the state does not know stays unseen."""
        self._correct_N[:] = state["columns"]["belief_correct"]
        self._wrong_N[:] = state["columns"]["belief_wrong"]
        self._visit_logit_N[:] = state["columns"]["belief_visit_logit"]
        for position, name in enumerate(self._index.bucket_names):
            correct, counted, step = state["rest"]["buckets"].get(name, (0.0, 0.0, -1))
            self._correct_K[position] = correct
            self._counted_K[position] = counted
            self._step_K[position] = step


def check_range(
    name: str,
    value: float,
    *,
    least: float = -_LARGEST,
    most: float = _LARGEST,
    above: float | None = None,
) -> None:
    """Raise `ConfigError` unless `value` is finite, `least <= value <= most` and, if `above` is
    given, `value > above`."""
    if above is not None and not value > above:
        raise ConfigError(f"{name}={value}: must be above {above:g}")
    if not least <= value <= most:
        rule = f"at least {least:g}" if most == _LARGEST else f"from {least:g} to {most:g}"
        raise ConfigError(f"{name}={value}: must be {rule}")


def _odds(rates: Floats) -> Floats:
    return rates / (1.0 - rates)
