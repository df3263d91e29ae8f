"""The `kl` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from rl_llm.config.base import (
    NamedPart,
    NonNegativeFloat,
    OpenShare,
    PositiveFloat,
    PositiveInt,
    Section,
)

Estimator = Literal["k1", "k2", "k3", "k3_importance"]


class ReferenceSection(Section):
    """What the policy is held to under `kl.against: ref`."""

    mode: Literal["base", "snapshot", "ema"] = "base"
    """`base` is the model without its adapter, `snapshot` the policy as of the last refresh, `ema`
    an exponential moving average of the policy's adapter."""

    refresh_every: PositiveInt | None = None
    """Under `snapshot`: steps from one refresh to the next."""

    refresh_on_stagnation: PositiveInt | None = None
    """Under `snapshot`: refresh after so many evaluations in a row without a new best held-out pass
    rate."""

    decay: OpenShare = 0.99
    """Under `ema`: the share of the average that stays at each step."""


class KLSection(Section):
    """The penalty on the divergence of the policy from where it is held."""

    controller: NamedPart = NamedPart(name="constant")
    """Moves the coefficient beta from step to step."""

    estimator: Estimator | None = None
    """The per-token estimate of the divergence; null takes k2 in the loss and k1 in the rewards."""

    placement: Literal["loss", "reward"] = "loss"
    """Add the penalty to the loss, or take it from the rewards, token by token."""

    against: Literal["ref", "old"] = "ref"
    """Hold the policy to the reference, or to the policy that a step's updates started from."""

    stop_at_old: PositiveFloat | None = None
    """Leave out the rest of a step's updates once the divergence from the policy that they started
    from passes this, in nats per token."""

    floor: NonNegativeFloat = 0.0
    """Beta never goes below this."""

    ceiling: PositiveFloat | None = None
    """Beta never goes above this."""

    spike: Annotated[float, Field(gt=1)] | None = None
    """The controller sees no divergence above so many times the median of the last 16."""

    reference: ReferenceSection = ReferenceSection()

    @property
    def used_estimator(self) -> Estimator:
        """The estimator that is used, also where none is named."""
        return self.estimator or ("k1" if self.placement == "reward" else "k2")
