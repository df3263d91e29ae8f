"""Updates: what is trained, how it is cut, and what happens when numbers are not finite."""

import copy
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rl_llm.config import OptimSection
from rl_llm.errors import CheckpointError, RunError
from rl_llm.plugins import load_module
from rl_llm.policy import learning_rate
from rl_llm.policy.pack import TrainGroup, TrainRow, collate

engines = load_module(Path(__file__).with_name("engines.py"))
engine_for, update = engines.engine_for, engines.update


def gradients(engine):
    named = engine._model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def unclipped_gradient(engine, groups, monkeypatch, **changes):
    """Return the whole gradient of an update, as it is before clipping."""
    caught = {}
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda *_: caught.update(gradients(engine)) or torch.tensor(1.0),
    )
    update(engine, groups, lr=0.0, **changes)
    return caught


def test_the_whole_gradient_does_not_depend_on_micro_batches(
    tiny_llama, uneven_groups, monkeypatch
):
    engine = engine_for(tiny_llama)
    whole = unclipped_gradient(engine, uneven_groups, monkeypatch)
    engine._prepare = replace(engine._prepare, optim=OptimSection(tokens_per_micro_batch=24))
    cut = unclipped_gradient(engine, uneven_groups, monkeypatch)
    assert whole.keys() == cut.keys() and len(whole) == 28
    for name, gradient in whole.items():
        assert (cut[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_facts_of_an_on_policy_update(tiny_llama, uneven_groups):
    facts = update(engine_for(tiny_llama), uneven_groups)
    assert facts.trained_tokens == 46
    assert facts.clip_rate == 0 and math.isnan(facts.old_nats_per_token)
    assert facts.ref_nats_per_token > 0
    assert facts.ref_nats_per_response == pytest.approx(facts.ref_nats_per_token * 46 / 11)
    assert 0 < facts.entropy_nats_per_token < math.log(23)
    assert facts.grad_norm > 0


def test_several_updates_per_batch_move_the_policy_away_from_old(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama, updates_per_batch=2, epochs=2)
    facts = update(engine, uneven_groups, lr=1e-2)
    assert facts.old_nats_per_token > 0
    assert facts.trained_tokens == 2 * 46


def test_nothing_to_train_on_changes_nothing_and_measures_nothing(tiny_llama):
    engine = engine_for(tiny_llama)
    before = {name: p.clone() for name, p in engine._model.named_parameters()}
    facts = update(engine, [])
    assert facts.trained_tokens == 0 and facts.policy_loss == 0.0 and facts.grad_norm == 0.0
    assert math.isnan(facts.ref_nats_per_token) and math.isnan(facts.old_nats_per_token)
    assert all(torch.equal(before[name], p) for name, p in engine._model.named_parameters())


def test_an_update_moves_the_adapter_and_nothing_else(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama)
    before = {name: p.clone() for name, p in engine._model.named_parameters()}
    update(engine, uneven_groups)
    moved = {n for n, p in engine._model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {name for name in before if "lora_" in name}


def test_advantage_up_makes_its_tokens_likelier(tiny_llama):
    good = TrainRow(token_ids=(3, 4, 1), engine_logprobs=(-1.0,) * 3, advantage=1.0)
    bad = TrainRow(token_ids=(5, 6, 1), engine_logprobs=(-1.0,) * 3, advantage=-1.0)
    group = TrainGroup(prompt_ids=(2, 7), rows=(good, bad))
    engine = engine_for(tiny_llama)

    def logprob_of_both():
        with torch.no_grad():
            batch = collate([group], pad_id=0, device=torch.device("cpu"))
            return engine._scorer(batch).logprobs_BT.sum(dim=1).tolist()

    before = logprob_of_both()
    for _ in range(5):
        update(engine, [group], beta=0.0, with_reference=False)
    after = logprob_of_both()
    assert after[0] > before[0] + 0.1 and after[1] < before[1] - 0.1


RATIOS = (1.1, 1.6, 0.5)
"""pi over mu at each token of a stale row; the clip holds ratios to 0.8 .. 1.28."""


def logprobs_of(engine, group):
    """Run every row whole, and return a list of (T,) tensors that carry the gradient."""
    rows = []
    for row in group.rows:
        ids = torch.tensor([group.prompt_ids + row.token_ids])
        log_softmax = engine._model(ids).logits[0].float().log_softmax(-1)
        start = len(group.prompt_ids) - 1
        rows.append(torch.stack([log_softmax[start + t, i] for t, i in enumerate(row.token_ids)]))
    return rows


def half_stale_group(engine):
    """A fresh row, and two that older weights drew, with these ratios and both signs of A."""
    tokens, signs, stale = [(3, 4, 1), (5, 6, 1), (7, 2, 1)], (1.0, 1.0, -1.0), (False, True, True)
    blank = [
        TrainRow(token_ids=ids, engine_logprobs=(-1.0,) * 3, advantage=sign, is_stale=is_stale)
        for ids, sign, is_stale in zip(tokens, signs, stale, strict=True)
    ]
    group = TrainGroup(prompt_ids=(2, 9), rows=tuple(blank))
    with torch.no_grad():
        now = logprobs_of(engine, group)
    behaviour = [
        (own - torch.tensor(RATIOS).log() if row.is_stale else own - 0.25).tolist()
        for own, row in zip(now, group.rows, strict=True)
    ]
    rows = [replace(r, engine_logprobs=tuple(b)) for r, b in zip(blank, behaviour, strict=True)]
    return replace(group, rows=tuple(rows))


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_stale_row_is_weighted_by_its_ratio_to_what_drew_it_and_a_fresh_one_by_1(
    tiny_llama, monkeypatch, epochs, beta
):
    engine = engine_for(tiny_llama, epochs=epochs)
    group = half_stale_group(engine)
    found = unclipped_gradient(engine, [group], monkeypatch, beta=beta)
    # -min(rA, clip(r)A) is flat at 1.6 where A = 1, and at 0.5 where A = -1; else its slope is r.
    surrogate = torch.tensor([[1.0, 1.0, 1.0], [1.1, 0.0, 0.5], [1.1, 1.6, 0.0]])
    penalty = torch.tensor([[1.0, 1.0, 1.0], RATIOS, RATIOS])  # k2, weighted by pi / mu
    advantages = torch.tensor([[1.0], [1.0], [-1.0]])
    now = torch.stack(logprobs_of(engine, group))
    with torch.no_grad(), engine._model.disable_adapter():
        distance = now.detach() - torch.stack(logprobs_of(engine, group))
    slopes = -surrogate * advantages + beta * penalty * distance
    engine._model.zero_grad()
    ((slopes * now).sum() / 9).backward()
    expected = gradients(engine)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_fresh_rows_never_look_at_the_engines_logprobs(tiny_llama, uneven_groups, monkeypatch):
    engine = engine_for(tiny_llama)
    others = [
        replace(
            group,
            rows=tuple(
                replace(row, engine_logprobs=(-7.0,) * len(row.token_ids)) for row in group.rows
            ),
        )
        for group in uneven_groups
    ]
    ours = unclipped_gradient(engine, uneven_groups, monkeypatch)
    theirs = unclipped_gradient(engine, others, monkeypatch)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_stale_rows_are_not_in_the_engines_mismatch(tiny_llama):
    engine = engine_for(tiny_llama)
    facts = update(engine, [half_stale_group(engine)])
    assert facts.mismatch_mean_nats == pytest.approx(0.25, abs=1e-5)
    assert facts.mismatch_max_nats == pytest.approx(0.25, abs=1e-5)
    assert facts.stale_share == pytest.approx(6 / 9)
    # KL(mu || pi) by k3 is r - 1 - log r: .0047, .1300 and .1931.
    assert facts.stale_nats_per_token == pytest.approx((0.0047 + 0.1300 + 0.1931) / 3, abs=1e-4)
    assert facts.clip_rate == pytest.approx(2 / 9)


def test_a_batch_of_stale_rows_alone_says_nothing_of_the_engines_mismatch(tiny_llama):
    engine = engine_for(tiny_llama)
    group = half_stale_group(engine)
    facts = update(engine, [replace(group, rows=group.rows[1:])])
    assert facts.stale_share == 1
    assert math.isnan(facts.mismatch_mean_nats) and math.isnan(facts.mismatch_max_nats)


def poisoned():
    row = TrainRow(token_ids=(3, 1), engine_logprobs=(-1.0, -1.0), advantage=math.inf)
    return [TrainGroup(prompt_ids=(2,), rows=(row,))]


def test_an_update_that_is_not_finite_is_skipped_and_counted(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama)
    before = {name: p.clone() for name, p in engine._model.named_parameters()}
    facts = update(engine, poisoned())
    assert engine.num_skipped == facts.num_skipped == 1
    assert facts.policy_loss == facts.grad_norm == facts.trained_tokens == 0
    assert all(torch.equal(before[name], p) for name, p in engine._model.named_parameters())
    facts = update(engine, uneven_groups)
    assert engine.num_skipped == 1
    assert facts.num_skipped == 0
    assert not all(torch.equal(before[name], p) for name, p in engine._model.named_parameters())


def test_five_skipped_updates_in_a_row_stop_the_run_and_four_do_not(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama)
    for _ in range(4):
        update(engine, poisoned())
    update(engine, uneven_groups)
    for _ in range(4):
        update(engine, poisoned())
    with pytest.raises(RunError, match="5 updates in a row"):
        update(engine, poisoned())
    assert engine.num_skipped == 9


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama, grad_clip=1e-3)
    norms = []
    engine._backend.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            math.sqrt(sum(float(g.norm()) ** 2 for g in gradients(engine).values()))
        )
    )
    facts = update(engine, uneven_groups)
    assert facts.grad_norm > 1e-3
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_state_and_adapter_taken_up_again_give_the_same_next_update(
    tiny_llama, uneven_groups, tmp_path
):
    first = engine_for(copy.deepcopy(tiny_llama))
    update(first, uneven_groups)
    first.save_adapter(tmp_path)
    second = engine_for(copy.deepcopy(tiny_llama), seed=77)
    second.load(tmp_path, copy.deepcopy(first.state_dict()))
    for engine in (first, second):
        update(engine, uneven_groups)
    for (name, mine), (_, theirs) in zip(
        first._model.named_parameters(), second._model.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_whoever_the_umask_lets_may_read_every_file_of_a_saved_adapter(
    tiny_llama, tmp_path, umask, mode
):
    engine = engine_for(copy.deepcopy(tiny_llama))
    before = os.umask(umask)
    try:
        engine.save_adapter(tmp_path / "adapter")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").iterdir()}
    assert modes["adapter_model.safetensors"] == mode
    assert set(modes.values()) == {mode}


def test_an_adapter_of_another_rank_is_refused(tiny_llama, tmp_path):
    first = engine_for(copy.deepcopy(tiny_llama), rank=4)
    first.save_adapter(tmp_path)
    second = engine_for(copy.deepcopy(tiny_llama), rank=2)
    with pytest.raises(CheckpointError, match="does not fit"):
        second.load(tmp_path, first.state_dict())


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 1, 0.25),
        ("constant", 4, 1.0),
        ("constant", 9, 1.0),
        ("linear", 5, 1.0),
        ("linear", 7, 1 - 2 / 8),
        ("cosine", 9, 0.5),
    ],
)
def test_learning_rate_by_hand(schedule, step, expected):
    optim = OptimSection(lr=1.0, schedule=schedule, warmup_steps=4)
    assert learning_rate(optim, step=step, total_steps=12) == pytest.approx(expected)
