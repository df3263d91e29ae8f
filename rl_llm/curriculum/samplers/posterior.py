"""The default sampler: draw where a group will probably teach something."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import (
    BetaBelief,
    Floats,
    PoolBelief,
    check_range,
    informative_probability,
)
from rl_llm.curriculum.beta import SomeFloats
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.draw import draw_without_replacement
from rl_llm.curriculum.samplers.memory import NOT_NOW, eligible_positions
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.errors import ConfigError
from rl_llm.seeds import derive_rng

_CHUNK = 1 << 15  # Problems scored at a time, so that intermediate values stay in the cache.
_HEADROOM = 0.5  # The power of 1 - E[p].
_LEAST_SCORE = 1e-200  # Keeps the last resort possible: a draw of everything draws everything.


class Posterior:
    """Draw problems by the probability that their group will teach something.

    The score of a problem is `informative_probability` of its belief (see `PoolBelief`) times a
    kernel, raised to 1/`temperature`. A draw takes a problem with probability
    `(1 - floor) score / sum of scores + floor / N`, so none is ever given up; problems are drawn
    without replacement by Gumbel-top-k. The kernel matches the advantage: where advantages are
    divided by the group's standard deviation (GRPO) every mixed group moves the policy as far, and
    `headroom`, the root of 1 - E[p], says how much the problem still has to gain; where they are
    not (Dr. GRPO), `variance`, the expected p(1-p), is how far it moves. `flat` asks for mixed
    groups alone. A group of one is never mixed, and only algorithms without a group's baseline take
    it: there the score is the kernel `variance` alone.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        group_size: int,
        belief: PoolBelief,
        divides_by_group: bool = True,
        kernel: Literal["flat", "variance", "headroom"] | None = None,
        temperature: float = 0.25,
        floor: float = 0.1,
    ) -> None:
        """Score by `belief`. `divides_by_group` says which kernel None is: whether advantages are
        divided by the group's standard deviation.

        Raises `ConfigError` for an option out of range, and for the kernels `flat` and `headroom`
        with groups of one.
        """
        check_range("temperature", temperature, above=0.0)
        check_range("floor", floor, least=0.0, most=1.0)
        self._num_problems = index.num_problems
        self._seed = seed
        self._group_size = group_size
        self._belief = belief
        if group_size == 1 and kernel in {"flat", "headroom"}:
            raise ConfigError(
                f"kernel={kernel} with rollout.group_size=1: one completion is never a mixed "
                "group, and without that this kernel does not tell what teaches; use "
                "kernel=variance, leave it out, or take the sampler uniform"
            )
        divides = divides_by_group and group_size > 1
        self._kernel = KERNELS[kernel or ("headroom" if divides else "variance")]
        self._temperature = temperature
        self._floor = floor

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return problems drawn without replacement, most preferred first."""
        eligible = eligible_positions(self._num_problems, exclude)
        shares = self._shares(eligible, exclude)
        return eligible[self._draw(shares, num_problems, step, round)]

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return for each part problems drawn as `plan` does, with one look at the pool for all."""
        scores_N = self._scores_within(parts)
        chosen = []
        for number, part in enumerate(parts):
            shares = self._as_shares(scores_N[part.eligible])
            drawn = self._draw(shares, part.count, step, round + number)
            chosen.append(part.eligible[drawn])
        return chosen

    def _scores_within(self, parts: Sequence[Part]) -> Floats:
        """Return scores (N) that hold for the positions of some parts."""
        if sum(len(part.eligible) for part in parts) > self._num_problems // 2:
            return self._scores(range(self._num_problems))
        within_N = np.zeros(self._num_problems, np.bool_)
        for part in parts:
            within_N[part.eligible] = True
        scores_N = np.empty(self._num_problems)
        scores_N[within_N] = self._scores(np.flatnonzero(within_N))
        return scores_N

    def _draw(self, shares: Floats, count: int, step: int, round: int) -> Indices:
        rng = derive_rng(self._seed, "sampler", step, round)
        return draw_without_replacement(shares, count, rng=rng)

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say how likely a problem is to be drawn next, and how that compares."""
        eligible = eligible_positions(self._num_problems, exclude)
        shares = self._shares(eligible, exclude)
        own = shares[eligible == position]
        if not own.size:
            return NOT_NOW
        rank = int(np.count_nonzero(shares > own[0])) + 1
        belief = self._belief.beta(np.array([position]))
        if self._group_size == 1:
            why = f"the expected p(1-p) of its pass rate is {_variance(belief)[0]:.3f}"
        else:
            mixed = informative_probability(belief.a, belief.b, group_size=self._group_size)
            why = f"its group would be mixed with probability {mixed[0]:.2f}"
        return (
            f"{why}; the first draw takes it with probability {own[0]:.4f}, rank "
            f"{rank} of {len(eligible)} (an even share is {1 / len(eligible):.4f})"
        )

    def _shares(self, eligible: Indices, exclude: NDArray[np.bool_] | None) -> Floats:
        """Return the probability of every eligible problem, one that is not excluded, to be the
        first one drawn."""
        if not eligible.size:
            return np.empty(0)
        if exclude is not None and eligible.size <= self._num_problems // 2:
            scores = self._scores(eligible)
        else:  # Quicker to read the pool in place, and then to pick.
            scores = self._scores(range(self._num_problems))
            scores = scores if exclude is None else scores[~exclude]
        return self._as_shares(scores)

    def _as_shares(self, scores: Floats) -> Floats:
        """Turn scores into the probabilities to be the first one drawn, in place."""
        scores /= max(scores.max(), _LEAST_SCORE)
        _raise_to(scores, 1.0 / self._temperature)
        np.maximum(scores, _LEAST_SCORE, out=scores)
        scores *= (1.0 - self._floor) / scores.sum()
        scores += self._floor / scores.size
        return scores

    def _scores(self, positions: Indices | range) -> Floats:
        """Return the scores, before the temperature, of the whole pool or of some positions."""
        scores = np.empty(len(positions))
        for start in range(0, len(positions), _CHUNK):
            chunk = slice(start, min(start + _CHUNK, len(positions)))
            belief = self._belief.beta(chunk if isinstance(positions, range) else positions[chunk])
            scores[chunk] = self._score(belief)
        return scores

    def _score(self, belief: BetaBelief) -> SomeFloats | float:
        """Return the kernel times the probability of a mixed group, where there are groups."""
        if self._group_size == 1:
            return self._kernel(belief)
        informative = informative_probability(belief.a, belief.b, group_size=self._group_size)
        return informative * self._kernel(belief)

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing: the belief has learnt already."""

    def state_dict(self) -> StateDict:
        """Return nothing: the belief is saved by its owner, and the draws need nothing else."""
        return {"columns": {}, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over nothing."""


def _raise_to(values: Floats, exponent: float) -> None:
    """Raise values in place; to a whole small exponent by multiplication, which is much faster."""
    if exponent not in (1.0, 2.0, 4.0, 8.0):
        values **= exponent
        return
    while exponent > 1.0:
        values *= values
        exponent /= 2.0


def _flat(belief: BetaBelief) -> Floats | float:
    return 1.0


def _variance(belief: BetaBelief) -> Floats:
    """E[p(1-p)] = ab / ((a+b)(a+b+1))."""
    strength = belief.a + belief.b
    return np.asarray(belief.a * belief.b / (strength * (strength + 1.0)), np.float64)


def _headroom(belief: BetaBelief) -> Floats:
    return np.asarray((belief.b / (belief.a + belief.b)) ** _HEADROOM, np.float64)


KERNELS = {"flat": _flat, "variance": _variance, "headroom": _headroom}
