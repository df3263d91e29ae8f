"""Updates: what is trained, how it is cut, and what happens when numbers are not finite."""

import copy
import math

import numpy as np
import pytest
import torch

from rl_llm.algorithms import grpo
from rl_llm.config import OptimSection
from rl_llm.config.schema import LoraSection
from rl_llm.errors import CheckpointError, RunError
from rl_llm.policy import PolicyEngine, Ranks, add_lora, learning_rate
from rl_llm.policy.pack import TrainGroup, TrainRow


def engine_for(base, *, rank=4, seed=5, **optim):
    model = add_lora(base, LoraSection(rank=rank, alpha=8.0), seed=seed)
    generator = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return PolicyEngine(
        model,
        algorithm=grpo(),
        optim=OptimSection(**{"lr": 1e-3, **optim}),
        kl_estimator="k2",
        temperature=1.0,
        max_response_tokens=16,
        pad_id=0,
        ranks=Ranks(),
    )


def update(engine, groups, **changes):
    settings = {"beta": 0.1, "lr": 1e-3, "with_reference": True}
    return engine.update(groups, rng=np.random.default_rng(0), **(settings | changes))


def gradients(engine):
    named = engine._model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def unclipped_gradient(engine, groups, monkeypatch):
    """Return the whole gradient of an update, as it is before clipping."""
    caught = {}
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda *_: caught.update(gradients(engine)) or torch.tensor(1.0),
    )
    update(engine, groups, lr=0.0)
    return caught


def test_the_whole_gradient_does_not_depend_on_micro_batches(
    tiny_llama, uneven_groups, monkeypatch
):
    engine = engine_for(tiny_llama)
    whole = unclipped_gradient(engine, uneven_groups, monkeypatch)
    engine._optim = OptimSection(tokens_per_micro_batch=24)
    cut = unclipped_gradient(engine, uneven_groups, monkeypatch)
    assert whole.keys() == cut.keys() and len(whole) == 28
    for name, gradient in whole.items():
        assert (cut[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_facts_of_an_on_policy_update(tiny_llama, uneven_groups):
    facts = update(engine_for(tiny_llama), uneven_groups)
    assert facts.trained_tokens == 46
    assert facts.clip_rate == 0 and facts.old_nats_per_token == 0
    assert facts.ref_nats_per_token > 0
    assert facts.ref_nats_per_response == pytest.approx(facts.ref_nats_per_token * 46 / 11)
    assert 0 < facts.entropy_nats_per_token < math.log(23)
    assert facts.grad_norm > 0


def test_several_updates_per_batch_move_the_policy_away_from_old(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama, updates_per_batch=2, epochs=2)
    facts = update(engine, uneven_groups, lr=1e-2)
    assert facts.old_nats_per_token > 0
    assert facts.trained_tokens == 2 * 46


def test_nothing_to_train_on_changes_nothing_and_is_all_zero(tiny_llama):
    engine = engine_for(tiny_llama)
    before = {name: p.clone() for name, p in engine._model.named_parameters()}
    facts = update(engine, [])
    assert facts.trained_tokens == 0 and facts.policy_loss == 0.0 and facts.grad_norm == 0.0
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
            (batches, _) = engine._prepare([group])
            return engine._scorer(batches[0][0]).logprobs_BT.sum(dim=1).tolist()

    before = logprob_of_both()
    for _ in range(5):
        update(engine, [group], beta=0.0, with_reference=False)
    after = logprob_of_both()
    assert after[0] > before[0] + 0.1 and after[1] < before[1] - 0.1


def poisoned():
    row = TrainRow(token_ids=(3, 1), engine_logprobs=(-1.0, -1.0), advantage=math.inf)
    return [TrainGroup(prompt_ids=(2,), rows=(row,))]


def test_an_update_that_is_not_finite_is_skipped_and_counted(tiny_llama, uneven_groups):
    engine = engine_for(tiny_llama)
    before = {name: p.clone() for name, p in engine._model.named_parameters()}
    facts = update(engine, poisoned())
    assert engine.num_skipped == 1
    assert facts.policy_loss == facts.grad_norm == facts.trained_tokens == 0
    assert all(torch.equal(before[name], p) for name, p in engine._model.named_parameters())
    update(engine, uneven_groups)
    assert engine.num_skipped == 1
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
    engine._optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            math.sqrt(sum(float(p.grad.norm()) ** 2 for p in engine._parameters))
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
