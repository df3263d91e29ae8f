"""Levels that wait until others are solved.

Legend: N problems, K buckets (source x level).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from rl_llm.curriculum.belief import Floats, PoolBelief
from rl_llm.curriculum.pool import PoolIndex, StateDict
from rl_llm.errors import ConfigError, nearest
from rl_llm.records import Level, level_order

OPEN_RATE = 0.5
"""A parent counts as solved when its pass rate is above this ..."""

OPEN_CERTAINTY = 0.8
"""... with more than this probability, under the belief about its bucket."""

Parents = Literal["in_order"] | Mapping[Level, Sequence[Level]]

_LOCKED = -1


class Prerequisites:
    """Keeps a level locked until all its parents, levels of the same source, are solved.

    A parent is solved when P(p > `OPEN_RATE`) > `OPEN_CERTAINTY` under `PoolBelief.bucket_beta`,
    in which the completions of one problem are not taken for independent evidence. Levels without
    parents are open from the start; what is open stays open. `in_order` makes each level the parent
    of the next: numbers by value, then names in order of appearance.

    Raises `ConfigError` for a source or a level that the pool does not have, `in_order` for a
    source of one level, a level that is its own parent, and levels that wait for each other.
    """

    def __init__(
        self, index: PoolIndex, belief: PoolBelief, parents: Mapping[str, Parents]
    ) -> None:
        """Lock every level to which `parents`, by source, gives a parent.

        A level in a recipe means the level of the pool that is written alike, be it a number or a
        string.
        """
        self._index = index
        self._belief = belief
        self._parents: dict[int, list[int]] = {}
        self._orders: list[str] = []
        for source, declared in parents.items():
            if source not in index.bucket_sources:
                raise ConfigError(
                    f"curriculum.prerequisites.{source}: data.train has no source {source!r}"
                    f"{nearest(source, set(index.bucket_sources))}"
                )
            of_source = (
                _in_order(index, source)
                if isinstance(declared, str)
                else _declared(index, source, declared)
            )
            if isinstance(declared, str) and (order := _named_order(index, of_source)):
                self._orders.append(f"curriculum.prerequisites.{source}={declared!r}: {order}")
            _check_acyclic(index, source, of_source)
            self._parents |= {level: above for level, above in of_source.items() if above}
        self._opened_step_K = np.zeros(index.num_buckets, np.int64)
        self._opened_step_K[list(self._parents)] = _LOCKED
        self.observe(0)  # Priors may say that levels are solved.

    @property
    def orders(self) -> Sequence[str]:
        """What is to be said of sources whose levels are names, in an order that is a guess."""
        return self._orders

    def locked(self) -> NDArray[np.bool_]:
        """Return which problems (N) belong to a locked level."""
        locked_K = self._opened_step_K == _LOCKED
        if not locked_K.any():
            return np.zeros(self._index.num_problems, np.bool_)
        locked_N: NDArray[np.bool_] = locked_K.take(self._index.bucket_ids)
        return locked_N

    def observe(self, step: int) -> None:
        """Open the levels whose parents are solved, after the belief has learnt."""
        solved_K = self._certainty_K() > OPEN_CERTAINTY
        for bucket, above in self._parents.items():
            if self._opened_step_K[bucket] == _LOCKED and solved_K[above].all():
                self._opened_step_K[bucket] = step

    def _certainty_K(self) -> Floats:
        """Return P(p > OPEN_RATE) for every bucket."""
        belief = self._belief.bucket_beta()
        certainty_K: Floats = 1.0 - betainc(belief.a, belief.b, OPEN_RATE)
        return certainty_K

    def status(self, bucket: int) -> str:
        """Say whether a bucket, by its position, is open, and what it waits for if not."""
        opened_step = self._opened_step_K[bucket]
        if opened_step != _LOCKED:
            return f"open since step {opened_step}" if opened_step else "open"
        certainty_K = self._certainty_K()
        waits = ", ".join(
            f"{self._index.bucket_names[parent]} (now {certainty_K[parent]:.2f})"
            for parent in self._parents[bucket]
        )
        return f"locked: opens when P(p > {OPEN_RATE}) > {OPEN_CERTAINTY} for {waits}"

    def metrics(self) -> dict[str, float]:
        """Return how many buckets are locked."""
        return {"curriculum/locked_buckets": float(np.sum(self._opened_step_K == _LOCKED))}

    def state_dict(self) -> StateDict:
        """Return the step in which each level with parents was opened, by bucket name."""
        opened = {
            self._index.bucket_names[bucket]: int(self._opened_step_K[bucket])
            for bucket in self._parents
            if self._opened_step_K[bucket] != _LOCKED
        }
        return {"columns": {}, "rest": {"opened_step": opened}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what is open; a level that the state does not know starts locked if it has
        parents."""
        opened = state["rest"]["opened_step"]
        for bucket in self._parents:
            self._opened_step_K[bucket] = opened.get(self._index.bucket_names[bucket], _LOCKED)


def _levels(index: PoolIndex, source: str) -> dict[Level, int]:
    """Return the bucket of every level of a source, in order of appearance."""
    return {
        level: bucket
        for bucket, level in enumerate(index.bucket_levels)
        if index.bucket_sources[bucket] == source
    }


def _in_order(index: PoolIndex, source: str) -> dict[int, list[int]]:
    """Return the parents of every bucket of a source when each level follows the one before."""
    levels = _levels(index, source)
    if len(levels) == 1:
        raise ConfigError(
            f"curriculum.prerequisites.{source}='in_order': data.train has level "
            f"{next(iter(levels))} alone of {source}, so nothing would wait; give it more levels, "
            f"or leave {source} out of curriculum.prerequisites"
        )
    ordered = sorted(levels, key=lambda level: level_order(level)[:2])  # Names as they appear.
    return {levels[level]: [levels[before]] for before, level in pairwise(ordered)}


def _named_order(index: PoolIndex, in_order: Mapping[int, Sequence[int]]) -> str:
    """Say in which order levels open, the first of which has no parent; empty where all are
    numbers."""
    (first,) = next(iter(in_order.values()))
    levels = [index.bucket_levels[bucket] for bucket in (first, *in_order)]
    if not any(level_order(level)[0] for level in levels):
        return ""
    return f"levels open in this order: {', '.join(map(str, levels))} (names as they appear)"


def _declared(
    index: PoolIndex, source: str, declared: Mapping[Level, Sequence[Level]]
) -> dict[int, list[int]]:
    """Return the parents of buckets as a recipe names them."""
    buckets = {str(level): bucket for level, bucket in _levels(index, source).items()}
    path = f"curriculum.prerequisites.{source}"

    def find(level: Level) -> int:
        if str(level) not in buckets:
            raise ConfigError(
                f"{path}: {source} has no level {level!r}{nearest(str(level), buckets)}"
            )
        return buckets[str(level)]

    found: dict[int, list[int]] = {}
    for level, above in declared.items():
        if str(level) in map(str, above):
            raise ConfigError(
                f"{path}.{level}: level {level} is its own parent, so it would never open; take it "
                "out of its list"
            )
        found.setdefault(find(level), []).extend(map(find, above))
    return found


def _check_acyclic(index: PoolIndex, source: str, parents: Mapping[int, Sequence[int]]) -> None:
    """Refuse levels that wait for each other: take away what can open until nothing more can."""
    waiting = {bucket: set(above) for bucket, above in parents.items()}
    while openable := [bucket for bucket, above in waiting.items() if not above & waiting.keys()]:
        for bucket in openable:
            del waiting[bucket]
    if not waiting:
        return
    trail = [min(waiting)]
    while (following := min(waiting[trail[-1]] & waiting.keys())) not in trail:
        trail.append(following)
    cycle = [*trail[trail.index(following) :], following]
    raise ConfigError(
        f"curriculum.prerequisites.{source}: levels wait for each other, so none would open: "
        f"{' waits for '.join(str(index.bucket_levels[bucket]) for bucket in cycle)}; remove one "
        "of these parents"
    )
