"""Expected gradients by summing over every sequence, in float64.

The policy is a table: 5 logits for the first token, and 5 for the second after each first. At ratio
1 every algorithm must pull as REINFORCE does, which is the gradient of the expected reward.

Legend: S sequences, T positions, N groups of G sequences.
"""

import itertools

import pytest
import torch

from rl_llm.algorithms import (
    ALGORITHMS,
    TokenTerms,
    Totals,
    batch_advantages,
    gae,
    group_advantages,
    leave_one_out,
)

VOCABULARY = 5


def random(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Table:
    """The policy with all its sequences; token 0 ends a sequence where `ends` is set."""

    def __init__(self, *, ends=False):
        self.first = random(VOCABULARY, seed=1).requires_grad_()
        self.second = random(VOCABULARY, VOCABULARY, seed=2).requires_grad_()
        pairs = itertools.product(range(VOCABULARY), repeat=2)
        kept = [pair for pair in pairs if not (ends and pair[0] == 0 and pair[1] != 0)]
        self.tokens_ST = torch.tensor(kept)
        self.mask_ST = torch.ones_like(self.tokens_ST, dtype=torch.bool)
        if ends:
            self.mask_ST[:, 1] = self.tokens_ST[:, 0] != 0

    def logprobs_ST(self):
        first_S, second_S = self.tokens_ST.unbind(dim=1)
        both = torch.stack(
            [
                self.first.log_softmax(0)[first_S],
                self.second.log_softmax(1)[first_S, second_S],
            ],
            dim=1,
        )
        return both.masked_fill(~self.mask_ST, 0.0)

    def probability_S(self):
        return self.logprobs_ST().sum(dim=1).exp()

    def gradient(self, scalar):
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(scalar, [self.first, self.second])]
        )

    def reinforce(self, worth_S):
        """The gradient of the expected worth, by autograd through the probabilities."""
        return self.gradient((self.probability_S() * worth_S).sum())


def expected_gradient(table, algorithm, advantages_ST):
    """The mean gradient of the loss of one sequence that the policy itself drew."""
    logprobs_ST = table.logprobs_ST()
    terms = TokenTerms(
        logprobs_BT=logprobs_ST,
        old_logprobs_BT=logprobs_ST.detach(),
        advantages_BT=advantages_ST,
        response_mask_BT=table.mask_ST,
    )
    weighted_ST = algorithm.token_loss(terms) * table.probability_S().detach()[:, None]
    one = Totals(num_tokens=2, num_sequences=1, max_response_tokens=2)
    return table.gradient(algorithm.reduce(weighted_ST, table.mask_ST, one))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_ratio_one_every_algorithm_pulls_as_reinforce_does(name):
    table = Table()
    worth_S = random(25, seed=3)
    found = expected_gradient(table, ALGORITHMS[name](), worth_S[:, None].expand(25, 2))
    # Two tokens share the loss, in every reduction.
    torch.testing.assert_close(found, -table.reinforce(worth_S) / 2)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "reinforce", "a2c"])
def test_with_one_denominator_for_all_lengths_that_holds_for_sequences_of_any_length(name):
    table = Table(ends=True)
    worth_S = random(21, seed=3)
    found = expected_gradient(table, ALGORITHMS[name](), worth_S[:, None].expand(21, 2))
    torch.testing.assert_close(found, -table.reinforce(worth_S) / 2)


def test_the_mean_over_sequences_pulls_elsewhere_where_lengths_differ():
    table = Table(ends=True)
    worth_S = random(21, seed=3)
    algorithm = ALGORITHMS["grpo"](reduce="sequence_mean")
    found = expected_gradient(table, algorithm, worth_S[:, None].expand(21, 2))
    right = -table.reinforce(worth_S)
    assert torch.nn.functional.cosine_similarity(found, right, dim=0) < 0.99


def over_groups(table, worth_S, advantages_of, group_size):
    """The expected gradient of -A log pi over every group that can be drawn, mean over its G."""
    num_sequences = len(table.tokens_ST)
    groups_NG = torch.tensor(list(itertools.product(range(num_sequences), repeat=group_size)))
    logprobs_NG = table.logprobs_ST().sum(dim=1)[groups_NG]
    probability_N = logprobs_NG.detach().sum(dim=1).exp()
    rewards_NG = worth_S[groups_NG]
    advantages_NG = advantages_of(rewards_NG, torch.ones_like(rewards_NG, dtype=torch.bool))
    per_group_N = (-advantages_NG * logprobs_NG).mean(dim=1)
    return table.gradient((probability_N * per_group_N).sum())


@pytest.mark.parametrize(("group_size", "share"), [(2, 1 / 2), (3, 2 / 3)])
def test_a_groups_mean_as_baseline_takes_one_part_in_g_off_the_gradient(group_size, share):
    table, worth_S = Table(), random(25, seed=4)
    found = over_groups(
        table, worth_S, lambda r, c: group_advantages(r, c, scale="none"), group_size
    )
    torch.testing.assert_close(found, -share * table.reinforce(worth_S))


@pytest.mark.parametrize("group_size", [2, 3])
def test_leave_one_out_is_unbiased(group_size):
    table, worth_S = Table(), random(25, seed=4)
    found = over_groups(table, worth_S, leave_one_out, group_size)
    torch.testing.assert_close(found, -table.reinforce(worth_S))


def test_the_mean_of_a_batch_takes_one_part_in_its_size_off_the_gradient():
    table, worth_S = Table(), random(25, seed=4)

    def two_prompts_of_one(rewards_NG, counted_NG):
        return torch.stack(
            [
                batch_advantages(rewards[:, None], counted[:, None], scale="none")[:, 0]
                for rewards, counted in zip(rewards_NG, counted_NG, strict=True)
            ]
        )

    found = over_groups(table, worth_S, two_prompts_of_one, 2)
    torch.testing.assert_close(found, -table.reinforce(worth_S) / 2)


def exact_values(table, worth_S):
    """What is to be expected before each token: of all sequences, and of those of a first token."""
    probability_S = table.probability_S().detach()
    values_ST = torch.empty(25, 2, dtype=torch.float64)
    values_ST[:, 0] = (probability_S * worth_S).sum()
    for token in range(VOCABULARY):
        rows = table.tokens_ST[:, 0] == token
        share = probability_S[rows] / probability_S[rows].sum()
        values_ST[rows, 1] = (share * worth_S[rows]).sum()
    return values_ST


def critic_gradient(table, worth_S, values_ST, lam):
    rewards_ST = torch.stack([torch.zeros_like(worth_S), worth_S], dim=1)
    advantages_ST, _ = gae(rewards_ST, values_ST, table.mask_ST, lam=lam)
    return expected_gradient(table, ALGORITHMS["a2c"](), advantages_ST)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_with_the_exact_values_gae_pulls_right_at_every_lambda(lam):
    table, worth_S = Table(), random(25, seed=5)
    found = critic_gradient(table, worth_S, exact_values(table, worth_S), lam)
    torch.testing.assert_close(found, -table.reinforce(worth_S) / 2)


def test_with_wrong_values_gae_pulls_right_at_lambda_one_alone():
    table, worth_S = Table(), random(25, seed=5)
    # Wrong, but a function of what stands before the token, as a critic's values are.
    wrong_ST = torch.stack([torch.ones(25).double(), table.tokens_ST[:, 0].double()], dim=1)
    right = -table.reinforce(worth_S) / 2
    torch.testing.assert_close(critic_gradient(table, worth_S, wrong_ST, 1.0), right)
    assert (critic_gradient(table, worth_S, wrong_ST, 0.5) - right).norm() > 0.1 * right.norm()


def test_advantages_of_single_tokens_reach_their_tokens_in_gspo_too():
    table = Table()
    advantages_ST = random(25, 2, seed=6)
    found = expected_gradient(table, ALGORITHMS["gspo"](), advantages_ST)
    expected = expected_gradient(table, ALGORITHMS["reinforce"](), advantages_ST)
    torch.testing.assert_close(found, expected)
