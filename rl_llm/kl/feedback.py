"""Controllers that answer to what a step measured: `target`, `ppo_penalty`, `accuracy`.

The first two multiply beta from step to step, so beta stays above 0 for ever and cannot start
at it. A step that trained nothing, or whose divergence is not a number, leaves beta alone.
"""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rl_llm.errors import ConfigError
from rl_llm.kl.controllers import KLFacts

MAX_ERROR = 0.2
"""By how much of the target `Target` takes the divergence to be off, at most."""


class _Multiplicative(ABC):
    """Multiplies beta by a factor that depends on divergence / target.

    Exactly one of the targets is given, and the divergence is measured in its unit: nats per token,
    or nats per response.
    """

    needs_reference = True

    def __init__(
        self, name: str, beta: float, nats_per_token: float | None, nats_per_response: float | None
    ) -> None:
        _check_start(name, beta)
        targets = {"nats_per_token": nats_per_token, "nats_per_response": nats_per_response}
        given = [(unit, nats) for unit, nats in targets.items() if nats is not None]
        if len(given) != 1:
            both = " and ".join(f"{unit}={nats}" for unit, nats in given)
            raise ConfigError(
                f"{f'{both}: ' if both else ''}{name} holds the KL to one target in one unit; give "
                "exactly one of nats_per_token and nats_per_response, such as nats_per_token: 0.05"
            )
        ((self._unit, self._target),) = given
        if not 0 < self._target < math.inf:
            raise ConfigError(f"{self._unit}={self._target} is no KL to aim at; use more than 0")
        self.beta = beta

    @abstractmethod
    def _divergence(self, facts: KLFacts) -> float: ...

    @abstractmethod
    def _factor(self, divergence_over_target: float) -> float: ...

    def observe(self, facts: KLFacts) -> None:
        """Multiply beta, where the step measured a divergence."""
        divergence = self._divergence(facts)
        if facts.trained_tokens != 0 and not math.isnan(divergence):
            self.set_beta(self.beta * self._factor(divergence / self._target))

    def set_beta(self, beta: float) -> None:
        """Go on from this beta, held to the numbers that can still be multiplied."""
        self.beta = min(max(beta, sys.float_info.min), sys.float_info.max)

    def state_dict(self) -> dict[str, Any]:
        """Return beta."""
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up beta."""
        self.beta = float(state["beta"])


class Target(_Multiplicative):
    """Holds the KL that the penalty is on at a target (Ziegler et al. 2019, arXiv:1909.08593).

    After each step beta *= 1 + gain * clip(kl / target - 1, -.2, .2): at most 6 % up or down with
    a gain of .3, so a factor of 10 takes 40 steps up and 38 down. The paper's gain is n / horizon
    for n episodes a step: 64 / 10000 needs 542 steps to double beta. A gain that is too high
    for how slowly the KL answers to beta makes both swing.
    """

    def __init__(
        self,
        *,
        beta: float = 0.02,
        gain: float = 0.3,
        nats_per_token: float | None = None,
        nats_per_response: float | None = None,
        total_steps: int,
    ) -> None:
        """Refuse beta 0, a gain that could make beta negative, and no target or two."""
        super().__init__("target", beta, nats_per_token, nats_per_response)
        if not 0 < gain < 1 / MAX_ERROR:
            raise ConfigError(
                f"gain={gain}: beta moves by up to {MAX_ERROR} times the gain a step; use more "
                f"than 0 and less than {1 / MAX_ERROR:.0f}, such as 0.3"
            )
        self._gain = gain

    def _divergence(self, facts: KLFacts) -> float:
        per_token = self._unit == "nats_per_token"
        return facts.nats_per_token if per_token else facts.nats_per_response

    def _factor(self, divergence_over_target: float) -> float:
        error = min(max(divergence_over_target - 1, -MAX_ERROR), MAX_ERROR)
        return 1 + self._gain * error


class PpoPenalty(_Multiplicative):
    """The adaptive penalty of PPO: beta doubles above 1.5 times the target and halves below the
    target / 1.5 (Schulman et al. 2017, arXiv:1707.06347, section 4).

    The KL is that to `old`, KL(old || pi) as in the paper, whatever the penalty is on. So it
    belongs with a penalty on the KL to `old`, and needs more than one update a batch: with one,
    nothing shows it.
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        nats_per_token: float | None = None,
        nats_per_response: float | None = None,
        total_steps: int,
    ) -> None:
        """Refuse beta 0, and no target or two."""
        super().__init__("ppo_penalty", beta, nats_per_token, nats_per_response)

    def _divergence(self, facts: KLFacts) -> float:
        per_token = self._unit == "nats_per_token"
        return facts.old_nats_per_token if per_token else facts.old_nats_per_response

    def _factor(self, divergence_over_target: float) -> float:
        if divergence_over_target > 1.5:
            return 2.0
        return 0.5 if divergence_over_target < 1 / 1.5 else 1.0


class Accuracy:
    """The coefficient follows the share of correct completions: `beta` * (tanh(accuracy) + 1) / 2
    (FG-ExPO, arXiv:2605.11403).

    It rises with accuracy, from .5 of `beta` where nothing is right to .88 where all is: loose
    while the model struggles, tighter once it succeeds. In the first step it is .5.
    """

    needs_reference = True

    def __init__(self, *, beta: float = 0.02, total_steps: int) -> None:
        """Refuse beta 0, which no accuracy moves."""
        _check_start("accuracy", beta)
        self._base = beta
        self._accuracy = 0.0

    @property
    def beta(self) -> float:
        """The coefficient at the accuracy of the last step."""
        return self._base * (math.tanh(self._accuracy) + 1) / 2

    def observe(self, facts: KLFacts) -> None:
        """Take up the accuracy, where there is one."""
        if not math.isnan(facts.accuracy):
            self._accuracy = facts.accuracy

    def state_dict(self) -> dict[str, Any]:
        """Return the last accuracy."""
        return {"accuracy": self._accuracy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the last accuracy."""
        self._accuracy = float(state["accuracy"])


def _check_start(name: str, beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ConfigError(
            f"beta={beta}: {name} multiplies beta, and no factor leads away from 0; start above 0, "
            "such as at 0.02, or use the controller constant with beta 0 for no penalty"
        )
