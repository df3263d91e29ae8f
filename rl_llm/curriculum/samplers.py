"""Which prompts a step draws.

A sampler is a class whose keyword-only arguments are its options in the recipe, beside `index`,
`seed` and `group_size`, which the program supplies.
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import (
    BetaBelief,
    Floats,
    PoolBelief,
    check_range,
    informative_probability,
)
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.seeds import derive_rng

_CHUNK = 1 << 15  # Problems scored at a time, so that intermediate values stay in the cache.
_LEAST_SCORE = 1e-200  # Keeps the last resort possible: a draw of everything draws everything.


class Sampler(Protocol):
    """Chooses problems, and learns from what came of them.

    All randomness is derived from the seed, the step and the round, and whatever else is remembered
    is in the state, so a resumed run draws the same.
    """

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return the positions of distinct problems to draw in this round of this step, none where
        `exclude` (N) is True.

        Fewer than `num_problems` come back only when no others are left: a step never holds a
        problem twice.
        """
        ...

    def observe(self, outcomes: Outcomes) -> None:
        """Learn from one round, before anything is dropped from it."""
        ...

    def beliefs(self, indices: Indices | None = None) -> Floats | None:
        """Return the expected pass rate of the given problems (all N without), or None if the
        sampler keeps no beliefs."""
        ...

    def state_dict(self) -> StateDict:
        """Return everything that later plans depend on."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned, for the same or an edited pool."""
        ...


class Uniform:
    """Epochs of a seeded permutation: every problem once, then every problem once in another order.

    A step that crosses the end of an epoch takes no problem twice; what it passes over keeps its
    turn in the new epoch.
    """

    def __init__(self, *, index: PoolIndex, seed: int, group_size: int) -> None:
        """Start before the first problem of epoch 0; the group size plays no part."""
        self._seed = seed
        self._drawn_N = np.zeros(index.num_problems, np.bool_)
        self._begin_epoch(0)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        rng = derive_rng(self._seed, "sampler", "epoch", epoch)
        self._order_N: Indices = rng.permutation(len(self._drawn_N))

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return the next problems of the epoch, going on to the next epoch where it ends."""
        taken_N = np.zeros_like(self._drawn_N) if exclude is None else exclude.copy()
        chosen = self._take(num_problems, taken_N)
        if len(chosen) < num_problems and not taken_N.all():
            self._drawn_N[:] = False
            self._begin_epoch(self._epoch + 1)
            rest = self._take(num_problems - len(chosen), taken_N)
            chosen = np.concatenate([chosen, rest])
        return chosen

    def _take(self, count: int, taken_N: NDArray[np.bool_]) -> Indices:
        """Return and mark the first `count` problems of the epoch that are neither drawn nor
        taken."""
        order_N = self._order_N
        chosen = order_N[~(self._drawn_N | taken_N)[order_N]][:count]
        self._drawn_N[chosen] = taken_N[chosen] = True
        return chosen

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing: the order is fixed."""

    def beliefs(self, indices: Indices | None = None) -> Floats | None:
        """Return None."""
        return None

    def state_dict(self) -> StateDict:
        """Return the epoch and which problems it has drawn."""
        return {"columns": {"drawn": self._drawn_N.copy()}, "rest": {"epoch": self._epoch}}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on within the epoch; new problems have their turn in it."""
        self._drawn_N[:] = state["columns"]["drawn"]
        self._begin_epoch(state["rest"]["epoch"])


class Posterior:
    """Draw prompts by the probability that their group will teach something.

    The score of a problem is `informative_probability` of its belief (see `PoolBelief`) times a
    kernel, raised to 1/`temperature`. A draw takes a problem with probability
    `(1 - floor) score / sum of scores + floor / N`, so none is ever given up; problems are drawn
    without replacement by Gumbel-top-k. The kernel follows the advantage: `flat` where advantages
    are divided by the group's standard deviation (GRPO), `variance`, the expected p(1-p), where
    they are not (Dr. GRPO).
    """

    def __init__(  # noqa: PLR0913 - the options of one part of a recipe are a flat list.
        self,
        *,
        index: PoolIndex,
        seed: int,
        group_size: int,
        kernel: Literal["flat", "variance"] = "flat",
        temperature: float = 0.25,
        floor: float = 0.1,
        prior_strength: float = 3.0,
        visit_decay: float = 0.9,
        bucket_decay: float = 0.9,
        max_drift: float = 2.0,
    ) -> None:
        """Start with the prior belief everywhere.

        Raises `ConfigError` for an option out of range.
        """
        check_range("temperature", temperature, above=0.0)
        check_range("floor", floor, least=0.0, most=1.0)
        self._num_problems = index.num_problems
        self._seed = seed
        self._group_size = group_size
        self._kernel = KERNELS[kernel]
        self._temperature = temperature
        self._floor = floor
        self._belief = PoolBelief(
            index,
            prior_strength=prior_strength,
            visit_decay=visit_decay,
            bucket_decay=bucket_decay,
            max_drift=max_drift,
        )

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return problems drawn without replacement, most preferred first."""
        probabilities_N = self._probabilities(exclude)
        rng = derive_rng(self._seed, "sampler", step, round)
        return _draw_without_replacement(probabilities_N, num_problems, rng=rng)

    def _probabilities(self, exclude: NDArray[np.bool_] | None) -> Floats:
        """Return the probability (N) of every problem to be the first one drawn."""
        scores_N = self._scores()
        eligible_N = np.ones(self._num_problems)
        if exclude is not None:
            scores_N[exclude] = eligible_N[exclude] = 0.0
        num_eligible = eligible_N.sum()
        if num_eligible == 0:
            return eligible_N
        uniform_N: Floats = eligible_N * (self._floor / num_eligible)
        scores_N *= (1.0 - self._floor) / scores_N.sum()
        return scores_N + uniform_N

    def _scores(self) -> Floats:
        """Return the score (N) of every problem as a share of the highest, never quite 0."""
        scores_N = np.empty(self._num_problems)
        for start in range(0, self._num_problems, _CHUNK):
            where = slice(start, start + _CHUNK)
            belief = self._belief.beta(where)
            informative = informative_probability(belief.a, belief.b, group_size=self._group_size)
            scores_N[where] = informative * self._kernel(belief)
        scores_N /= max(scores_N.max(), _LEAST_SCORE)
        sharpened_N: Floats = scores_N ** (1.0 / self._temperature)
        return np.maximum(sharpened_N, _LEAST_SCORE)

    def observe(self, outcomes: Outcomes) -> None:
        """Update the beliefs of the drawn problems and of their buckets."""
        self._belief.observe(outcomes)

    def beliefs(self, indices: Indices | None = None) -> Floats | None:
        """Return the mean of the beliefs."""
        belief = self._belief.beta(slice(None) if indices is None else indices)
        return np.asarray(belief.mean)

    def state_dict(self) -> StateDict:
        """Return the beliefs; the draws need nothing else."""
        return self._belief.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the beliefs."""
        self._belief.load_state_dict(state)


def _draw_without_replacement(
    probabilities_N: Floats, count: int, *, rng: np.random.Generator
) -> Indices:
    """Draw up to `count` positions one after the other, each in proportion to its probability among
    those left; those of probability 0 never.

    Gumbel-top-k: the largest log p + Gumbel. As -Gumbel is the log of a standard exponential, this
    is the smallest exponential / p, which needs no logarithms.
    """
    arrival_N = np.full(len(probabilities_N), np.inf)
    noise_N = rng.standard_exponential(len(probabilities_N))
    np.divide(noise_N, probabilities_N, out=arrival_N, where=probabilities_N > 0)
    count = min(count, int(np.count_nonzero(probabilities_N)))
    if count == 0:
        return np.empty(0, np.int64)
    first = np.argpartition(arrival_N, count - 1)[:count]
    return first[np.argsort(arrival_N[first], kind="stable")]


def _flat(belief: BetaBelief) -> Floats | float:
    return 1.0


def _variance(belief: BetaBelief) -> Floats | float:
    """E[p(1-p)] = ab / ((a+b)(a+b+1))."""
    strength = belief.a + belief.b
    return belief.a * belief.b / (strength * (strength + 1.0))


KERNELS = {"flat": _flat, "variance": _variance}
