"""The dynamic KL: estimators of the divergence, and controllers of its coefficient."""

from collections.abc import Callable

from rl_llm.kl.controllers import Constant, GrpoD, KLController, KLFacts
from rl_llm.kl.estimators import ESTIMATORS, k1, k2, k3, loss_penalty

CONTROLLERS: dict[str, Callable[..., KLController]] = {"constant": Constant, "grpo_d": GrpoD}
"""Every built-in controller by the name that recipes use; each is told `total_steps`."""

__all__ = [
    "CONTROLLERS",
    "ESTIMATORS",
    "Constant",
    "GrpoD",
    "KLController",
    "KLFacts",
    "k1",
    "k2",
    "k3",
    "loss_penalty",
]
