"""The KL penalty of one update."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """How far the policy is held, from what, and where that enters.

    `beta` times the `estimator`'s divergence from `against` (the reference, or the policy that the
    update started from) is added to the loss, or taken from the rewards. Where
    `measures_reference`, the divergence from the reference is measured in any case.
    """

    beta: float = 0.0
    estimator: str = "k2"
    placement: Literal["loss", "reward"] = "loss"
    against: Literal["ref", "old"] = "ref"
    measures_reference: bool = False

    @property
    def in_reward(self) -> bool:
        """Whether rewards are to be charged."""
        return self.placement == "reward" and self.beta > 0

    @property
    def in_loss(self) -> bool:
        """Whether the loss has a term of it."""
        return self.placement == "loss" and self.beta > 0
