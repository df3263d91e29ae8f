"""What every sampler promises.

A sampler is a class whose keyword-only arguments are its options in the recipe. Beside them it may
name any of `index` (a `PoolIndex`), `seed`, `group_size`, `belief` (a `PoolBelief`, which has
learnt from a round before the sampler observes it) and `divides_by_group` (whether the algorithm
divides advantages by their group's standard deviation); the program supplies those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, StateDict


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
        """Return the positions of distinct problems to draw, none where `exclude` (N) is True.

        `round` numbers the calls of a step from 0, so that each has its own randomness. A step
        calls more than once to refill, and to fill the quotas of its sources one by one.

        Fewer than `num_problems` come back only when no others are left: a step never holds a
        problem twice.
        """
        ...

    def observe(self, outcomes: Outcomes) -> None:
        """Learn from one round, before anything is dropped from it."""
        ...

    def state_dict(self) -> StateDict:
        """Return everything that later plans depend on."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned, for the same or an edited pool."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A part of the pool of which `count` problems are asked for.

    `eligible` holds the positions that may be drawn, in the order of the pool.
    """

    count: int
    eligible: Indices


class PartsSampler(Sampler, Protocol):
    """A sampler that also plans for several small parts of the pool at once, such as buckets, and
    looks at no problem outside them."""

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return what `plan` promises for each part by itself, the first as round `round`, the
        next as the one after it, and so on; the parts have no problem in common."""
        ...


def plans_parts(sampler: Any) -> TypeGuard[PartsSampler]:
    """Tell whether a sampler plans for parts by the rule of its `plan`: a class that has a `plan`
    of its own must be asked through that, whatever it inherits beside it."""
    owner = next((cls for cls in type(sampler).__mro__ if "plan" in vars(cls)), object)
    return "plan_parts" in vars(owner)
