"""Bounds around any controller: a floor, a ceiling, and no belief in a single spike."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from rl_llm.errors import ConfigError
from rl_llm.kl.checks import beta_of, check_state, told_apart
from rl_llm.kl.controllers import KLController, KLFacts, MovableController

WINDOW = 16
"""How many steps the running median is over."""

_DIVERGENCES = (
    "ref_nats_per_token",
    "ref_nats_per_response",
    "old_nats_per_token",
    "old_nats_per_response",
)


class Guarded:
    """Holds a controller's beta between a floor and a ceiling, and spikes of the KL away from it.

    A beta that is no finite number of 0 or more is a `RunError`, at the start and whenever it is
    read.

    A controller that goes on from its own beta (`MovableController`) goes on from the held one, so
    it leaves a bound with the first step that asks for it, however long it was held there.

    `spike` bounds every divergence that the controller sees by so many times the running median of
    the 16 steps before (None: off), each divergence by its own. It begins once there are 16 and
    their median is above 0, since at the start of a run the KL grows from 0 by factors. The median
    is of what was measured, so a rise that lasts passes from its 9th step on, with a `spike`
    below 2 from its 10th. Steps that trained nothing are passed on and not remembered. A refresh
    of the reference is another such start: what was measured of the divergence from the one before
    is forgotten.
    """

    def __init__(
        self,
        controller: KLController,
        *,
        floor: float = 0.0,
        ceiling: float | None = None,
        spike: float | None = None,
    ) -> None:
        """Refuse bounds out of order, a `spike` of 1 or less, a floor under a beta that is 0 for
        ever, and a controller whose state JSON cannot hold."""
        highest = math.inf if ceiling is None else ceiling
        if not (0 <= floor <= highest and highest > 0):
            raise ConfigError(
                f"floor={floor} and ceiling={ceiling}: use 0 <= floor <= ceiling and a ceiling "
                "above 0, or no ceiling (null)"
            )
        if spike is not None and not spike > 1:
            raise ConfigError(
                f"spike={spike} holds ordinary steps down, being times their median; use more "
                "than 1, such as 10, or null for no guard"
            )
        if floor > 0 and not controller.needs_reference:
            raise ConfigError(
                f"floor={floor} with a controller whose beta is 0 for ever, which computes no "
                f"reference; use floor 0, or the controller constant with beta {floor}"
            )
        self._controller, self._spike = controller, spike
        self._floor, self._ceiling = floor, highest
        self._recent = {name: deque[float](maxlen=WINDOW) for name in _DIVERGENCES}
        check_state(controller)
        beta_of(controller)
        self._hand_over()

    @property
    def beta(self) -> float:
        """The controller's beta between the bounds."""
        return min(max(beta_of(self._controller), self._floor), self._ceiling)

    @property
    def needs_reference(self) -> bool:
        """As the controller says."""
        return self._controller.needs_reference

    def observe(self, facts: KLFacts) -> None:
        """Let the controller learn from what passes, then hold its beta."""
        with told_apart(self._controller):
            self._controller.observe(self._without_spikes(facts))
        self._hand_over()
        if self._spike is not None:
            self._remember(facts)

    def state_dict(self) -> dict[str, Any]:
        """Return the controller's state, and the divergences of the last steps."""
        return {
            "controller": self._controller.state_dict(),
            "recent": {name: list(values) for name, values in self._recent.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up both."""
        self._controller.load_state_dict(state["controller"])
        for name, values in self._recent.items():
            values.clear()
            values.extend(state["recent"][name])
        self._hand_over()

    def _hand_over(self) -> None:
        if isinstance(self._controller, MovableController):
            self._controller.set_beta(self.beta)

    def _remember(self, facts: KLFacts) -> None:
        for name, values in self._recent.items():
            if facts.trained_tokens != 0 and math.isfinite(measured := getattr(facts, name)):
                values.append(measured)
            if facts.reference_refreshed and name.startswith("ref_"):
                values.clear()

    def _without_spikes(self, facts: KLFacts) -> KLFacts:
        """Return the facts with every divergence held to `spike` times its running median."""
        if self._spike is None:
            return facts
        held: dict[str, Any] = {}
        for name, values in self._recent.items():
            usual = median(values) if len(values) == WINDOW else 0.0
            if usual > 0 and getattr(facts, name) > self._spike * usual:
                held[name] = self._spike * usual
        return replace(facts, **held)
