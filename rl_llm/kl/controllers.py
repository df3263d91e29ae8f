"""Controllers of the KL coefficient, beta: one small class each, with state for checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rl_llm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KLFacts:
    """What a controller may learn from one update.

    `ref_nats_per_token` and `ref_nats_per_response` are the divergence from the reference,
    `old_nats_per_token` that from the policy that the update started from. `accuracy` is the share
    of correct completions; `step` has just ended, of `total_steps`.
    """

    ref_nats_per_token: float
    ref_nats_per_response: float
    old_nats_per_token: float
    accuracy: float
    step: int
    total_steps: int


class KLController(Protocol):
    """Decides beta for the next step from the facts of the last."""

    @property
    def beta(self) -> float:
        """The coefficient that the next update uses."""
        ...

    @property
    def needs_reference(self) -> bool:
        """False when beta is 0 for ever, so that no reference is computed."""
        ...

    def observe(self, facts: KLFacts) -> None:
        """Move beta after an update."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned."""
        ...


class Constant:
    """The same beta at every step; 0 computes no reference at all."""

    def __init__(self, *, beta: float = 0.0, total_steps: int) -> None:
        """Refuse a negative beta."""
        if beta < 0:
            raise ConfigError(f"beta={beta} rewards divergence; use 0 or more")
        self.beta = beta
        self.needs_reference = beta > 0

    def observe(self, facts: KLFacts) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a constant has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept nothing."""


class GrpoD:
    """The dynamic KL of GRPO-D: from the middle down to `min`, then up to `max`.

    With mid = (min + max) / 2, w = valley * total_steps and s steps done, beta is
    mid - (mid - min) s / w for s <= w, then min + (max - min)(s - w) / (total_steps - w)
    (OThink-MR1, arXiv:2503.16081, equation 3).
    """

    needs_reference = True

    def __init__(
        self, *, min: float = 0.0, max: float = 0.02, valley: float = 0.3, total_steps: int
    ) -> None:
        """Refuse bounds out of order and a valley outside (0, 1)."""
        if not 0 <= min < max:
            raise ConfigError(f"min={min} and max={max}: use 0 <= min < max")
        if not 0 < valley < 1:
            raise ConfigError(
                f"valley={valley} is the share of the run at the lowest beta; use 0 to 1"
            )
        self._low, self._high, self._valley = min, max, valley
        self._total_steps = total_steps
        self._steps_done = 0

    @property
    def beta(self) -> float:
        """The coefficient at the number of steps done so far."""
        middle = (self._low + self._high) / 2
        bottom_step = self._valley * self._total_steps
        if self._steps_done <= bottom_step:
            return middle - (middle - self._low) * self._steps_done / bottom_step
        climbed = (self._steps_done - bottom_step) / (self._total_steps - bottom_step)
        return self._low + (self._high - self._low) * min(climbed, 1.0)

    def observe(self, facts: KLFacts) -> None:
        """Count the step."""
        self._steps_done = facts.step

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done."""
        return {"steps_done": self._steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the number of steps done."""
        self._steps_done = int(state["steps_done"])
