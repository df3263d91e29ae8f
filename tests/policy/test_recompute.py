"""Gradient checkpointing: layers run twice, and the gradient is the same."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from rl_llm.errors import ConfigError
from rl_llm.plugins import load_module
from rl_llm.policy.recompute import recompute_layers

updates = load_module(Path(__file__).with_name("zero_update.py"))


@pytest.fixture
def num_layer_runs(monkeypatch):
    """Count how often a decoder layer runs with a gradient to be taken."""
    runs, forward = [], LlamaDecoderLayer.forward

    def counted(self, *arguments, **options):
        if torch.is_grad_enabled():
            runs.append(self)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    return lambda: len(runs)


def gradient(base, groups, algorithm, **optim):
    """Return the parts of one update's gradient, policy's and critic's, as vectors."""
    found = updates.one_update(
        copy.deepcopy(base), groups, algorithm=algorithm, grad_clip=1e9, **optim
    )
    parts = {True: [], False: []}
    for name, value in found["gradient"].items():
        parts[".critic." in name or name.startswith("head.")].append(value.flatten())
    return [torch.cat(part) for part in parts.values() if part]


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_policy_and_critic_get_the_gradient_that_they_get_without(
    tiny_llama, uneven_groups, algorithm
):
    """The critic's passes run again through its own adapter, not through the policy's."""
    plain = gradient(tiny_llama, uneven_groups, algorithm)
    again = gradient(tiny_llama, uneven_groups, algorithm, gradient_checkpointing=True)
    assert len(plain) == len(again) == (2 if algorithm == "ppo" else 1)
    for expected, ours in zip(plain, again, strict=True):
        assert expected.norm() > 1e-3
        assert (ours - expected).norm() <= 1e-5 * expected.norm()


def test_every_layer_runs_twice_for_each_gradient(tiny_llama, uneven_groups, num_layer_runs):
    options = {"tokens_per_micro_batch": 10_000}
    gradient(tiny_llama, uneven_groups, "grpo", **options)
    # Two layers, for the prompts and for the responses.
    assert num_layer_runs() == 4
    gradient(tiny_llama, uneven_groups, "grpo", gradient_checkpointing=True, **options)
    # While it is switched on, two passes of a few tokens; then rows run whole, and again.
    assert num_layer_runs() == 4 + 2 * 2 + 2 * 2


def test_no_pass_has_more_positions_than_a_micro_batch_may(tiny_llama, uneven_groups, monkeypatch):
    sizes, forward = [], LlamaModel.forward

    def seen(self, input_ids, **inputs):
        sizes.append(input_ids.numel())
        return forward(self, input_ids, **inputs)

    monkeypatch.setattr(LlamaModel, "forward", seen)
    limit = {"gradient_checkpointing": True, "tokens_per_micro_batch": 32}
    gradient(tiny_llama, uneven_groups, "grpo", **limit)
    # The longest prompt, of 11, with its longest response, of 12, has 23.
    assert 23 <= max(sizes) <= 32


def test_a_model_that_would_drop_values_out_while_it_recomputes_is_refused():
    config = OPTConfig(
        vocab_size=23,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        dropout=0.5,
    )
    model = OPTForCausalLM(config).requires_grad_(False).eval()
    with pytest.raises(ConfigError, match=r"OPTForCausalLM .*drops values out"):
        recompute_layers(model)


def test_dropout_inside_a_layer_stays_off():
    config = GPT2Config(vocab_size=23, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    assert config.resid_pdrop == config.attn_pdrop == 0.1
    model = GPT2LMHeadModel(config).requires_grad_(False).eval()
    recompute_layers(model)
    ids = torch.arange(1, 9)[None, :]
    logits = [model(input_ids=ids, use_cache=False).logits for _ in range(2)]
    assert torch.equal(*logits)


def test_a_model_without_layers_that_can_run_again_is_refused(tiny_llama):
    tiny_llama.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match="gradient_checkpointing=true: LlamaForCausalLM"):
        recompute_layers(tiny_llama)
