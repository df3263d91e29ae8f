"""Prompts run once give what whole rows give. Legend: see rl_llm/policy/forward.py."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.pack import collate

CPU = torch.device("cpu")


def adapted(base):
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def logprobs_and_gradients(model, batch, *, share_prompts):
    scorer = ResponseScorer(model.get_base_model(), temperature=0.9, share_prompts=share_prompts)
    assert scorer.shares_prompts == share_prompts
    model.zero_grad()
    found = scorer(batch)
    (found.logprobs_BT * batch.advantages_BT).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found, gradients


def test_shared_prompts_give_the_plain_paths_logprobs_and_gradients(tiny_llama, uneven_groups):
    model = adapted(tiny_llama)
    batch = collate(uneven_groups, pad_id=0, device=CPU)
    shared, shared_gradients = logprobs_and_gradients(model, batch, share_prompts=True)
    plain, plain_gradients = logprobs_and_gradients(model, batch, share_prompts=False)
    torch.testing.assert_close(shared.logprobs_BT, plain.logprobs_BT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.entropy_BT, plain.entropy_BT, rtol=1e-5, atol=1e-5)
    assert shared_gradients.keys() == plain_gradients.keys() and len(shared_gradients) == 28
    for name, gradient in plain_gradients.items():
        distance = (shared_gradients[name] - gradient).norm() / gradient.norm()
        assert distance < 1e-5, name


def test_logprobs_are_those_of_each_row_run_alone_without_padding(tiny_llama, uneven_groups):
    model = adapted(tiny_llama)
    batch = collate(uneven_groups, pad_id=0, device=CPU)
    found = ResponseScorer(model.get_base_model(), temperature=0.9)(batch)
    rows = [(group.prompt_ids, row.token_ids) for group in uneven_groups for row in group.rows]
    for b, (prompt_ids, token_ids) in enumerate(rows):
        ids = torch.tensor([prompt_ids + token_ids])
        log_softmax = (model(ids).logits[0].float() / 0.9).log_softmax(-1)
        start = len(prompt_ids) - 1
        expected = [log_softmax[start + t, token].item() for t, token in enumerate(token_ids)]
        assert found.logprobs_BT[b, : len(token_ids)].tolist() == pytest.approx(expected, abs=1e-5)
        assert (found.logprobs_BT[b, len(token_ids) :] == 0).all()


def test_a_prompt_runs_once_and_not_once_a_completion(tiny_llama, uneven_groups):
    rows_seen = []
    embedding = tiny_llama.get_input_embeddings()
    batch = collate(uneven_groups, pad_id=0, device=CPU)
    scorer = ResponseScorer(tiny_llama, temperature=1.0)
    embedding.register_forward_pre_hook(lambda _, args: rows_seen.append(args[0].numel()))
    scorer(batch)
    prompts, responses = batch.prompt_ids_PL.numel(), batch.response_ids_BT[:, :-1].numel()
    assert rows_seen == [prompts, responses]


def test_logits_are_made_at_response_positions_alone(tiny_llama, uneven_groups, monkeypatch):
    rows = []

    def spy(hidden_ND, *args, **kwargs):
        rows.append(len(hidden_ND))
        return original(hidden_ND, *args, **kwargs)

    original = ResponseScorer.__init__.__globals__["token_logprobs"]
    monkeypatch.setitem(ResponseScorer.__init__.__globals__, "token_logprobs", spy)
    ResponseScorer(tiny_llama, temperature=1.0)(collate(uneven_groups, pad_id=0, device=CPU))
    assert rows == [sum(len(row.token_ids) for group in uneven_groups for row in group.rows)]


def test_a_model_with_sliding_windows_takes_the_plain_path(uneven_groups):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).requires_grad_(False).eval()
    assert not ResponseScorer(model, temperature=1.0).shares_prompts


def test_an_architecture_with_biases_and_partial_rotation_gives_the_same(uneven_groups):
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = adapted(GPTNeoXForCausalLM(config).requires_grad_(False).eval())
    batch = collate(uneven_groups, pad_id=0, device=CPU)
    shared, _ = logprobs_and_gradients(model, batch, share_prompts=True)
    plain, _ = logprobs_and_gradients(model, batch, share_prompts=False)
    torch.testing.assert_close(shared.logprobs_BT, plain.logprobs_BT, rtol=1e-5, atol=1e-5)


def test_a_soft_capped_head_runs_as_the_model_runs_it(uneven_groups):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = Gemma2ForCausalLM(config).requires_grad_(False).eval()
    group = uneven_groups[0]
    found = ResponseScorer(model, temperature=1.0)(collate([group], pad_id=0, device=CPU))
    for b, row in enumerate(group.rows):
        ids = torch.tensor([group.prompt_ids + row.token_ids])
        log_softmax = model(ids).logits[0].log_softmax(-1)
        start = len(group.prompt_ids) - 1
        expected = [log_softmax[start + t, id_].item() for t, id_ in enumerate(row.token_ids)]
        assert found.logprobs_BT[b, : len(expected)].tolist() == pytest.approx(expected, abs=1e-5)
