"""Weights by a bell curve over a running average of pass rates."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.samplers.draw import draw_parts, draw_without_replacement
from rl_llm.curriculum.samplers.memory import NOT_NOW, remarks_on_endless, remembered
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.seeds import derive_rng

_START = 0.5  # The average of a problem that was never seen.
_LEAST_WEIGHT = 1e-200  # A very narrow bell still draws everything when everything is asked for.


class Gaussian:
    """Draw in proportion to exp(-(p~ - `target`)^2 / (2 `width`^2)): the Gaussian curriculum of
    FG-ExPO, arXiv:2605.11403.

    p~ is the running average of a problem's pass rate, p~ <- m p~ + (1 - m) p with m `momentum`,
    and starts at 0.5; problems of an endless bucket stay there. Problems are drawn without
    replacement.

    Memory: 4 bytes a problem.
    """

    def __init__(
        self,
        *,
        index: PoolIndex,
        seed: int,
        target: float = 0.5,
        width: float = 0.35,
        momentum: float = 0.9,
    ) -> None:
        """Start every average at 0.5.

        Raises `ConfigError` for an option out of range.
        """
        check_range("target", target, least=0.0, most=1.0)
        check_range("width", width, above=0.0)
        check_range("momentum", momentum, least=0.0, most=1.0)
        self._index = index
        self._seed = seed
        self._target = target
        self._width = width
        self._momentum = momentum
        self._offset_N = np.zeros(index.num_problems, np.float32)  # p~ - 0.5

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
        weights_N = self._weights(slice(None))
        if exclude is not None:
            weights_N[exclude] = 0.0
        rng = derive_rng(self._seed, "sampler", step, round)
        return draw_without_replacement(weights_N, num_problems, rng=rng)

    def plan_parts(self, step: int, parts: Sequence[Part], *, round: int = 0) -> list[Indices]:
        """Return problems of each part drawn by their weights without replacement."""
        return draw_parts(parts, self._weights, seed=self._seed, step=step, round=round)

    def _weights(self, where: Indices | slice) -> Floats:
        offsets = self._offset_N[where].astype(np.float64) + (_START - self._target)
        weights: Floats = np.exp(-0.5 * (offsets / self._width) ** 2)
        return np.maximum(weights, _LEAST_WEIGHT)

    def explain(self, position: int, *, exclude: NDArray[np.bool_]) -> str:
        """Say what a problem's average and weight are."""
        if exclude[position]:
            return NOT_NOW
        (weight,) = self._weights(np.array([position]))
        average = _START + self._offset_N[position]
        return f"its average pass rate is {average:.2f}; weight {weight:.2f} of at most 1"

    def observe(self, outcomes: Outcomes) -> None:
        """Move the average of each problem towards its group's pass rate."""
        own = remembered(outcomes, self._index)
        offsets = own.num_correct / own.num_counted - _START
        old = self._momentum * self._offset_N[own.indices]
        self._offset_N[own.indices] = old + (1.0 - self._momentum) * offsets

    def state_dict(self) -> StateDict:
        """Return how far each average is from where it started."""
        return {"columns": {"offset": self._offset_N.copy()}, "rest": {}}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the averages."""
        self._offset_N[:] = state["columns"]["offset"]
