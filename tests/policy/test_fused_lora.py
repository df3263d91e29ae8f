"""The fused LoRA layer against PEFT's own."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rl_llm.config.sections import LoraSection
from rl_llm.policy import add_lora
from rl_llm.policy.fused_lora import FusedLoraLinear, use_fused_layers


def layers(*, bias, dtype=torch.float64, **options):
    """Return PEFT's layer and the fused one with the same weights."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(5, 7, bias=bias, dtype=dtype)).requires_grad_(False)
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["0"], **options}
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(**settings))
    config = LoraConfig(**settings)
    use_fused_layers(config)
    mine = get_peft_model(copy.deepcopy(base), config)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def run(model, x):
    x = x.clone().requires_grad_()
    (model(x) * torch.arange(7.0)).sum().backward()
    return x.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_outputs_and_gradients_are_pefts(bias, shape):
    theirs, mine = layers(bias=bias)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(mine(x), theirs(x))
    x_theirs, gradients_theirs = run(theirs, x)
    x_mine, gradients_mine = run(mine, x)
    torch.testing.assert_close(x_mine, x_theirs)
    assert gradients_mine.keys() == gradients_theirs.keys() and len(gradients_mine) == 2
    for name, gradient in gradients_theirs.items():
        torch.testing.assert_close(gradients_mine[name], gradient)


def test_the_gradient_is_right_by_finite_differences():
    _, mine = layers(bias=True)
    layer = mine.base_model.model[0]
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_with_the_adapter_off_the_base_alone_runs():
    _, mine = layers(bias=True)
    x = torch.randn(4, 5, dtype=torch.float64)
    with mine.disable_adapter():
        torch.testing.assert_close(mine(x), mine.base_model.model[0].base_layer(x))


def test_dropout_runs_as_peft_has_it():
    _, mine = layers(bias=False, lora_dropout=0.5)
    x = torch.randn(200, 5, dtype=torch.float64)
    assert not torch.equal(mine.train()(x), mine(x))


def test_a_half_precision_base_keeps_its_dtype():
    _, mine = layers(bias=True, dtype=torch.bfloat16)
    assert mine(torch.randn(4, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_every_adapted_layer_of_a_policy_is_fused(tiny_llama):
    model = add_lora(tiny_llama, LoraSection(rank=4), seed=0)
    adapted = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert len(adapted) == 14 and all(type(m) is FusedLoraLinear for m in adapted)


def test_the_output_may_be_changed_in_place():
    _, mine = layers(bias=True)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    mine(x).add_(1.0).sum().backward()
    assert x.grad is not None
