"""The baseline that every other sampler has to beat."""

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.memory import NOT_NOW, in_open_buckets
from rl_llm.seeds import derive_rng


class Uniform:
    """Epochs of a seeded permutation: every problem once, then every problem once in another order.

    A step that crosses the end of an epoch takes no problem twice; what it passes over keeps its
    turn in the new epoch.
    """

    def __init__(self, *, index: PoolIndex, seed: int) -> None:
        """Start before the first problem of epoch 0."""
        self._index = index
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
            self._drawn_N[in_open_buckets(self._index, exclude)] = False
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

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say how many problems of the epoch come before this one."""
        if exclude[position]:
            return NOT_NOW
        if self._drawn_N[position]:
            return f"it had its turn in epoch {self._epoch}; the next one is in another order"
        left = self._order_N[~(self._drawn_N | exclude)[self._order_N]]
        place = int(np.flatnonzero(left == position)[0])
        return f"it comes after {place} of the {len(left)} problems left in epoch {self._epoch}"

    def observe(self, outcomes: Outcomes) -> None:
        """Learn nothing: the order is fixed."""

    def state_dict(self) -> StateDict:
        """Return the epoch and which problems it has drawn."""
        return {"columns": {"drawn": self._drawn_N.copy()}, "rest": {"epoch": self._epoch}}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on within the epoch; new problems have their turn in it."""
        self._drawn_N[:] = state["columns"]["drawn"]
        self._begin_epoch(state["rest"]["epoch"])
