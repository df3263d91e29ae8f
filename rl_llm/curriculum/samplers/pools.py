"""Three pools by the last group's pass rate: hard, normal and easy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.draw import draw_parts, draw_without_replacement
from rl_llm.curriculum.samplers.memory import NOT_NOW, remarks_on_endless, remembered
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.errors import ConfigError
from rl_llm.seeds import derive_rng

POOLS = ("unseen", "hard", "normal", "easy")
_MOST = np.iinfo(np.uint16).max


class Pools:
    """Draw in proportion to the weight of a problem's pool: the difficulty pools of prime-rl.

    The share of correct completions in a problem's last group puts it into `hard` (at most
    `hard_most`), `normal` (at most `normal_most`) or `easy`. A problem without a counted group
    weighs 1, and so does every problem of an endless bucket. Problems are drawn without
    replacement, so a step never holds one twice.

    Memory: 4 bytes a problem.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        hard_most: float = 0.25,
        normal_most: float = 0.75,
        hard_weight: float = 0.2,
        normal_weight: float = 1.0,
        easy_weight: float = 0.2,
    ) -> None:
        """Start with every problem unseen.

        Raises `ConfigError` for an option out of range. A weight is above 0: a problem of weight 0
        would never come back.
        """
        check_range("hard_most", hard_most, least=0.0, most=1.0)
        check_range("normal_most", normal_most, least=0.0, most=1.0)
        if hard_most > normal_most:
            raise ConfigError(
                f"hard_most={hard_most} with normal_most={normal_most}: must not be the larger one"
            )
        for name, weight in (("hard", hard_weight), ("normal", normal_weight)):
            check_range(f"{name}_weight", weight, above=0.0)
        check_range("easy_weight", easy_weight, above=0.0)
        self._index = index
        self._seed = seed
        self._bounds = (hard_most, normal_most)
        self._weights = np.array([1.0, hard_weight, normal_weight, easy_weight])
        self._correct_N = np.zeros(index.num_problems, np.uint16)
        self._counted_N = np.zeros(index.num_problems, np.uint16)

    def remarks(self) -> list[str]:
        """Say which sources are drawn evenly."""
        return remarks_on_endless(self._index)

    def plan(
        self,
        step: int,
        num_problems: int,
        *,
        round: int = 0,
        exclude: NDArray[np.bool_] | None = None,
    ) -> Indices:
        """Return problems drawn by their weights without replacement."""
        weights_N = self._weights_at(slice(None))
        if exclude is not None:
            weights_N[exclude] = 0.0
        rng = derive_rng(self._seed, "sampler", step, round)
        return draw_without_replacement(weights_N, num_problems, rng=rng)

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return problems of each part drawn by their weights without replacement."""
        return draw_parts(parts, self._weights_at, seed=self._seed, step=step, round=round)

    def _weights_at(self, where: Indices | slice) -> Floats:
        weights: Floats = self._weights[self._pools(where)]
        return weights

    def _pools(self, where: Indices | slice) -> NDArray[np.int64]:
        """Return the pool of each problem at `where`, as a position in `POOLS`."""
        counted = self._counted_N[where]
        shares = self._correct_N[where] / np.maximum(counted, 1)
        pools = 1 + np.searchsorted(self._bounds, shares)  # a share on a bound is below it
        return np.where(counted > 0, pools, 0)

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say which pool a problem is in, and why."""
        if exclude[position]:
            return NOT_NOW
        (pool,) = self._pools(np.array([position]))
        weight = f"weight {self._weights[pool]:g}"
        if pool == 0:
            return f"pool {POOLS[pool]}: no group of it was scored; {weight}"
        share = self._correct_N[position] / self._counted_N[position]
        return f"pool {POOLS[pool]}: its last group had {share:.2f} correct; {weight}"

    def observe(self, outcomes: Outcomes) -> None:
        """Remember the last group of each problem."""
        own = remembered(outcomes, self._index)
        assert own.num_counted.max(initial=0) <= _MOST, "a group of more than 65,535 completions"
        self._correct_N[own.indices] = own.num_correct
        self._counted_N[own.indices] = own.num_counted

    def state_dict(self) -> StateDict:
        """Return the last group of each problem."""
        columns = {"correct": self._correct_N.copy(), "counted": self._counted_N.copy()}
        return {"columns": columns, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the last groups."""
        self._correct_N[:] = state["columns"]["correct"]
        self._counted_N[:] = state["columns"]["counted"]
