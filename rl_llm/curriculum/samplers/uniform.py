"""The baseline that every other sampler has to beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.epoch import EpochOrder
from rl_llm.curriculum.samplers.memory import NOT_NOW, in_buckets_of, in_open_sources
from rl_llm.curriculum.samplers.protocol import Part


class Uniform:
    """Epochs of a seeded permutation: every problem once, then every problem once in another order.

    A step that crosses the end of an epoch takes no problem twice; what it passes over keeps its
    turn in the new epoch.

    Memory: 9 bytes a problem, and 4 more once parts of the pool are planned for.
    """

    def __init__(self, *, index: PoolIndex, seed: int) -> None:
        """Start before the first problem of epoch 0."""
        self._index = index
        self._drawn_N = np.zeros(index.num_problems, np.bool_)
        self._order = EpochOrder(index.num_problems, seed=seed)

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
        chosen = self._take(num_problems, self._order.without(self._drawn_N | taken_N))
        taken_N[chosen] = True
        if len(chosen) < num_problems and not taken_N.all():
            self._drawn_N[in_open_sources(self._index, exclude)] = False
            self._order.begin(self._order.epoch + 1)
            turns = self._order.without(self._drawn_N | taken_N)
            rest = self._take(num_problems - len(chosen), turns)
            chosen = np.concatenate([chosen, rest])
        return chosen

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return for each part its next problems of the epoch; the epoch ends for a part alone."""
        return [self._plan_part(part) for part in parts]

    def _plan_part(self, part: Part) -> Indices:
        turns = self._order.sort(part.eligible[~self._drawn_N[part.eligible]])
        chosen = self._take(part.count, turns)
        if len(chosen) < min(part.count, len(part.eligible)):
            self._drawn_N[in_buckets_of(self._index, part.eligible)] = False
            self._order.begin(self._order.epoch + 1)
            left = np.setdiff1d(part.eligible, chosen, assume_unique=True)
            rest = self._take(part.count - len(chosen), self._order.sort(left))
            chosen = np.concatenate([chosen, rest])
        return chosen

    def _take(self, count: int, turns: Indices) -> Indices:
        """Return and mark the first `count` of problems that stand in the order of the epoch."""
        chosen = turns[:count]
        self._drawn_N[chosen] = True
        return chosen

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say how many problems of the epoch come before this one."""
        if exclude[position]:
            return NOT_NOW
        epoch = self._order.epoch
        if self._drawn_N[position]:
            return f"it had its turn in epoch {epoch}; the next one is in another order"
        left = self._order.without(self._drawn_N | exclude)
        place = int(np.flatnonzero(left == position)[0])
        return f"it comes after {place} of the {len(left)} problems left in epoch {epoch}"

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing: the order is fixed."""

    def state_dict(self) -> StateDict:
        """Return the epoch and which problems it has drawn."""
        return {"columns": {"drawn": self._drawn_N.copy()}, "rest": {"epoch": self._order.epoch}}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on within the epoch; new problems have their turn in it."""
        self._drawn_N[:] = state["columns"]["drawn"]
        self._order.begin(state["rest"]["epoch"])
