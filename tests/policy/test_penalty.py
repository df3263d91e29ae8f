"""Where the KL penalty enters an update, what it holds the policy to, and when updates stop."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_llm.algorithms import grpo, ppo
from rl_llm.kl import to_go
from rl_llm.plugins import load_module
from rl_llm.policy.penalty import Penalty

engines = load_module(Path(__file__).with_name("engines.py"))
IN_REWARD = Penalty(beta=0.5, estimator="k1", placement="reward", measures_reference=True)


def prepared(engine, groups, penalty):
    (part,) = engine._prepare(groups, penalty, np.random.default_rng(0))
    return part.micro_batches


@torch.no_grad()
def divergences(engine, micro):
    """Return log pi - log ref (B, T), from two passes of the whole model."""
    policy_BT = engine._scorer(micro.tokens).logprobs_BT
    with engine._model.disable_adapter():
        return policy_BT - engine._scorer(micro.tokens).logprobs_BT


def test_in_the_reward_a_token_pays_for_itself_and_all_later_ones(tiny_llama, uneven_groups):
    engine = engines.engine_for(copy.deepcopy(tiny_llama))
    for micro in prepared(engine, uneven_groups, IN_REWARD):
        mask_BT = micro.tokens.response_mask_BT
        costs_BT = 0.5 * divergences(engine, micro)
        assert costs_BT[mask_BT].abs().mean() > 1e-3
        expected_BT = micro.tokens.advantages_BT - to_go(costs_BT, mask_BT)
        torch.testing.assert_close(micro.start.advantages_BT, expected_BT)


def test_with_a_critic_each_token_pays_where_it_stands(tiny_llama, uneven_groups):
    """V = 0 and lambda 0: the advantage of a token is its own reward."""
    algorithm = ppo(lambda_policy=0.0, whiten=False)
    engine = engines.engine_for(copy.deepcopy(tiny_llama), algorithm=algorithm)
    for micro in prepared(engine, uneven_groups, IN_REWARD):
        expected_BT = micro.tokens.rewards_BT - 0.5 * divergences(engine, micro)
        expected_BT = expected_BT.masked_fill(~micro.tokens.response_mask_BT, 0.0)
        torch.testing.assert_close(micro.start.advantages_BT, expected_BT)


def test_a_penalty_in_the_reward_is_not_in_the_loss_as_well(tiny_llama, uneven_groups):
    reward = engines.engine_for(copy.deepcopy(tiny_llama), kl={"placement": "reward"})
    facts = engines.update(reward, uneven_groups, beta=0.5)
    micro = prepared(reward, uneven_groups, IN_REWARD)
    assert len(micro) == 1 and facts.ref_nats_per_token > 0
    mask_BT = micro[0].tokens.response_mask_BT
    # At ratio 1 the loss is minus the mean advantage of the tokens, before the step moved them.
    fresh = prepared(engines.engine_for(copy.deepcopy(tiny_llama)), uneven_groups, IN_REWARD)[
        0
    ].start
    assert facts.policy_loss == pytest.approx(-fresh.advantages_BT[mask_BT].mean().item(), rel=1e-4)


def test_later_updates_are_left_out_once_the_policy_has_gone_too_far(tiny_llama, uneven_groups):
    def taken(stop_at_old, *, epochs=4):
        kl = {"stop_at_old": stop_at_old}
        engine = engines.engine_for(copy.deepcopy(tiny_llama), kl=kl, epochs=epochs)
        return engines.update(engine, uneven_groups, lr=1e-2)

    free, held, two = taken(None), taken(1e-3), taken(None, epochs=2)
    # Each update has 46 tokens.
    assert (free.trained_tokens, free.num_left_out) == (4 * 46, 0)
    assert (held.trained_tokens, held.num_left_out) == (46, 3)
    # What the second update saw before it was left out is reported, as if it had been taken: a
    # controller must not take a policy that went too far for one that stood still. It is the number
    # that the stop was decided by, not its mean with the first update's 0.
    assert held.old_nats_per_token == pytest.approx(two.old_nats_per_token)
    assert held.old_nats_per_response == pytest.approx(two.old_nats_per_response)
    assert held.old_nats_per_token > 1e-3
    assert taken(1.01 * held.old_nats_per_token, epochs=2).num_left_out == 0
    assert taken(0.99 * held.old_nats_per_token, epochs=2).num_left_out == 1
    assert free.old_nats_per_token > held.old_nats_per_token


def test_an_update_that_was_left_out_leaves_nothing_behind(tiny_llama, uneven_groups):
    """The second epoch of each step is judged and left out: as if there had been one alone."""

    def weights_after(**settings):
        engine = engines.engine_for(copy.deepcopy(tiny_llama), **settings)
        facts = [engines.update(engine, uneven_groups, lr=1e-2) for _ in range(2)]
        assert [each.trained_tokens for each in facts] == [46, 46]  # One update of each.
        return [p.detach().clone() for p in engine.parameters()]

    stopped = weights_after(kl={"stop_at_old": 1e-9}, epochs=2)
    assert all(map(torch.equal, stopped, weights_after()))


def test_a_penalty_against_old_holds_later_updates_near_their_start(tiny_llama, uneven_groups):
    def gone(beta):
        engine = engines.engine_for(copy.deepcopy(tiny_llama), kl={"against": "old"}, epochs=6)
        return engines.update(engine, uneven_groups, lr=1e-2, beta=beta, with_reference=True)

    free, held = gone(0.0), gone(20.0)
    assert held.old_nats_per_token < 0.5 * free.old_nats_per_token
    assert math.isnan(held.ref_nats_per_token)  # nothing asks for the reference


def test_where_one_group_alone_is_left_a_penalty_against_old_is_0(tiny_llama, uneven_groups):
    """Two updates were asked for, and there are not enough groups to share out."""

    def weights_after(beta):
        kl = {"against": "old"}
        engine = engines.engine_for(copy.deepcopy(tiny_llama), kl=kl, updates_per_batch=2)
        facts = engines.update(engine, uneven_groups[:1], beta=beta, lr=1e-2)
        # One update of 3 + 9 + 1 tokens.
        assert facts.trained_tokens == 13 and math.isnan(facts.old_nats_per_token)
        return [p.detach().clone() for p in engine.parameters()]

    assert all(map(torch.equal, weights_after(0.0), weights_after(5.0)))


def test_the_entropy_bonus_spreads_the_policy(tiny_llama, uneven_groups):
    def entropies(bonus):
        engine = engines.engine_for(copy.deepcopy(tiny_llama), algorithm=grpo(entropy_bonus=bonus))
        facts = [engines.update(engine, uneven_groups, beta=0.0, lr=1e-2) for _ in range(6)]
        return [each.entropy_nats_per_token for each in facts]

    plain, spread = entropies(0.0), entropies(10.0)
    assert plain[0] == pytest.approx(spread[0])
    assert spread[-1] > max(plain[-1], spread[0])


def test_a_refresh_takes_the_policy_as_the_reference_and_forgets_the_moments(
    tiny_llama, uneven_groups
):
    kl = {"reference": {"mode": "snapshot", "refresh_every": 2}}
    engine = engines.engine_for(copy.deepcopy(tiny_llama), kl=kl)
    facts = [engines.update(engine, uneven_groups, step=1, lr=1e-2)]
    assert engine._backend.optimizer.state
    facts.append(engines.update(engine, uneven_groups, step=2, lr=1e-2))
    assert not engine._backend.optimizer.state
    facts.append(engines.update(engine, uneven_groups, step=3, lr=1e-2))
    # Measured before each step: the policy's start, one step from it, and the new reference.
    assert facts[0].ref_nats_per_token < facts[1].ref_nats_per_token
    assert facts[2].ref_nats_per_token == 0.0
    assert [each.reference_refreshed for each in facts] == [False, True, False]
