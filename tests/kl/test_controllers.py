"""What holds for every controller, the facts they learn from, and the constant."""

import json
import math

import pytest

from rl_llm.config import NamedPart
from rl_llm.config.kl_faults import BLIND_CONTROLLERS
from rl_llm.errors import ConfigError
from rl_llm.kl import CONTROLLERS, Constant, Guarded
from rl_llm.plugins import build_named

OPTIONS = {
    "constant": {"beta": 0.1},
    "grpo_d": {},
    "grpo_d_rising": {},
    "linear": {"start": 0.1, "end": 0.0},
    "cosine": {"start": 0.1, "end": 0.0},
    "target": {"nats_per_token": 0.05},
    "ppo_penalty": {"nats_per_token": 0.05},
    "accuracy": {},
}

each = pytest.mark.parametrize("name", CONTROLLERS)


def make(name):
    return CONTROLLERS[name](**OPTIONS[name], total_steps=100)


def course(facts, first, last):
    """Return facts of the steps from first to last, each with divergences of its own."""
    return [
        facts(
            step,
            ref_nats_per_token=0.02 + 0.01 * (step % 7),
            old_nats_per_token=0.5 if step % 5 == 0 else 0.01,
            accuracy=step / 100,
        )
        for step in range(first, last + 1)
    ]


def betas(controller, course):
    found = []
    for facts in course:
        controller.observe(facts)
        found.append(controller.beta)
    return found


@each
def test_a_recipe_can_name_every_controller(name, facts):
    part = NamedPart.model_validate({"name": name, **OPTIONS[name]})
    built = build_named(part, CONTROLLERS, path="kl.controller", total_steps=100)
    assert betas(built, course(facts, 1, 9)) == betas(make(name), course(facts, 1, 9))


def test_what_a_controller_refuses_names_its_place_in_the_recipe():
    part = NamedPart.model_validate({"name": "target", "beta": 0.0, "nats_per_token": 0.05})
    with pytest.raises(ConfigError, match=r"^kl\.controller: beta=0\.0: target multiplies beta"):
        build_named(part, CONTROLLERS, path="kl.controller", total_steps=100)


@each
def test_a_controller_resumed_from_json_in_mid_run_goes_on_alike(name, facts):
    first, second = make(name), make(name)
    betas(first, course(facts, 1, 42))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = course(facts, 43, 80)
    assert second.beta == first.beta
    assert betas(second, rest) == betas(first, rest)


@each
def test_a_guarded_controller_resumed_from_json_in_mid_run_goes_on_alike(name, facts):
    first, second = (Guarded(make(name), floor=0.004, ceiling=0.09, spike=1.2) for _ in range(2))
    betas(first, course(facts, 1, 42))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = course(facts, 43, 80)
    assert second.beta == first.beta
    assert betas(second, rest) == betas(first, rest)


@each
def test_every_controller_but_the_constant_moves(name, facts):
    assert (len(set(betas(make(name), course(facts, 1, 42)))) > 1) == (name != "constant")


@each
def test_the_blind_controllers_are_those_that_no_divergence_moves(name, facts):
    nothing, much = make(name), make(name)
    nothing.observe(facts(1))
    much.observe(facts(1, ref_nats_per_token=9.0, old_nats_per_token=9.0))
    assert (nothing.beta == much.beta) == (name in BLIND_CONTROLLERS)


@each
def test_a_beta_that_is_ever_above_0_needs_a_reference(name):
    assert make(name).needs_reference


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_ramp_from_0_to_0_needs_no_reference(name):
    assert not CONTROLLERS[name](start=0.0, end=0.0, total_steps=100).needs_reference


def test_constant_zero_needs_no_reference_and_another_constant_does(facts):
    assert not Constant(beta=0.0, total_steps=1).needs_reference
    constant = Constant(beta=0.1, total_steps=1)
    assert constant.needs_reference
    constant.observe(facts(1, ref_nats_per_token=9.0))
    assert constant.beta == 0.1


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_a_beta_that_makes_no_sense_is_refused(beta):
    with pytest.raises(ConfigError, match=f"^beta={beta} .*; use a number of 0 or more"):
        Constant(beta=beta, total_steps=1)


def test_the_divergence_of_the_penalty_is_that_from_what_it_is_against(facts):
    measured = {
        "ref_nats_per_token": 0.1,
        "ref_nats_per_response": 2.0,
        "old_nats_per_token": 0.3,
        "old_nats_per_response": 6.0,
    }
    ref, old = facts(**measured), facts(**measured, against="old")
    assert (ref.nats_per_token, ref.nats_per_response) == (0.1, 2.0)
    assert (old.nats_per_token, old.nats_per_response) == (0.3, 6.0)
