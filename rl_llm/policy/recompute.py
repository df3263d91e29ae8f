"""Gradient checkpointing: a layer keeps its input alone, and runs again for its gradient."""

from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rl_llm.errors import ConfigError


def recompute_layers(model: Any) -> None:
    """Let every decoder layer of a transformers model run again in the backward pass; passes
    without gradient are as before.

    Whatever is switched on the model for a pass, such as an adapter, must be so for its backward
    pass too. Caches are not kept, so prompts cannot be shared. Raises `ConfigError` where the model
    cannot do it.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not (layers and model.supports_gradient_checkpointing):
        raise ConfigError(
            f"optim.gradient_checkpointing=true: {type(model).__name__} of transformers cannot do "
            "it; use false, and a smaller optim.tokens_per_micro_batch"
        )
    before = _outcome(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in layers:
        # transformers asks this of the layer alone. The modules in it stay as they are: no dropout.
        layer.training = True
    if not torch.equal(before, _outcome(model)):
        raise ConfigError(
            f"optim.gradient_checkpointing=true: {type(model).__name__} of transformers drops "
            "values out at random while it recomputes; use false"
        )


def _outcome(model: Any) -> torch.Tensor:
    """Return the logits of a few tokens, with a graph, as training has one."""
    device = next(model.parameters()).device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 9, device=device).remainder(vocabulary)[None, :]
    with torch.enable_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.detach()
