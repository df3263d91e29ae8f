"""One optimiser over policy and critic: what is clipped with what, and what is forgotten."""

import pytest
import torch
from torch import nn

from rl_llm.config import OptimSection
from rl_llm.policy import Ranks
from rl_llm.policy.backend import Plain
from rl_llm.policy.stepper import Stepper


@pytest.fixture
def policy():
    return nn.Parameter(torch.zeros(2))


@pytest.fixture
def critic():
    return nn.Parameter(torch.zeros(2))


@pytest.fixture
def stepper(policy, critic):
    optim = OptimSection(grad_clip=1.0)
    backend = Plain([[policy], [critic]], optim=optim, ranks=Ranks())
    return Stepper(backend, optim=optim, critic_lr=1e-3)


def step(stepper, policy, critic):
    policy.grad, critic.grad = torch.tensor([3.0, 4.0]), torch.tensor([5.0, 12.0])
    return stepper.step(loss=1.0, num_tokens=1, moves_policy=True)


def moment(stepper, parameter):
    return stepper._backend.optimizer.state[parameter]["exp_avg"]


def test_policy_and_critic_are_each_clipped_by_their_own_norm(stepper, policy, critic):
    """Together their norm is 13.9, and a loud critic would silence the policy."""
    assert step(stepper, policy, critic) == pytest.approx([5.0, 13.0])
    # A tenth of each gradient, which is divided by its own norm.
    torch.testing.assert_close(moment(stepper, policy), torch.tensor([0.06, 0.08]))
    torch.testing.assert_close(moment(stepper, critic), torch.tensor([0.5, 1.2]) / 13)


@pytest.mark.parametrize("also_critic", [False, True])
def test_the_critics_moments_are_forgotten_only_where_its_targets_jump_too(
    stepper, policy, critic, also_critic
):
    step(stepper, policy, critic)
    stepper.forget(critic=also_critic)
    remembered = stepper._backend.optimizer.state
    assert policy not in remembered
    assert (critic in remembered) is not also_critic
