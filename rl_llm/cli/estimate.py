"""What one process of a recipe may take of memory, before anything runs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from rl_llm.algorithms import Algorithm
from rl_llm.cli.launch import Launch
from rl_llm.cli.plan import Plan, fixes_start
from rl_llm.config import Recipe
from rl_llm.policy.imagined import Passes, activation_bytes, imagine
from rl_llm.policy.launched import ZeroSettings

_BYTES = {"float32": 4, "bfloat16": 2}
_MOST_GATHERED = 10**9
"""Values of weights that DeepSpeed's stage 3 holds whole at once: its `stage3_max_live_parameters`,
which rl-llm leaves as it is."""
_VALUES_A_LAYER = 34
"""Values of the hidden size that a layer of a plain transformer keeps for each position
(Korthikanti et al. 2022, arXiv:2205.05198, section 4, without the attention matrix)."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Values (not bytes) of a model with its adapters, each tied weight once."""

    base: int
    adapter: int
    critic: int
    reference: int

    @property
    def trained(self) -> int:
        """What the optimiser steps."""
        return self.adapter + self.critic


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Bytes that stand all through training.

    Weights that are shared out are counted as the process's share: `gathered` is what it has whole
    while passes run. `offloaded` lies in the memory of the machine instead of the device's.
    """

    base: int
    adapter: int
    critic: int
    reference: int
    gathered: int
    gradient: int
    optimiser: int
    offloaded: int

    @property
    def total(self) -> int:
        """Everything on the device."""
        weights = self.base + self.adapter + self.critic + self.reference + self.gathered
        return weights + self.gradient + self.optimiser


@dataclass(frozen=True, kw_only=True)
class EngineBytes:
    """What a rollout engine takes on this machine beside the trainer's own: copies of the model,
    and its key-value cache; `takes_turns`: the cache is given back while the policy learns.

    On a GPU of unknown size vLLM's cache is a `share` of it instead, 0 to 1, with the bytes of
    `within` in it.
    """

    copies: int
    cache: int
    takes_turns: bool
    share: float = 0.0
    within: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of one process; upper bounds where lengths are not known yet.

    `start` is what stands while the model is loaded, whole, before it is shared out.
    `is_rule_of_thumb`: the model could not be imagined, so that `activations` are rough.
    """

    trainer: Trainer
    engine: EngineBytes
    activations: int
    start: int
    is_rule_of_thumb: bool

    @property
    def total(self) -> int:
        """The most that stands on the device at once; where the engine has a share of it, the
        least device on which all that finds room."""
        engine, left = self.engine, 1 - self.engine.share
        standing = self.trainer.total + engine.copies
        both = (standing + engine.cache + self.activations) / left
        in_turns = max((standing + engine.cache) / left, standing + self.activations)
        least = engine.within / engine.share if engine.share else 0.0
        return math.ceil(max(self.start / left, in_turns if engine.takes_turns else both, least))


def estimate(
    recipe: Recipe,
    config: Any,
    algorithm: Algorithm,
    plan: Plan,
    launch: Launch,
    *,
    needs_reference: bool,
    gpu_bytes: int | None,
) -> Estimate:
    """Estimate from the model's configuration and the recipe's limits; no weights are needed.

    `gpu_bytes` is the size of the process's GPU, where it is known.
    """
    casts = launch.stage == 3
    model = imagine(config, recipe.lora, dtype=recipe.model.dtype, casts_adapter=casts)
    counts = count(recipe, config, algorithm, model.parameters())
    trainer = trainer_bytes(counts, launch, width=_BYTES[recipe.model.dtype])
    whole_base = counts.base * _BYTES[recipe.model.dtype]
    engine = engine_bytes(
        recipe,
        config,
        base_bytes=whole_base,
        num_rows=min(plan.call_completions, recipe.rollout.max_batch_rows),
        on_gpu=launch.on_gpus,
        gpu_bytes=gpu_bytes,
    )
    second_base = whole_base if casts and _reads_base(recipe, on_gpu=launch.on_gpus) else 0
    passes = Passes(
        recomputes=recipe.optim.gradient_checkpointing,
        entropy_gradient=algorithm.entropy_bonus != 0,
        reads_reference=needs_reference
        and recipe.kl.against == "ref"
        and not fixes_start(recipe, algorithm, needs_reference=needs_reference),
    )
    alive = activation_bytes(model, plan.fullest, passes)
    activations = _rule_of_thumb(recipe, config, plan) if alive is None else int(alive * plan.fill)
    return Estimate(
        trainer=trainer,
        engine=replace(
            engine,
            copies=engine.copies + second_base,
            takes_turns=engine.takes_turns and recipe.rollout.max_staleness == 0,
        ),
        activations=activations,
        start=whole_base + second_base if casts else 0,
        is_rule_of_thumb=alive is None,
    )


def count(
    recipe: Recipe, config: Any, algorithm: Algorithm, parameters: Iterable[nn.Parameter]
) -> Counts:
    """Count the parameters of a model with the policy's adapter, and what a critic and a reference
    put beside them."""
    numbers = {True: 0, False: 0}
    for parameter in parameters:
        numbers[parameter.requires_grad] += parameter.numel()
    adapter = numbers[True]
    has_reference = recipe.kl.reference.mode != "base"
    return Counts(
        base=numbers[False],
        adapter=adapter,
        critic=adapter + config.hidden_size + 1 if algorithm.critic else 0,
        reference=adapter if has_reference else 0,
    )


def trainer_bytes(counts: Counts, launch: Launch, *, width: int) -> Trainer:
    """Return what a process holds; see "Which stage" in docs/distributed.md.

    `width` is that of the model's dtype, in bytes. What is trained and the reference are in float32
    unless ZeRO-3 casts them. DeepSpeed sums gradients in a buffer beside them, keeps its share of
    the sum, and steps float32 copies. ZeRO-3 keeps small weights whole on every process, adapters
    among them.
    """
    if launch.zero is not None:
        return _shared_bytes(counts, launch, launch.zero, width=width)
    return Trainer(
        base=width * counts.base,
        adapter=4 * counts.adapter,
        critic=4 * counts.critic,
        reference=4 * counts.reference,
        gathered=0,
        gradient=4 * counts.trained,
        optimiser=8 * counts.trained,
        offloaded=0,
    )


def _shared_bytes(counts: Counts, launch: Launch, zero: ZeroSettings, *, width: int) -> Trainer:
    shares_weights = zero.stage == 3
    cut = launch.num_ranks if shares_weights else 1
    trained_width = width if shares_weights else 4
    beside = trained_width * (counts.trained + counts.reference)
    gathered = width * min(counts.base, _MOST_GATHERED) + beside if shares_weights else 0
    weights = {
        "base": width * counts.base // cut,
        "adapter": trained_width * counts.adapter // cut,
        "critic": trained_width * counts.critic // cut,
        "reference": trained_width * counts.reference // cut,
    }
    optimiser = 12 * counts.trained // launch.num_ranks
    kept_sum = 4 * counts.trained // launch.num_ranks
    offloaded = 0
    if zero.offloads_optimizer and launch.on_gpus:
        offloaded, optimiser, kept_sum = optimiser + kept_sum, 0, 0
    if zero.offloads_weights and shares_weights and launch.on_gpus:
        offloaded += sum(weights.values())
        weights = dict.fromkeys(weights, 0)
    return Trainer(
        **weights,
        gathered=gathered,
        gradient=8 * counts.trained + kept_sum,
        optimiser=optimiser,
        offloaded=offloaded,
    )


def _reads_base(recipe: Recipe, *, on_gpu: bool) -> bool:
    """Say whether the engine needs a base of its own where ranks share the trainer's."""
    if recipe.rollout.engine == "vllm":
        publish = recipe.rollout.vllm.publish
        return publish == "merged" or (publish is None and not on_gpu)
    return recipe.rollout.engine != "vllm_server"


def _rule_of_thumb(recipe: Recipe, config: Any, plan: Plan) -> int:
    layers = 1 if recipe.optim.gradient_checkpointing else config.num_hidden_layers
    values: int = _VALUES_A_LAYER * layers + config.num_hidden_layers
    width = int(config.hidden_size) * _BYTES[recipe.model.dtype]
    return values * plan.full_positions * width


def engine_bytes(
    recipe: Recipe,
    config: Any,
    *,
    base_bytes: int,
    num_rows: int,
    on_gpu: bool,
    gpu_bytes: int | None,
) -> EngineBytes:
    """Return what the recipe's engine takes here: on servers nothing, for vLLM what it is given.

    vLLM's copy of the model on a CPU has another beside it while merged weights are published; on a
    GPU it stands within the share that vLLM is given.
    """
    rollout, section = recipe.rollout, recipe.rollout.vllm
    if rollout.engine == "vllm_server":
        return EngineBytes(copies=0, cache=0, takes_turns=True)
    if rollout.engine == "vllm" and on_gpu:
        share = section.memory_fraction
        if gpu_bytes is not None:
            return EngineBytes(copies=0, cache=int(share * gpu_bytes), takes_turns=section.sleep)
        return EngineBytes(
            copies=0,
            cache=0,
            takes_turns=section.sleep,
            share=share,
            within=base_bytes // section.tensor_parallel_size,
        )
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
