"""Controllers that follow the number of steps done, and nothing else.

Legend: s steps done (0 in the first step), t = total_steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rl_llm.errors import ConfigError
from rl_llm.kl.controllers import KLFacts, check_beta


class _Schedule(ABC):
    """Counts steps; a schedule says what beta is after so many."""

    _steps_done = 0

    @abstractmethod
    def _beta_after(self, steps_done: int) -> float: ...

    @property
    def beta(self) -> float:
        """The coefficient at the number of steps done so far."""
        return self._beta_after(self._steps_done)

    def observe(self, facts: KLFacts) -> None:
        """Count the step."""
        self._steps_done = facts.step

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done."""
        return {"steps_done": self._steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the number of steps done."""
        self._steps_done = int(state["steps_done"])


class GrpoD(_Schedule):
    """The dynamic KL of GRPO-D: from the middle down to `min`, then up to `max`.

    With mid = (min + max) / 2 and w = valley * t, beta is mid - (mid - min) s / w for s <= w, then
    min + (max - min)(s - w) / (t - w) (OThink-MR1, arXiv:2503.16081, equation 3).
    """

    needs_reference = True

    def __init__(
        self, *, min: float = 0.0, max: float = 0.02, valley: float = 0.3, total_steps: int
    ) -> None:
        """Refuse bounds out of order and a valley outside (0, 1)."""
        _check_range(min, max)
        if not 0 < valley < 1:
            raise ConfigError(
                f"valley={valley} is the share of the run after which beta is lowest; use more "
                "than 0 and less than 1, such as 0.3"
            )
        self._low, self._high = min, max
        self._bottom_step, self._total_steps = valley * total_steps, total_steps

    def _beta_after(self, steps_done: int) -> float:
        middle = (self._low + self._high) / 2
        if steps_done <= self._bottom_step:
            return middle - (middle - self._low) * steps_done / self._bottom_step
        climbed = (steps_done - self._bottom_step) / (self._total_steps - self._bottom_step)
        return self._low + (self._high - self._low) * min(climbed, 1.0)


class GrpoDRising(_Schedule):
    """What the prose of OThink-MR1 says of its dynamic KL, unlike its equation 3: beta starts
    small and grows.

    beta = min + (max - min) s / t.
    """

    needs_reference = True

    def __init__(self, *, min: float = 0.0, max: float = 0.02, total_steps: int) -> None:
        """Refuse bounds out of order."""
        _check_range(min, max)
        self._low, self._high, self._total_steps = min, max, total_steps

    def _beta_after(self, steps_done: int) -> float:
        return self._low + (self._high - self._low) * min(steps_done / self._total_steps, 1.0)


class Linear(_Schedule):
    """On a straight line from `start` to `end` over `over` steps (None: the whole run), then
    `end`."""

    def __init__(
        self, *, start: float, end: float, over: int | None = None, total_steps: int
    ) -> None:
        """Refuse negative ends and a length below one step."""
        self._start, self._end = start, end
        self._over = _checked_length(start, end, over, total_steps)
        self.needs_reference = max(start, end) > 0

    def _beta_after(self, steps_done: int) -> float:
        return self._start + (self._end - self._start) * min(steps_done / self._over, 1.0)


class Cosine(_Schedule):
    """On half a cosine from `start` to `end` over `over` steps (None: the whole run), then `end`:
    slow at both ends, fastest in the middle."""

    def __init__(
        self, *, start: float, end: float, over: int | None = None, total_steps: int
    ) -> None:
        """Refuse negative ends and a length below one step."""
        self._start, self._end = start, end
        self._over = _checked_length(start, end, over, total_steps)
        self.needs_reference = max(start, end) > 0

    def _beta_after(self, steps_done: int) -> float:
        done = (1 - math.cos(math.pi * min(steps_done / self._over, 1.0))) / 2
        return self._start * (1 - done) + self._end * done


def _check_range(low: float, high: float) -> None:
    if not 0 <= low < high < math.inf:
        raise ConfigError(f"min={low} and max={high}: use 0 <= min < max")


def _checked_length(start: float, end: float, over: int | None, total_steps: int) -> int:
    """Return over how many steps a ramp goes, its ends being sound."""
    check_beta("start", start)
    check_beta("end", end)
    if over is not None and over < 1:
        raise ConfigError(f"over={over} steps is no length; use 1 or more, or null for the run's")
    return total_steps if over is None else over
