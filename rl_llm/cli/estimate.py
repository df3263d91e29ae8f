"""What a step of a recipe amounts to, and what it may take of memory, before anything runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from rl_llm.config import Recipe
from rl_llm.curriculum.probe import MostCompletions, most_completions
from rl_llm.policy import PolicyEngine

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts of one step on one rank, and bytes; upper bounds where lengths are not known yet."""

    most_completions: int
    most_new_tokens: int
    base_bytes: int
    rollout_copy_bytes: int
    adapter_bytes: int
    critic_bytes: int
    reference_bytes: int
    optimiser_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """The most that stands in memory at once: generation and training take turns."""
        weights = self.base_bytes + self.rollout_copy_bytes + self.reference_bytes
        trained = self.adapter_bytes + self.critic_bytes + self.optimiser_bytes
        return weights + trained + max(self.cache_bytes, self.activation_bytes)


def estimate(recipe: Recipe, config: Any, policy: PolicyEngine, *, num_ranks: int) -> Estimate:
    """Estimate from the parameters that exist and the recipe's limits.

    What is trained is counted with its gradient. Activations are taken as 34 values of the hidden
    size for each position and layer (Korthikanti et al. 2022, arXiv:2205.05198, section 4, without
    the attention matrix, which fused attention does not keep).
    """
    rollout = recipe.rollout
    width = _BYTES[recipe.model.dtype]
    critic = [] if policy.critic is None else list(policy.critic.parameters())
    reference = list(policy.reference.parameters())
    beside = {id(parameter) for parameter in (*critic, *reference)}
    own = [p for p in policy.parameters() if id(p) not in beside]
    adapter = [p for p in own if p.requires_grad]
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = config.num_attention_heads
    kv_share = (getattr(config, "num_key_value_heads", None) or heads) / heads
    most = _most_completions(recipe)
    rows = min(most.call // num_ranks, rollout.max_batch_rows)
    positions = recipe.data.max_prompt_tokens + rollout.max_new_tokens
    base_bytes = _num_bytes(p for p in own if not p.requires_grad)
    return Estimate(
        most_completions=most.step,
        most_new_tokens=most.step * rollout.max_new_tokens,
        base_bytes=base_bytes,
        rollout_copy_bytes=base_bytes,
        adapter_bytes=2 * _num_bytes(adapter),
        critic_bytes=2 * _num_bytes(critic),
        reference_bytes=_num_bytes(reference),
        optimiser_bytes=8 * sum(p.numel() for p in (*adapter, *critic)),
        cache_bytes=int(2 * layers * rows * positions * hidden * kv_share * width),
        activation_bytes=34 * layers * recipe.optim.tokens_per_micro_batch * hidden * width,
    )


def _num_bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


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
