"""One optimiser over policy and critic: what is clipped with what, and what is forgotten."""

import math

import pytest
import torch
from torch import nn

from rl_llm.config import OptimSection
from rl_llm.errors import RunError
from rl_llm.policy import Ranks
from rl_llm.policy.backend import Plain
from rl_llm.policy.stepper import Stepper


@pytest.fixture
def policy():
    return nn.Parameter(torch.zeros(2))


@pytest.fixture
def critic():
    return nn.Parameter(torch.zeros(2))


def stepper_for(policy, critic):
    optim = OptimSection(grad_clip=1.0)
    backend = Plain([[policy], [critic]], optim=optim, ranks=Ranks())
    return Stepper(backend, optim=optim, critic_lr=1e-3)


@pytest.fixture
def stepper(policy, critic):
    return stepper_for(policy, critic)


def step(stepper, policy, critic, *, loss=1.0):
    policy.grad, critic.grad = torch.tensor([3.0, 4.0]), torch.tensor([5.0, 12.0])
    return stepper.step(loss=loss, num_tokens=1, moves_policy=True)


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


def skip(stepper, policy, critic, *, times):
    for _ in range(times):
        assert step(stepper, policy, critic, loss=math.inf) is None


def test_the_fifth_skipped_step_in_a_row_ends_the_run_and_one_that_is_taken_begins_anew(
    stepper, policy, critic
):
    skip(stepper, policy, critic, times=4)
    assert policy.tolist() == critic.tolist() == [0.0, 0.0]
    assert step(stepper, policy, critic) is not None
    skip(stepper, policy, critic, times=4)
    with pytest.raises(RunError, match=r"^5 updates in a row had a loss of inf"):
        step(stepper, policy, critic, loss=math.inf)
    assert stepper.num_skipped == 9


def test_steps_skipped_before_a_checkpoint_count_behind_it(stepper, policy, critic):
    skip(stepper, policy, critic, times=3)
    resumed = stepper_for(policy, critic)
    resumed.load_state_dict(stepper.state_dict())
    skip(resumed, policy, critic, times=1)
    with pytest.raises(RunError, match=r"^5 updates in a row"):
        step(resumed, policy, critic, loss=math.inf)
    assert resumed.num_skipped == 5
