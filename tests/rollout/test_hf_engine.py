"""The transformers engine on the shipped model: its draws, its logprobs, and its weights."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

from rl_llm.config.sections import LoraSection
from rl_llm.errors import ModelError
from rl_llm.policy import add_lora
from rl_llm.rollout import decoding, hf_engine

PROMPTS = ["4+9=", "47+38=", "9999+1=", "123456+654321=", "7+0="]


def texts(groups):
    return {group.problem.prompt: [c.text for c in group.completions] for group in groups}


def recomputed(model, group, completion, *, temperature=1.0):
    ids = torch.tensor([group.prompt_ids + completion.token_ids])
    with torch.no_grad():
        log_softmax = (model(ids).logits[0] / temperature).log_softmax(-1)
    start = len(group.prompt_ids) - 1
    return [log_softmax[start + t, token].item() for t, token in enumerate(completion.token_ids)]


def test_greedy_completions_equal_transformers_generate(base, make_engine, ask, tokenizer):
    engine = make_engine(base)
    requests = [ask(prompt, completions=1, temperature=0.0) for prompt in PROMPTS]
    for group in engine.complete(requests):
        ids = torch.tensor([group.prompt_ids])
        theirs = base.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=96
        )
        assert list(group.completions[0].token_ids) == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logprobs_are_those_of_the_sampling_distribution(base, make_engine, ask, temperature):
    requests = [ask(prompt, temperature=temperature) for prompt in PROMPTS]
    for group in make_engine(base).complete(requests):
        for completion in group.completions:
            expected = recomputed(base, group, completion, temperature=temperature)
            assert list(completion.logprobs) == pytest.approx(expected, abs=1e-4)


def test_a_draw_does_not_depend_on_what_shares_its_batch(base, make_engine, ask):
    requests = [ask(p, completions=8, stream_key=i) for i, p in enumerate(PROMPTS)]
    together = texts(make_engine(base).complete(requests))
    small = texts(make_engine(base, max_batch_rows=8).complete(requests))
    alone = {
        k: v
        for request in requests
        for k, v in texts(make_engine(base).complete([request])).items()
    }
    assert together == small == alone


def test_a_request_of_more_rows_than_a_batch_may_have_is_cut(base, make_engine, ask, monkeypatch):
    requests = [ask(p, completions=11, stream_key=i) for i, p in enumerate(PROMPTS)]
    whole = list(make_engine(base).complete(requests))
    batches, decode = [], hf_engine.decode

    def seen(model, batch):
        batches.append(batch.rows_per_prompt)
        return decode(model, batch)

    monkeypatch.setattr(hf_engine, "decode", seen)
    cut = list(make_engine(base, max_batch_rows=4).complete(requests))
    # 3 are left of 11 rows, and the next request's first 4 do not fit beside them.
    assert batches == [[4], [4], [3]] * 5
    assert [group.problem for group in cut] == [group.problem for group in whole]
    for mine, theirs in zip(cut, whole, strict=True):
        assert [c.token_ids for c in mine.completions] == [c.token_ids for c in theirs.completions]
    batches.clear()
    mixed = [ask("123456+654321=", completions=6), ask("4+9=", completions=2)]
    assert [len(g.completions) for g in make_engine(base, max_batch_rows=4).complete(mixed)] == [
        6,
        2,
    ]
    assert batches == [[4], [2, 2]]


def test_the_same_stream_draws_the_same_and_another_draws_otherwise(base, make_engine, ask):
    engine = make_engine(base)
    draw = [
        texts(engine.complete([ask(PROMPTS[3], completions=8, stream_key=key)]))
        for key in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]


def test_tokens_are_drawn_with_the_probabilities_of_the_model():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(30_000, 3)
    uniforms = torch.rand(30_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, logprobs = decoding.sample(logits, uniforms, temperature=2.0)
    expected = (logits[0] / 2.0).softmax(0)
    shares = torch.bincount(tokens, minlength=3) / 30_000
    # three standard deviations of a share of 30,000 draws are at most .009
    assert (shares - expected).abs().max() < 0.009
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_the_edges_of_the_unit_interval_draw_tokens_that_can_be_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf, 0.0, -torch.inf]])
    uniforms = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert decoding.sample(logits, uniforms, temperature=1.0)[0].tolist() == [1, 1]


def test_a_completion_ends_with_the_stop_token_exactly_when_it_stopped(base, make_engine, ask):
    requests = [ask(p, completions=8, max_new_tokens=30) for p in PROMPTS]
    reasons = set()
    for group in make_engine(base).complete(requests):
        for completion in group.completions:
            reasons.add(completion.finish_reason)
            assert 1 not in completion.token_ids[:-1]
            assert (completion.token_ids[-1] == 1) == (completion.finish_reason == "stop")
            assert len(completion.token_ids) == len(completion.logprobs) <= 30
            if completion.finish_reason == "length":
                assert len(completion.token_ids) == 30
    assert reasons == {"stop", "length"}


def count_positions(base, make_engine, requests, monkeypatch):
    engine, seen = make_engine(base), []
    original = engine._model.forward

    def forward(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return original(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", forward)
    groups = list(engine.complete(requests))
    return groups, seen


def test_a_groups_prompt_is_prefilled_once(base, make_engine, ask, monkeypatch):
    requests = [ask("47+38=", completions=8), ask("12+99=", completions=8)]
    _, seen = count_positions(base, make_engine, requests, monkeypatch)
    assert seen[0] == (2, 6)
    assert seen[1] == (16, 1)


def test_rows_that_have_ended_leave_the_batch(base, make_engine, ask, monkeypatch):
    requests = [ask("1+1=", completions=30), ask("12345678+87654321=", completions=2)]
    _, seen = count_positions(base, make_engine, requests, monkeypatch)
    assert seen[1] == (32, 1)
    assert seen[-1][0] <= 2


def test_published_weights_are_the_adapted_models(base, make_engine, ask, adapter_dir):
    engine = make_engine(base)
    before = texts(engine.complete([ask(p, temperature=0.0) for p in PROMPTS]))
    adapted = add_lora(base, LoraSection(rank=8, alpha=64.0), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    adapted.save_pretrained(str(adapter_dir), save_embedding_layers=False)
    assert texts(engine.complete([ask(p, temperature=0.0) for p in PROMPTS])) == before

    engine.load_weights(adapter_dir, version=7)
    for group in engine.complete([ask(p) for p in PROMPTS]):
        for completion in group.completions:
            assert completion.policy_version == 7
            expected = recomputed(adapted, group, completion)
            assert list(completion.logprobs) == pytest.approx(expected, abs=1e-3)


def test_a_publication_holds_one_copy_of_the_adapted_matrices(
    base, make_engine, write_adapter, adapter_dir
):
    engine = make_engine(base)
    write_adapter(adapter_dir, deviation=0.1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for version in (1, 2):
            engine.load_weights(adapter_dir, version=version)
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    own = [p.nbytes for p in engine._model.parameters() if p.data_ptr() not in shared]
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    # One copy, and beside it the adapter and what one matrix of 28 passes through on the way.
    assert len(own) == 28
    assert sum(own) <= most < 1.5 * sum(own)


def test_publishing_many_times_leaves_no_drift(base, make_engine, ask, adapter_dir):
    engine = make_engine(base)
    adapted = add_lora(base, LoraSection(rank=8, alpha=64.0), seed=1)
    adapted.save_pretrained(str(adapter_dir), save_embedding_layers=False)
    for version in range(20):
        engine.load_weights(adapter_dir, version=version)
    for mine, theirs in zip(
        engine._model.parameters(), make_engine(adapted.unload())._model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_the_base_is_shared_and_not_copied(base, make_engine):
    engine = make_engine(base)
    mine = {p.data_ptr() for p in engine._model.parameters()}
    assert mine == {p.data_ptr() for p in base.parameters()}


def test_matrices_that_are_stored_transposed_are_merged_the_right_way(tmp_path):
    from rl_llm.rollout.hf_engine import TransformersEngine

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20,
        n_embd=32,
        n_layer=1,
        n_head=1,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    base = GPT2LMHeadModel(config).requires_grad_(False).eval()
    engine = TransformersEngine(base, None, stop_ids=[1], max_batch_rows=8)
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        adapted = add_lora(base, LoraSection(rank=4, alpha=8.0), seed=1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    engine.load_weights(tmp_path, version=1)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(engine._model(ids).logits, adapted(ids).logits)


def test_a_prompt_without_room_for_its_completion_is_an_error_with_the_way_out(
    base, make_engine, ask
):
    with pytest.raises(ModelError, match=r"max_new_tokens=255.*256 positions; use at most 252"):
        list(make_engine(base).complete([ask("4+9=", max_new_tokens=255)]))


@pytest.mark.parametrize(
    ("num_digits", "new", "way_out"),
    [
        (300, 200, "set data.max_prompt_tokens to 56 to drop longer prompts"),
        (4, 256, "use at most 252"),
        (300, 256, "lower it, and data.max_prompt_tokens too, until both together are at most 256"),
    ],
)
def test_only_a_positive_number_of_tokens_is_a_way_out(
    base, make_engine, ask, num_digits, new, way_out
):
    with pytest.raises(ModelError) as caught:
        list(make_engine(base).complete([ask("4" * num_digits, max_new_tokens=new)]))
    assert str(caught.value).endswith(f"256 positions; {way_out}")


def test_requests_of_two_temperatures_are_served_in_one_call(base, make_engine, ask):
    requests = [ask("4+9=", temperature=0.0), ask("47+38=", temperature=1.0)]
    assert len(list(make_engine(base).complete(requests))) == 2


def test_no_requests_give_no_groups(base, make_engine):
    assert list(make_engine(base).complete([])) == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_hidden_from_every_kind_of_attention(base, make_engine, ask, attention):
    base.set_attn_implementation(attention)
    for group in make_engine(base).complete([ask(p) for p in PROMPTS]):
        for completion in group.completions:
            expected = recomputed(base, group, completion)
            assert list(completion.logprobs) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_that_cannot_be_merged_is_refused(base, make_engine, adapter_dir):
    engine = make_engine(base)
    adapted = add_lora(base, LoraSection(rank=2, targets=["embed_tokens"]), seed=1)
    adapted.save_pretrained(str(adapter_dir), save_embedding_layers=False)
    with pytest.raises(ModelError, match=r"embed_tokens.*cannot be merged"):
        engine.load_weights(adapter_dir, version=1)
