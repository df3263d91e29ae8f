"""What is published merged: the base's own matrices with the adapter added, in published names."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from rl_llm.errors import ModelError
from rl_llm.rollout.merged import MergedCheckpoint, MergedWeights, adapter_deltas, share_parameters

SMALL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
IDS = torch.tensor([[3, 4, 5, 6]])


def llama(*, tied):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))
    return model.requires_grad_(False).eval()


def adapt(base, folder, *, targets="all-linear", seed=1, **options):
    """Put an adapter with effect on the base, save it, and return the adapted model."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted


def test_a_delta_is_alpha_over_rank_times_b_a(tmp_path):
    adapted = adapt(llama(tied=False), tmp_path, targets=["o_proj"])
    layer = adapted.base_model.model.model.layers[1].self_attn.o_proj
    expected = 8 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    deltas = dict(adapter_deltas(tmp_path))
    assert sorted(deltas) == [f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)]
    torch.testing.assert_close(deltas["model.layers.1.self_attn.o_proj"], expected)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / 4**0.5),
        ({"rank_pattern": {"o_proj": 16}}, 8 / 16),
        ({"alpha_pattern": {r"layers\.1\.self_attn\.o_proj": 2, "o_proj": 3}}, 2 / 4),
        ({"rank_pattern": {"o_proj": 16}, "use_rslora": True}, 8 / 16**0.5),
    ],
)
def test_an_adapter_made_elsewhere_is_scaled_as_peft_scales_it(tmp_path, options, factor):
    adapted = adapt(llama(tied=False), tmp_path, targets=["o_proj"], **options)
    layer = adapted.base_model.model.model.layers[1].self_attn.o_proj
    delta = dict(adapter_deltas(tmp_path))["model.layers.1.self_attn.o_proj"]
    torch.testing.assert_close(delta, layer.get_delta_weight("default"))
    expected = factor * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(delta, expected)


def test_an_adapter_of_another_kind_is_refused_by_its_kind(tmp_path):
    config = IA3Config(target_modules=["o_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    get_peft_model(llama(tied=False), config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"no LoRA adapter: .* peft_type='IA3' .*; give one"):
        next(adapter_deltas(tmp_path))


@pytest.mark.parametrize("tied", [False, True])
def test_a_written_model_computes_what_the_adapted_one_does(tmp_path, tied):
    base = llama(tied=tied)
    checkpoint = MergedCheckpoint(base)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = adapt(base, tmp_path / "adapter")
    checkpoint.write(tmp_path / "adapter", tmp_path / "merged")
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert ("lm_head.weight" in names) == (not tied)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(written(IDS).logits, adapted(IDS).logits)
        assert not torch.allclose(written(IDS).logits, llama(tied=tied)(IDS).logits, atol=0.01)
    clean = adapted.unload().state_dict()
    assert all(torch.equal(clean[name], tensor) for name, tensor in before.items())


def test_experts_are_written_in_the_names_of_their_published_files(tmp_path):
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **SMALL,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        tie_word_embeddings=False,
    )
    base = Qwen3MoeForCausalLM(config).requires_grad_(False).eval()
    checkpoint = MergedCheckpoint(base)
    adapt(base, tmp_path / "adapter", targets=["q_proj"])
    checkpoint.write(tmp_path / "adapter", tmp_path / "merged")
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert "model.layers.1.mlp.experts.1.gate_proj.weight" in names


def test_merging_again_and_again_leaves_no_drift(tmp_path):
    base = llama(tied=False)
    weights = MergedWeights(base)
    adapt(base, tmp_path)
    first = dict(weights.merge(tmp_path))
    for _ in range(5):
        again = dict(weights.merge(tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("other", "found"), [({"num_hidden_layers": 1}, "lacks"), ({"hidden_size": 16}, r"has as \(")]
)
def test_an_adapter_of_another_model_is_refused(tmp_path, other, found):
    adapt(llama(tied=False), tmp_path)
    weights = MergedWeights(LlamaForCausalLM(LlamaConfig(**SMALL | other)))
    with pytest.raises(ModelError, match=rf"adapts model\.layers.*, which the model {found}"):
        list(weights.merge(tmp_path))


def test_an_adapter_on_a_tied_output_is_refused(tmp_path):
    base = llama(tied=True)
    checkpoint = MergedCheckpoint(base)
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        adapt(base, tmp_path / "adapter", targets=["lm_head"])
    with pytest.raises(ModelError, match=r"adapts lm_head.*another layer shares"):
        checkpoint.write(tmp_path / "adapter", tmp_path / "merged")


def test_a_shared_structure_holds_no_second_copy_of_the_weights():
    base = llama(tied=False)
    mine = {p.data_ptr() for p in share_parameters(base).parameters()}
    assert mine == {p.data_ptr() for p in base.parameters()}
