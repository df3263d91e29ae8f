"""What is found of an algorithm whose pieces do not fit, before a run.

Legend: B rows, T response tokens.
"""

from dataclasses import replace

import pytest
import torch

from rl_llm.algorithms import ALGORITHMS, fault_of, grpo, ppo


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_wrong_with_what_ships(name):
    assert fault_of(ALGORITHMS[name]()) is None


def broken(terms):
    raise KeyError("old")


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (
            {"token_loss": lambda terms: -terms.logprobs_BT.sum(dim=1)},
            "token_loss gives a tensor of shape (2,); it must give a tensor of the rows and tokens "
            "that it is given, (2, 3) here",
        ),
        (
            {"token_loss": lambda terms: -terms.advantages_BT},
            "token_loss gives no gradient; it must be worked out from terms.logprobs_BT, and not "
            "detach it",
        ),
        ({"token_loss": broken}, "token_loss raises KeyError: 'old'"),
        (
            {"is_clipped": lambda terms: terms.logprobs_BT > 0.0, "token_loss": lambda terms: 0.5},
            "token_loss gives a float; it must give a tensor of the rows and tokens that it is "
            "given, (2, 3) here",
        ),
        (
            {"is_clipped": lambda terms: terms.logprobs_BT.detach()},
            "is_clipped gives torch.float32; it must give booleans",
        ),
        (
            {"reduce": lambda losses_BT, mask_BT, totals: losses_BT.sum(dim=1)},
            "reduce gives a tensor of shape (2,); it must give one number, a tensor of no axis",
        ),
        (
            {"reduce": lambda losses_BT, mask_BT: losses_BT.sum()},
            "reduce raises TypeError: ",
        ),
    ],
)
def test_a_piece_that_does_not_fit_is_named(pieces, said):
    found = fault_of(replace(grpo(), **pieces))
    assert found is not None and found.startswith(said)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (
            {"estimate": lambda rewards_BT, values_BT, mask_BT: rewards_BT - values_BT},
            "critic.estimate gives a tensor of shape (2, 3); it must give advantages and targets",
        ),
        (
            {"value_loss": lambda values_BT, before_BT, targets_BT: torch.tensor(0.5)},
            "critic.value_loss gives a tensor of shape (); it must give a tensor of the rows and "
            "tokens that it is given, (2, 3) here",
        ),
    ],
)
def test_a_function_of_the_critic_that_does_not_fit_is_named(pieces, said):
    algorithm = ppo()
    assert algorithm.critic is not None
    assert fault_of(replace(algorithm, critic=replace(algorithm.critic, **pieces))) == said
