"""The reference: when it changes, and into what."""

import pytest
import torch

from rl_llm.config.sections import LoraSection
from rl_llm.policy import add_lora
from rl_llm.policy.adapters import POLICY, REFERENCE, adapter_parameters
from rl_llm.policy.reference import Reference

IDS = torch.arange(2, 9)[None, :]


@pytest.fixture
def model(tiny_llama):
    return add_lora(tiny_llama, LoraSection(rank=2), seed=1)


def move_policy(model, value):
    """Set the half of the policy's adapter that starts at 0."""
    for name, parameter in adapter_parameters(model, POLICY).items():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, value)


def logits(model):
    return model.get_base_model()(IDS).logits


def reference_logits(model, reference):
    with reference.active():
        return logits(model)


@pytest.mark.parametrize(
    "settings", [{}, {"mode": "snapshot", "refresh_every": 3}, {"mode": "ema", "decay": 0.9}]
)
def test_every_reference_starts_as_the_base(model, settings):
    base = logits(model)
    reference = Reference(model, **settings)
    move_policy(model, 0.3)
    assert torch.equal(reference_logits(model, reference), base)
    assert not torch.allclose(logits(model), base)


def test_a_snapshot_is_the_policy_as_of_every_third_step(model):
    reference = Reference(model, mode="snapshot", refresh_every=3)
    seen = []
    for step in range(1, 8):
        move_policy(model, 0.1 * step)
        seen.append(reference.after_step(step))
    assert seen == [False, False, True, False, False, True, False]
    assert reference.num_refreshed == 2
    move_policy(model, 0.6)
    assert torch.equal(reference_logits(model, reference), logits(model))


def test_stagnation_refreshes_after_so_many_evaluations_without_a_new_best(model):
    reference = Reference(model, mode="snapshot", refresh_on_stagnation=2)
    due = []
    # .5 is no new best behind .5; .6 is one and starts the count anew; then two without.
    for step, pass_rate in enumerate([0.5, 0.5, 0.6, 0.55, 0.6, 0.4, 0.3], start=1):
        reference.observe_evaluation(pass_rate)
        due.append(reference.after_step(step))
    assert due == [False, False, False, False, True, False, True]


def test_the_average_follows_the_policy_by_hand(model):
    reference = Reference(model, mode="ema", decay=0.9)
    for value in (1.0, 2.0):
        move_policy(model, value)
        assert not reference.after_step(1)
    # 0 -> .1 * 1 = .1 -> .9 * .1 + .1 * 2 = .29
    for name, parameter in adapter_parameters(model, REFERENCE).items():
        if "lora_B" in name:
            torch.testing.assert_close(parameter.data, torch.full_like(parameter, 0.29))
        else:  # The other half never moved.
            torch.testing.assert_close(parameter.data, adapter_parameters(model, POLICY)[name].data)


def test_the_reference_is_never_trained(model):
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    reference = Reference(model, mode="snapshot", refresh_every=1)
    reference.after_step(1)
    reference_logits(model, reference)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    assert trained and not any(REFERENCE in name for name in trained)


def test_state_brings_back_the_weights_and_the_count(tiny_llama):
    model = add_lora(tiny_llama, LoraSection(rank=2), seed=1)
    first = Reference(model, mode="snapshot", refresh_on_stagnation=2)
    move_policy(model, 0.4)
    for pass_rate in (0.5, 0.4, 0.3):
        first.observe_evaluation(pass_rate)
    first.after_step(1)
    first.observe_evaluation(0.2)
    state, expected = first.state_dict(), reference_logits(model, first)
    for parameter in adapter_parameters(model, REFERENCE).values():
        torch.nn.init.zeros_(parameter)
    first.load_state_dict(state)
    assert torch.equal(reference_logits(model, first), expected)
    first.observe_evaluation(0.1)
    assert first.after_step(2) and first.num_refreshed == 2


def test_a_refresh_that_was_due_when_the_state_was_saved_comes_behind_the_next_step(model):
    reference = Reference(model, mode="snapshot", refresh_on_stagnation=2)
    for pass_rate in (0.5, 0.4, 0.3):
        reference.observe_evaluation(pass_rate)
    state = reference.state_dict()
    assert reference.after_step(1) and not reference.after_step(2)
    reference.load_state_dict(state)
    assert reference.num_refreshed == 0
    assert reference.after_step(2) and not reference.after_step(3)
