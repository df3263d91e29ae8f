"""The dynamic KL: estimators of the divergence, the penalty made of them, and controllers of its
coefficient."""

from collections.abc import Callable

from rl_llm.kl.controllers import Constant, KLController, KLFacts, MovableController
from rl_llm.kl.estimators import ESTIMATORS, k1, k2, k3
from rl_llm.kl.feedback import Accuracy, PpoPenalty, Target
from rl_llm.kl.guard import Guarded
from rl_llm.kl.penalty import LOSS_PENALTIES, loss_penalty, reward_penalty, to_go
from rl_llm.kl.schedules import Cosine, GrpoD, GrpoDRising, Linear

CONTROLLERS: dict[str, Callable[..., KLController]] = {
    "constant": Constant,
    "grpo_d": GrpoD,
    "grpo_d_rising": GrpoDRising,
    "linear": Linear,
    "cosine": Cosine,
    "target": Target,
    "ppo_penalty": PpoPenalty,
    "accuracy": Accuracy,
}
"""Every built-in controller by the name that recipes use; each is told `total_steps`."""

__all__ = [
    "CONTROLLERS",
    "ESTIMATORS",
    "LOSS_PENALTIES",
    "Accuracy",
    "Constant",
    "Cosine",
    "GrpoD",
    "GrpoDRising",
    "Guarded",
    "KLController",
    "KLFacts",
    "Linear",
    "MovableController",
    "PpoPenalty",
    "Target",
    "k1",
    "k2",
    "k3",
    "loss_penalty",
    "reward_penalty",
    "to_go",
]
