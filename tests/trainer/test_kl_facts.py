"""What a KL controller hears of a step."""

from dataclasses import fields

import pytest

from rl_llm.config import parse_recipe
from rl_llm.kl import PpoPenalty, Target
from rl_llm.policy import UpdateFacts
from rl_llm.trainer.loop import _kl_facts

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
    """Return the facts of a step of two updates that trained the policy, all divergences 0."""
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    given = {"trained_tokens": 100, "num_updates": 2, "policy_learns": True, "critic": None}
    return UpdateFacts(**(blank | given | changes))


def beta_after(controller, facts):
    controller.observe(_kl_facts(facts, ROW, RECIPE))
    return controller.beta


def ppo_penalty():
    return PpoPenalty(beta=1.0, nats_per_token=0.01, total_steps=10)


def target():
    return Target(beta=1.0, gain=0.5, nats_per_token=0.01, total_steps=10)


@pytest.mark.parametrize(
    ("nats", "num_updates", "num_left_out", "beta"),
    [
        (0.02, 2, 0, 2.0),
        (0.001, 2, 0, 0.5),
        (0.02, 1, 3, 2.0),  # stopped at the second: it measured what it was stopped for
        (0.0, 1, 0, 1.0),  # one group was left, for one update: nothing could be measured
        (0.0, 0, 0, 1.0),
    ],
)
def test_the_kl_to_old_moves_beta_where_a_second_update_measured_it(
    nats, num_updates, num_left_out, beta
):
    facts = step(old_nats_per_token=nats, num_updates=num_updates, num_left_out=num_left_out)
    assert beta_after(ppo_penalty(), facts) == beta


def test_one_update_is_enough_to_measure_the_kl_to_the_reference():
    assert beta_after(target(), step(ref_nats_per_token=0.02, num_updates=1)) == 1.1


def test_a_policy_that_waits_for_its_critic_moves_no_beta():
    assert beta_after(target(), step()) == pytest.approx(0.9)
    assert beta_after(target(), step(policy_learns=False)) == 1.0
