"""The order in which samplers that go through the pool in epochs take it."""

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices
from rl_llm.seeds import derive_rng


class EpochOrder:
    """A seeded permutation of the pool for every epoch.

    Memory: 8 bytes a problem, and 4 more once `sort` was called.
    """

    def __init__(self, num_problems: int, *, seed: int) -> None:
        """Begin epoch 0."""
        self._num_problems = num_problems
        self._seed = seed
        self.begin(0)

    @property
    def epoch(self) -> int:
        """The number of the epoch, from 0."""
        return self._epoch

    def begin(self, epoch: int) -> None:
        """Go over to the order of another epoch."""
        self._epoch = epoch
        rng = derive_rng(self._seed, "sampler", "epoch", epoch)
        self._order_N: Indices = rng.permutation(self._num_problems)
        self._rank_N: NDArray[np.int32] | None = None

    def without(self, left_out_N: NDArray[np.bool_]) -> Indices:
        """Return the pool in the order of the epoch, without those where `left_out_N` is True."""
        return self._order_N[~left_out_N[self._order_N]]

    def sort(self, positions: Indices) -> Indices:
        """Return some positions in the order of the epoch; quicker where they are few."""
        if self._rank_N is None:
            self._rank_N = np.empty(self._num_problems, np.int32)
            self._rank_N[self._order_N] = np.arange(self._num_problems, dtype=np.int32)
        return positions[np.argsort(self._rank_N[positions])]
