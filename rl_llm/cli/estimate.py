"""What a step of a recipe amounts to, and what it may take of memory, before anything runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rl_llm.config import Recipe
from rl_llm.curriculum.probe import MostCompletions, most_completions
from rl_llm.policy import PolicyEngine

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Counts of one step on one rank, and bytes; upper bounds where lengths are not known yet.

    `rollout_copy_bytes` and `cache_bytes` are what the rollout engine takes on this machine beside
    the trainer's own: copies of the model, and its key-value cache. `takes_turns`: the cache is
    given back while the policy learns.
    """

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
    takes_turns: bool

    @property
    def total_bytes(self) -> int:
        """The most that stands in memory at once."""
        weights = self.base_bytes + self.rollout_copy_bytes + self.reference_bytes
        trained = self.adapter_bytes + self.critic_bytes + self.optimiser_bytes
        passing = (self.cache_bytes, self.activation_bytes)
        return weights + trained + (max(passing) if self.takes_turns else sum(passing))


@dataclass(frozen=True, kw_only=True)
class EngineBytes:
    """What a rollout engine takes on this machine; see `Estimate`."""

    copies: int
    cache: int
    takes_turns: bool


def estimate(
    recipe: Recipe, config: Any, policy: PolicyEngine, *, num_ranks: int, device: torch.device
) -> Estimate:
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
    most = _most_completions(recipe)
    rows = min(most.call // num_ranks, rollout.max_batch_rows)
    base_bytes = _num_bytes(p for p in own if not p.requires_grad)
    engine = engine_bytes(recipe, config, base_bytes=base_bytes, num_rows=rows, device=device)
    return Estimate(
        most_completions=most.step,
        most_new_tokens=most.step * rollout.max_new_tokens,
        base_bytes=base_bytes,
        rollout_copy_bytes=engine.copies,
        adapter_bytes=2 * _num_bytes(adapter),
        critic_bytes=2 * _num_bytes(critic),
        reference_bytes=_num_bytes(reference),
        optimiser_bytes=8 * sum(p.numel() for p in (*adapter, *critic)),
        cache_bytes=engine.cache,
        activation_bytes=34 * layers * recipe.optim.tokens_per_micro_batch * hidden * width,
        takes_turns=engine.takes_turns and rollout.max_staleness == 0,
    )


def engine_bytes(
    recipe: Recipe, config: Any, *, base_bytes: int, num_rows: int, device: torch.device
) -> EngineBytes:
    """Return what the recipe's engine takes here: on servers nothing, for vLLM what it is given.

    vLLM's copy of the model on a CPU has another beside it while merged weights are published; on a
    GPU it stands within the share that vLLM is given.
    """
    rollout, section = recipe.rollout, recipe.rollout.vllm
    if rollout.engine == "vllm_server":
        return EngineBytes(copies=0, cache=0, takes_turns=True)
    if rollout.engine == "vllm" and device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        share = int(section.memory_fraction * there)
        return EngineBytes(copies=0, cache=share, takes_turns=section.sleep)
    if rollout.engine == "vllm":
        copies = base_bytes if section.publish == "adapter" else 2 * base_bytes
        return EngineBytes(
            copies=copies, cache=int(section.kv_cache_gib * 2**30), takes_turns=False
        )
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    positions = recipe.data.max_prompt_tokens + rollout.max_new_tokens
    values = 2 * config.num_hidden_layers * num_rows * positions * kv_heads * head_size
    cache = values * _BYTES[recipe.model.dtype]
    return EngineBytes(copies=base_bytes, cache=cache, takes_turns=True)


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
