"""Several adapters on one base: which one runs, and what stays trainable."""

import pytest
import torch

from rl_llm.config.sections import LoraSection
from rl_llm.policy import add_lora
from rl_llm.policy.adapters import (
    CRITIC,
    POLICY,
    adapter_parameters,
    add_adapter,
    load_adapter,
    running,
)

IDS = torch.arange(2, 9)[None, :]


@pytest.fixture
def model(tiny_llama):
    adapted = add_lora(tiny_llama, LoraSection(rank=2), seed=1)
    add_adapter(adapted, CRITIC, seed=2)
    for name, size in ((POLICY, 0.3), (CRITIC, -0.2)):
        for key, parameter in adapter_parameters(adapted, name).items():
            if "lora_B" in key:
                torch.nn.init.constant_(parameter, size)
    return adapted


def logits(model):
    return model.get_base_model()(IDS).logits


def test_a_forward_pass_runs_through_the_adapter_that_is_asked_for(model):
    policy = logits(model)
    with running(model, CRITIC):
        critic = logits(model)
    with running(model, None):
        base = logits(model)
    with model.disable_adapter():
        assert torch.equal(base, logits(model))
    load_adapter(model, POLICY, adapter_parameters(model, CRITIC))
    assert torch.equal(critic, logits(model))
    for one, other in ((policy, critic), (policy, base), (critic, base)):
        assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", [CRITIC, None])
def test_the_policy_runs_again_afterwards_even_after_an_error(model, name):
    before = logits(model)
    with pytest.raises(ZeroDivisionError), running(model, name):
        raise ZeroDivisionError
    assert torch.equal(before, logits(model))


def test_what_is_trainable_stays_so_whichever_adapter_runs(model):
    critic = adapter_parameters(model, CRITIC).values()
    for parameter in critic:
        parameter.requires_grad_(True)
    expected = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(expected) == 2 * 28
    for name in (CRITIC, None, POLICY):
        with running(model, name):
            assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
        assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


def test_gradients_of_two_adapters_stand_side_by_side(model):
    policy = adapter_parameters(model, POLICY).values()
    critic = adapter_parameters(model, CRITIC).values()
    for parameter in critic:
        parameter.requires_grad_(True)
    logits(model).square().sum().backward()
    assert all(p.grad is not None for p in policy) and all(p.grad is None for p in critic)
    alone = [p.grad.clone() for p in policy]
    with running(model, CRITIC):
        logits(model).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in critic)
    assert all(map(torch.equal, alone, [p.grad for p in policy]))
