"""What a KL controller hears of a step."""

import math
from dataclasses import fields

import pytest

from rl_llm.config import parse_recipe
from rl_llm.kl import Accuracy, Guarded, PpoPenalty, Target
from rl_llm.policy import UpdateFacts
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.loop import _kl_facts
from rl_llm.trainer.metrics import Counters, harvest_row

RECIPE = parse_recipe(
    {
        "run": {"name": "a", "steps": 10},
        "model": {"path": "m"},
        "data": {"train": [{"use": "arithmetic", "levels": [1]}]},
        "rewards": [{"use": "exact_answer"}],
    },
    where="test",
)
ROW = {"train/pass_rate": 0.5, "step": 3}


def step(**changes):
    """Return the facts of a step that trained the policy, all divergences 0."""
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    given = {"trained_tokens": 100, "policy_learns": True, "critic": None}
    return UpdateFacts(**(blank | given | changes))


def beta_after(controller, facts):
    controller.observe(_kl_facts(facts, ROW, RECIPE))
    return controller.beta


def test_a_step_in_which_nothing_counts_is_no_step_in_which_all_was_wrong():
    empty = Harvest(
        scored=(), draws=(), admitted=(), dropped=(), num_rounds=1, generate_s=0.5, score_s=0.1
    )
    controller = Accuracy(beta=1.0, total_steps=10)
    controller.observe(_kl_facts(step(), ROW, RECIPE))
    controller.observe(_kl_facts(step(), ROW | harvest_row(empty, Counters()), RECIPE))
    assert controller.beta == pytest.approx((math.tanh(0.5) + 1) / 2)


def ppo_penalty():
    return PpoPenalty(beta=1.0, nats_per_token=0.01, total_steps=10)


def target():
    return Target(beta=1.0, gain=0.5, nats_per_token=0.01, total_steps=10)


@pytest.mark.parametrize(("nats", "beta"), [(0.02, 2.0), (0.001, 0.5), (0.0, 0.5), (math.nan, 1.0)])
def test_the_kl_to_old_moves_beta_where_an_update_measured_it(nats, beta):
    assert beta_after(ppo_penalty(), step(old_nats_per_token=nats)) == beta


@pytest.mark.parametrize(("nats", "beta"), [(0.02, 1.1), (math.nan, 1.0)])
def test_so_does_that_to_the_reference(nats, beta):
    assert beta_after(target(), step(ref_nats_per_token=nats)) == beta


def test_the_guard_hears_of_a_refresh():
    guarded = Guarded(target(), spike=3.0)
    for refreshed in (False, True):
        guarded.observe(_kl_facts(step(reference_refreshed=refreshed), ROW, RECIPE))
        remembered = guarded.state_dict()["recent"]["ref_nats_per_token"]
        assert remembered == ([] if refreshed else [0.0])


def test_a_policy_that_waits_for_its_critic_moves_no_beta():
    assert beta_after(target(), step()) == pytest.approx(0.9)
    assert beta_after(target(), step(policy_learns=False)) == 1.0
