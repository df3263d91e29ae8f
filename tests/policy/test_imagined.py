"""What passes take of memory, found without a value in it, and what they really take."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
)

from rl_llm.config.sections import LoraSection
from rl_llm.plugins import load_module
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.imagined import Passes, Shape, activation_bytes, imagine, shares_prompts
from rl_llm.policy.pack import TrainGroup, TrainRow

engines = load_module(Path(__file__).with_name("engines.py"))
SIZES = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": 500, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = Shape(num_prompts=3, rows_per_prompt=4, prompt_tokens=24, response_tokens=40)


def config(num_layers=2):
    return LlamaConfig(**SIZES, **HEADS, num_hidden_layers=num_layers)


def taken(num_layers, passes, *, shape=SHAPE, dtype="float32"):
    lora = LoraSection(rank=4, alpha=8.0)
    model = imagine(config(num_layers), lora, dtype=dtype, casts_adapter=False)
    return activation_bytes(model, shape, passes)


def shape_of(passes):
    return replace(SHAPE, shares_prompts=not passes.recomputes)


def measured(passes, dtype, *, needs_reference):
    """Return the highest sum of what one real update of one micro-batch allocates."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(config()).requires_grad_(False).eval().to(getattr(torch, dtype))
    engine = engines.engine_for(
        base,
        rollout={"max_new_tokens": SHAPE.response_tokens},
        tokens_per_micro_batch=shape_of(passes).num_positions,
        gradient_checkpointing=passes.recomputes,
    )
    rng = np.random.default_rng(0)
    groups = [random_group(rng, shorter=int(g == 0)) for g in range(SHAPE.num_prompts)]
    engines.update(engine, groups, with_reference=needs_reference, beta=0.1 * needs_reference)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        engines.update(engine, groups, with_reference=needs_reference, beta=0.1 * needs_reference)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def random_group(rng, *, shorter):
    """Return a group whose prompt may be shorter, so that there is padding."""
    rows = tuple(
        TrainRow(
            token_ids=tuple(rng.integers(1, 500, SHAPE.response_tokens).tolist()),
            engine_logprobs=(-1.0,) * SHAPE.response_tokens,
            advantage=g - 1.5,
        )
        for g in range(SHAPE.rows_per_prompt)
    )
    prompt = rng.integers(1, 500, SHAPE.prompt_tokens - shorter)
    return TrainGroup(prompt_ids=tuple(prompt.tolist()), rows=rows)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("reads_reference", [False, True])
def test_a_real_update_takes_what_was_foreseen(dtype, recomputes, reads_reference):
    passes = Passes(recomputes=recomputes, reads_reference=reads_reference)
    found = measured(passes, dtype, needs_reference=reads_reference)
    assert taken(2, passes, shape=shape_of(passes), dtype=dtype) == pytest.approx(found, rel=0.1)


def test_a_recomputed_layer_keeps_its_input_alone():
    passes = Passes(recomputes=True)
    layers = [taken(count, passes, shape=shape_of(passes)) for count in (3, 4, 5)]
    # 12 rows of 24 + 40 positions, whole, of 64 values of 4 bytes.
    assert layers[2] - layers[1] == layers[1] - layers[0] == 12 * 64 * 64 * 4


def test_what_a_configuration_tells_of_shared_prompts_is_what_training_does():
    windows = MistralConfig(**SIZES, **HEADS, num_hidden_layers=1, sliding_window=4)
    for given, expected in ((config(1), True), (windows, False)):
        model = AutoModelForCausalLM.from_config(given)
        assert ResponseScorer(model, temperature=1.0).shares_prompts == expected
        assert shares_prompts(given, recomputes=False) == expected
        assert not shares_prompts(given, recomputes=True)


def test_a_layer_keeps_about_as_much_for_each_position_as_can_be_counted_by_hand():
    shape = replace(SHAPE, num_prompts=1, rows_per_prompt=1, response_tokens=1000)
    kept = taken(4, Passes(), shape=shape) - taken(3, Passes(), shape=shape)
    # Inputs of both norms and what they make, queries and the attention's output, keys and values
    # of as many heads, and 4 times the width of the MLP: its two halves, the activated one and
    # their product; and what 7 LoRA layers of rank 4 make.
    values = 4 * 64 + 2 * 64 + 2 * 64 + 4 * 160 + 7 * 4
    mask = 999 * 1023  # In float32, for responses that look back on everything.
    assert kept == pytest.approx(4 * (1024 * values + mask), rel=0.05)


def test_a_model_that_decides_by_values_is_not_foreseen(monkeypatch):
    forward = LlamaModel.forward

    def deciding(self, input_ids, **inputs):
        return forward(self, input_ids, **inputs) if input_ids.any() else None

    assert taken(1, Passes()) > 0
    monkeypatch.setattr(LlamaModel, "forward", deciding)
    assert taken(1, Passes()) is None
