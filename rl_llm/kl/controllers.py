"""What a controller of the KL coefficient, beta, is: what it learns from, what it promises, and the
simplest one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from rl_llm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KLFacts:
    """What a controller may learn from one step.

    Two divergences, named apart: `ref_*` is KL(pi || ref), from the policy to the reference, and
    `old_*` is KL(old || pi), from the policy that the step started from to that of its last update.
    `against` says which of them the penalty is on. `accuracy` is the share of correct completions;
    each of these is NaN where nothing measured it. `step` has just ended, of `total_steps`.
    `trained_tokens` is None where nobody counted; at 0 nothing was trained, so that the divergences
    mean nothing. Where `reference_refreshed`, the next `ref_*` are to another reference, and start
    from 0.
    """

    ref_nats_per_token: float
    ref_nats_per_response: float
    old_nats_per_token: float
    accuracy: float
    step: int
    total_steps: int
    old_nats_per_response: float = 0.0
    against: Literal["ref", "old"] = "ref"
    trained_tokens: int | None = None
    reference_refreshed: bool = False

    @property
    def nats_per_token(self) -> float:
        """The divergence that the penalty is on, mean over tokens."""
        return self.ref_nats_per_token if self.against == "ref" else self.old_nats_per_token

    @property
    def nats_per_response(self) -> float:
        """The divergence that the penalty is on: summed over a response, mean over responses."""
        return self.ref_nats_per_response if self.against == "ref" else self.old_nats_per_response


class KLController(Protocol):
    """Decides beta for the next step from the facts of the last."""

    @property
    def beta(self) -> float:
        """The coefficient that the next step uses."""
        ...

    @property
    def needs_reference(self) -> bool:
        """False when beta is 0 for ever, so that no reference is computed."""
        ...

    def observe(self, facts: KLFacts) -> None:
        """Move beta after a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON can hold it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state_dict` returned."""
        ...


@runtime_checkable
class MovableController(KLController, Protocol):
    """A controller whose next beta depends on its last, and which can be told another."""

    def set_beta(self, beta: float) -> None:
        """Go on from this beta, which is above 0: a guard has held the controller's own to it."""
        ...


class Constant:
    """The same beta at every step; 0 computes no reference at all."""

    def __init__(self, *, beta: float = 0.0, total_steps: int) -> None:
        """Refuse a beta that is negative or infinite."""
        check_beta("beta", beta)
        self.beta = beta
        self.needs_reference = beta > 0

    def observe(self, facts: KLFacts) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a constant has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept nothing."""


def check_beta(name: str, beta: float) -> None:
    """Refuse a coefficient that is negative, infinite or not a number; `name` is its option's."""
    if not 0 <= beta < math.inf:
        reason = "rewards divergence" if beta < 0 else "is no coefficient"
        raise ConfigError(f"{name}={beta} {reason}; use a number of 0 or more, such as 0.02")
