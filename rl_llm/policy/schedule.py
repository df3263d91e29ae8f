"""The learning rate at each step."""

import math
from collections.abc import Callable

from rl_llm.config import OptimSection

_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: (1.0 + math.cos(math.pi * progress)) / 2,
}


def learning_rate(optim: OptimSection, *, step: int, total_steps: int) -> float:
    """Return the rate of step 1, 2, ..., `total_steps`.

    It climbs linearly over `warmup_steps`, reaching `lr` at the last of them, and then decays
    towards 0, which it would reach one step after the run.
    """
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps - 1) / max(total_steps - optim.warmup_steps, 1)
    return optim.lr * _DECAYS[optim.schedule](min(progress, 1.0))
