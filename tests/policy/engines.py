"""Engines over small models, and one update of them."""

import numpy as np
import torch

from rl_llm.algorithms import grpo
from rl_llm.config import KLSection, OptimSection, RolloutSection
from rl_llm.config.sections import LoraSection
from rl_llm.policy import PolicyEngine, Ranks, add_lora


def engine_for(base, *, rank=4, seed=5, algorithm=None, kl=None, rollout=None, **optim):
    model = add_lora(base, LoraSection(rank=rank, alpha=8.0), seed=seed)
    generator = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return PolicyEngine(
        model,
        algorithm=algorithm or grpo(),
        optim=OptimSection(**{"lr": 1e-3, **optim}),
        kl=KLSection(**(kl or {})),
        rollout=RolloutSection(**{"max_new_tokens": 16, **(rollout or {})}),
        pad_id=0,
        ranks=Ranks(),
        seed=seed,
    )


def update(engine, groups, **changes):
    settings = {"step": 1, "beta": 0.1, "lr": 1e-3, "with_reference": True}
    return engine.update(groups, rng=np.random.default_rng(0), **(settings | changes))
