"""The critic: what it says, what it learns from, and when the policy waits for it."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_llm.algorithms import ppo
from rl_llm.plugins import load_module
from rl_llm.policy.adapters import CRITIC, POLICY
from rl_llm.policy.pack import TrainGroup, TrainRow, collate
from rl_llm.policy.penalty import Penalty
from rl_llm.policy.update import CriticSums

engines = load_module(Path(__file__).with_name("engines.py"))
CPU = torch.device("cpu")


def ppo_engine(base, *, algorithm=None, **settings):
    return engines.engine_for(base, algorithm=ppo(**(algorithm or {})), **settings)


def batch_of(groups):
    return collate(groups, pad_id=0, device=CPU)


def weights(engine, adapter):
    part = f".{adapter}."
    return {n: p.detach().clone() for n, p in engine._model.named_parameters() if part in n}


def moved(engine, before, adapter):
    return any(not torch.equal(value, before[n]) for n, value in weights(engine, adapter).items())


def test_a_new_critic_says_nothing(tiny_llama, uneven_groups):
    engine = ppo_engine(tiny_llama)
    assert not engine.critic.values(batch_of(uneven_groups)).any()


def test_a_value_does_not_see_the_token_that_it_stands_before(tiny_llama):
    engine = ppo_engine(tiny_llama)
    torch.nn.init.ones_(engine.critic.head.weight)
    rows = [(5, 6, 7), (5, 6, 8), (5, 9, 7)]
    group = TrainGroup(
        prompt_ids=(2, 3),
        rows=tuple(
            TrainRow(token_ids=ids, engine_logprobs=(-1.0,) * 3, advantage=0.0) for ids in rows
        ),
    )
    values_BT = engine.critic.values(batch_of([group]))
    torch.testing.assert_close(values_BT[0], values_BT[1])  # they differ in their last token
    torch.testing.assert_close(values_BT[0, :2], values_BT[2, :2])
    assert abs(values_BT[0, 2] - values_BT[2, 2]) > 1e-3


def test_with_a_critic_of_zeros_every_token_is_worth_the_reward(tiny_llama, uneven_groups):
    """V = 0: with lambda 1 the advantage of every token is what the completion got."""
    engine = ppo_engine(tiny_llama, algorithm={"lambda_policy": 1.0, "whiten": False})
    (part,) = engine._prepare(uneven_groups, Penalty(), np.random.default_rng(0))
    for micro in part.micro_batches:
        expected_BT = micro.tokens.advantages_BT
        torch.testing.assert_close(micro.start.advantages_BT, expected_BT)
        torch.testing.assert_close(micro.start.targets_BT, expected_BT)


def test_advantages_of_a_batch_are_whitened_over_all_its_parts(tiny_llama, uneven_groups):
    engine = ppo_engine(tiny_llama, updates_per_batch=2)
    parts = engine._prepare(uneven_groups, Penalty(), np.random.default_rng(0))
    assert len(parts) == 2
    kept = torch.cat(
        [
            micro.start.advantages_BT[micro.tokens.response_mask_BT]
            for part in parts
            for micro in part.micro_batches
        ]
    )
    assert len(kept) == 46
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert kept.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_the_policy_waits_for_the_warm_up_and_the_critic_does_not(tiny_llama, uneven_groups):
    engine = ppo_engine(tiny_llama, algorithm={"critic_warmup_steps": 2})
    for step, policy_moves in ((1, False), (2, False), (3, True)):
        policy, critic = weights(engine, POLICY), weights(engine, CRITIC)
        facts = engines.update(engine, uneven_groups, step=step)
        assert moved(engine, policy, POLICY) is policy_moves
        # At first the head alone moves: its zeros let no gradient through to the adapter.
        assert moved(engine, critic, CRITIC) is (step > 1)
        assert (facts.grad_norm > 0) is policy_moves and facts.critic.grad_norm > 0


def test_a_critic_learns_what_completions_are_worth(tiny_llama, uneven_groups):
    """Every group is worth something else: after enough updates most of that is explained."""
    groups = [
        replace(group, rows=tuple(replace(row, advantage=float(position)) for row in group.rows))
        for position, group in enumerate(uneven_groups)
    ]
    settings = {"critic_warmup_steps": 99, "critic_lr": 1e-2, "value_clip": None}
    engine = ppo_engine(tiny_llama, algorithm=settings)
    first = engines.update(engine, groups).critic
    for _ in range(30):
        last = engines.update(engine, groups).critic
    assert first.explained_variance == 0.0 and first.value_mean == 0.0
    assert last.explained_variance > 0.9
    assert last.value_loss < 0.1 * first.value_loss


def test_where_targets_hardly_vary_no_error_explains_less_than_minus_one():
    """Targets 0.99 and 1.01 with values 0 and 1: 1 - .2401 / .0001 is -2400."""
    sums = CriticSums(CPU)
    sums.add(
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([[0.99, 1.01]]),
        torch.ones(1, 2, dtype=torch.bool),
        value_loss=torch.tensor(0.0),
    )
    assert sums.facts([[0.0, 0.0]]).explained_variance == -1.0


def test_a_value_that_moved_past_the_clip_is_charged_for_where_it_started(
    tiny_llama, uneven_groups
):
    """V = 0 at first, then closer to the targets: under a clip of next to nothing the second epoch
    counts as far off as the first, max((v - R)^2, (0 - R)^2) / 2."""

    def losses(value_clip):
        settings = {"critic_lr": 3e-3, "value_clip": value_clip, "lambda_critic": 1.0}
        made = [
            ppo_engine(copy.deepcopy(tiny_llama), algorithm=settings, epochs=epochs)
            for epochs in (1, 2)
        ]
        once, twice = (engines.update(engine, uneven_groups).critic for engine in made)
        return once.value_loss, 2 * twice.value_loss - once.value_loss

    first, second_clipped = losses(1e-6)
    assert losses(None)[1] < 0.99 * first
    assert second_clipped > 0.9999 * first


@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_a_refresh_forgets_the_critics_moments_where_its_targets_hold_the_penalty(
    tiny_llama, uneven_groups, placement
):
    kl = {"placement": placement, "reference": {"mode": "snapshot", "refresh_every": 2}}
    engine = ppo_engine(tiny_llama, algorithm={"critic_warmup_steps": 0}, kl=kl)
    remembered = []
    for step in (1, 2):
        engines.update(engine, uneven_groups, step=step)
        moments = engine._backend.optimizer.state
        remembered.append([p in moments for p in engine.critic.parameters()])
    assert all(remembered[0])
    assert set(remembered[1]) == {placement == "loss"}


def test_state_brings_back_critic_and_optimiser_to_the_bit(tiny_llama, uneven_groups, tmp_path):
    first, second = (ppo_engine(copy.deepcopy(tiny_llama), seed=seed) for seed in (1, 2))
    for step in (1, 2):
        engines.update(first, uneven_groups, step=step)
    first.save_adapter(tmp_path)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load(tmp_path, torch.load(tmp_path / "state.pt", weights_only=True))
    for step in (5, 6):
        facts = [engines.update(engine, uneven_groups, step=step) for engine in (first, second)]
        assert facts[0] == facts[1]
    for adapter in (POLICY, CRITIC):
        assert not moved(second, weights(first, adapter), adapter)


def test_the_saved_adapter_is_the_policys_alone(tiny_llama, uneven_groups, tmp_path):
    from safetensors.torch import load_file

    engine = ppo_engine(tiny_llama)
    engine.save_adapter(tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 28
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
