"""What a step of a recipe amounts to, and what it may take of memory, before anything runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rl_llm.config import Recipe
from rl_llm.curriculum.probe import MostCompletions, most_completions

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts of one step on one rank, and bytes; upper bounds where lengths are not known yet."""

    most_completions: int
    most_new_tokens: int
    base_bytes: int
    rollout_copy_bytes: int
    adapter_bytes: int
    optimiser_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """The most that stands in memory at once: generation and training take turns."""
        kept = self.base_bytes + self.rollout_copy_bytes + self.adapter_bytes + self.optimiser_bytes
        return kept + max(self.cache_bytes, self.activation_bytes)


def estimate(
    recipe: Recipe, config: Any, parameters: Iterable[nn.Parameter], *, num_ranks: int
) -> Estimate:
    """Estimate from the parameters that exist and the recipe's limits.

    Activations are taken as 34 values of the hidden size for each position and layer (Korthikanti
    et al. 2022, arXiv:2205.05198, section 4, without the attention matrix, which fused attention
    does not keep).
    """
    rollout = recipe.rollout
    width = _BYTES[recipe.model.dtype]
    every = list(parameters)
    trained = [p for p in every if p.requires_grad]
    frozen = [p for p in every if not p.requires_grad]
    adapter_values = sum(p.numel() for p in trained)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = config.num_attention_heads
    kv_share = (getattr(config, "num_key_value_heads", None) or heads) / heads
    most = _most_completions(recipe)
    rows = min(most.call // num_ranks, rollout.max_batch_rows)
    positions = recipe.data.max_prompt_tokens + rollout.max_new_tokens
    base_bytes = sum(p.numel() * p.element_size() for p in frozen)
    return Estimate(
        most_completions=most.step,
        most_new_tokens=most.step * rollout.max_new_tokens,
        base_bytes=base_bytes,
        rollout_copy_bytes=base_bytes,
        adapter_bytes=sum(p.numel() * p.element_size() for p in trained) * 2,
        optimiser_bytes=adapter_values * 8,
        cache_bytes=int(2 * layers * rows * positions * hidden * kv_share * width),
        activation_bytes=34 * layers * recipe.optim.tokens_per_micro_batch * hidden * width,
    )


def _most_completions(recipe: Recipe) -> MostCompletions:
    """Return what a round and a step generate at most, refills or probes included."""
    rollout, probe = recipe.rollout, recipe.curriculum.probe
    if probe is not None:
        return most_completions(
            num_init=probe.completions,
            num_rest=rollout.group_size - probe.completions,
            max_finished=rollout.problems_per_step,
            num_probes=probe.problems,
        )
    whole = rollout.problems_per_step * rollout.group_size
    return MostCompletions(call=whole, step=whole * (1 + recipe.curriculum.refill.max_rounds))
