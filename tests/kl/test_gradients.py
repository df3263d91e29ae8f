"""What each estimator gives as a gradient, in the loss and in the reward, by enumeration.

The policy is a table: logits over 5 tokens for every prefix, in float64, so every gradient shows
prefix by prefix and every expectation is a sum. Responses have 2 or 3 tokens, or end with token 4
after 1 to 3. Legend: K prefixes, B all responses, T positions, V 5.
"""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from rl_llm.algorithms import group_advantages
from rl_llm.kl import k1, k2, k3, loss_penalty, reward_penalty, to_go
from rl_llm.seeds import derive_rng

V = 5
END = 4
FIRST_ROW = (0, 1, 1 + V)


def table(name):
    return torch.from_numpy(derive_rng("table", name).normal(size=(1 + V + V**2, V)))


PI, REF, MU = table("pi"), table("ref"), table("mu")


@dataclass(frozen=True)
class Responses:
    """Every response of a length, or, where it can end, up to it."""

    length: int
    can_end: bool = False

    @property
    def tokens_BT(self):
        everything = product(range(V), repeat=self.length)
        # What stands after the end is END, so that every response is there once.
        return torch.tensor([t for t in everything if not self.can_end or _ends_once(t)])

    @property
    def mask_BT(self):
        ended_BT = (self.tokens_BT == END).long()
        return (ended_BT.cumsum(1) - ended_BT == 0) | (not self.can_end)

    def logprobs_BT(self, logits_KV):
        """Return the logarithm of each token's probability after its prefix."""
        tokens_BT, rows = self.tokens_BT, []
        for position in range(self.length):
            number_B = torch.zeros(len(tokens_BT), dtype=torch.long)
            for before in range(position):
                number_B = number_B * V + tokens_BT[:, before]
            rows.append(FIRST_ROW[position] + number_B)
        return logits_KV.log_softmax(-1)[torch.stack(rows, dim=1), tokens_BT]

    def probability_B(self, logits_KV):
        return self.logprobs_BT(logits_KV).masked_fill(~self.mask_BT, 0.0).sum(1).exp()

    def reach_K(self, logits_KV):
        """Return the probability that a response gets to each prefix and goes on."""
        reach_K = torch.zeros(len(logits_KV), dtype=torch.float64)
        reach_K[0] = 1.0
        for position in range(self.length - 1):
            for number in range(V**position):
                row = FIRST_ROW[position] + number
                onward_V = reach_K[row] * logits_KV[row].softmax(-1)
                onward_V[END] *= not self.can_end
                first = FIRST_ROW[position + 1] + number * V
                reach_K[first : first + V] = onward_V
        return reach_K


def _ends_once(tokens):
    return END not in tokens or set(tokens[tokens.index(END) :]) == {END}


def expected_gradient(responses, loss, *, drawn_from):
    """Return the gradient of the mean over responses of the sum over tokens of `loss(logprobs)`,
    the probability of the responses not differentiated."""
    logits_KV = PI.clone().requires_grad_()
    loss_BT = loss(responses.logprobs_BT(logits_KV)).masked_fill(~responses.mask_BT, 0.0)
    (responses.probability_B(drawn_from) @ loss_BT.sum(1)).backward()
    return logits_KV.grad


def gradient_of_responses(responses):
    """Return grad KL(pi || ref) of whole responses."""
    logits_KV = PI.clone().requires_grad_()
    ratio_B = (responses.probability_B(logits_KV) / responses.probability_B(REF)).log()
    (responses.probability_B(logits_KV) @ ratio_B).backward()
    return logits_KV.grad


def gradient_of_tokens(responses, *, prefixes_of, reverse=False):
    """Return the sum over prefixes of P(prefix) grad KL(pi || ref) of the next token, P not
    differentiated; of KL(ref || pi) where `reverse`."""
    logits_KV = PI.clone().requires_grad_()
    log_pi_KV, log_ref_KV = logits_KV.log_softmax(-1), REF.log_softmax(-1)
    first_KV, second_KV = (log_ref_KV, log_pi_KV) if reverse else (log_pi_KV, log_ref_KV)
    divergence_K = (first_KV.exp() * (first_KV - second_KV)).sum(-1)
    (responses.reach_K(prefixes_of) @ divergence_K).backward()
    return logits_KV.grad


def differ(first, second):
    """Say whether two gradients are further apart than a tenth of the longer one."""
    return (first - second).norm() > 0.1 * max(first.norm(), second.norm())


every = pytest.mark.parametrize(
    "responses", [Responses(2), Responses(3), Responses(3, can_end=True)], ids=str
)
same = torch.testing.assert_close


@every
def test_the_probabilities_of_all_responses_sum_to_1(responses):
    assert responses.probability_B(PI).sum().item() == pytest.approx(1)


@every
def test_k1_in_the_reward_gives_the_gradient_of_whole_responses(responses):
    ref_BT, mask_BT = responses.logprobs_BT(REF), responses.mask_BT

    def policy_gradient(logprobs_BT):
        return logprobs_BT * to_go(reward_penalty("k1", logprobs_BT, ref_BT, mask_BT), mask_BT)

    found = expected_gradient(responses, policy_gradient, drawn_from=PI)
    same(found, gradient_of_responses(responses))
    assert differ(found, gradient_of_tokens(responses, prefixes_of=PI))


@every
def test_k1_in_the_reward_of_its_own_token_alone_leaves_out_what_comes_later(responses):
    ref_BT, mask_BT = responses.logprobs_BT(REF), responses.mask_BT
    found = expected_gradient(
        responses, lambda now: now * reward_penalty("k1", now, ref_BT, mask_BT), drawn_from=PI
    )
    same(found, gradient_of_tokens(responses, prefixes_of=PI))


@every
def test_k1_differentiated_in_the_loss_gives_nothing(responses):
    ref_BT = responses.logprobs_BT(REF)
    found = expected_gradient(responses, lambda now: k1(now, ref_BT), drawn_from=PI)
    same(found, torch.zeros_like(PI))


@every
@pytest.mark.parametrize("estimator", ["k2", "k3_importance"])
def test_k2_and_k3_importance_in_the_loss_give_that_of_each_token_after_its_prefix(
    estimator, responses
):
    ref_BT, old_BT = responses.logprobs_BT(REF), responses.logprobs_BT(PI)
    found = expected_gradient(
        responses, lambda now: loss_penalty(estimator, now, ref_BT, old_BT), drawn_from=PI
    )
    same(found, gradient_of_tokens(responses, prefixes_of=PI))
    assert differ(found, gradient_of_responses(responses))


@every
def test_k3_in_the_loss_gives_that_of_the_other_direction(responses):
    ref_BT, old_BT = responses.logprobs_BT(REF), responses.logprobs_BT(PI)
    found = expected_gradient(
        responses, lambda now: loss_penalty("k3", now, ref_BT, old_BT), drawn_from=PI
    )
    same(found, gradient_of_tokens(responses, prefixes_of=PI, reverse=True))
    assert differ(found, gradient_of_tokens(responses, prefixes_of=PI))


@every
@pytest.mark.parametrize("estimator", ["k2", "k3_importance"])
def test_off_policy_k2_and_k3_importance_stay_right_after_the_prefixes_that_were_drawn(
    estimator, responses
):
    ref_BT, mu_BT = responses.logprobs_BT(REF), responses.logprobs_BT(MU)
    found = expected_gradient(
        responses, lambda now: loss_penalty(estimator, now, ref_BT, mu_BT), drawn_from=MU
    )
    same(found, gradient_of_tokens(responses, prefixes_of=MU))
    assert differ(found, gradient_of_tokens(responses, prefixes_of=PI))


@every
def test_off_policy_k3_is_wrong_with_the_ratio_held_and_wrong_without(responses):
    ref_BT, mu_BT = responses.logprobs_BT(REF), responses.logprobs_BT(MU)
    right = gradient_of_tokens(responses, prefixes_of=MU)
    reverse = gradient_of_tokens(responses, prefixes_of=MU, reverse=True)
    held = expected_gradient(
        responses, lambda now: (now - mu_BT).exp().detach() * k3(now, ref_BT), drawn_from=MU
    )
    same(held, reverse)
    assert differ(held, right)
    published = expected_gradient(
        responses, lambda now: loss_penalty("k3", now, ref_BT, mu_BT), drawn_from=MU
    )
    assert differ(published, right) and differ(published, reverse)


@every
def test_off_policy_k2_without_the_ratio_is_wrong(responses):
    ref_BT = responses.logprobs_BT(REF)
    found = expected_gradient(responses, lambda now: k2(now, ref_BT), drawn_from=MU)
    assert differ(found, gradient_of_tokens(responses, prefixes_of=MU))


@every
def test_off_policy_k1_in_the_reward_is_right_for_its_own_token_from_logprobs_of_now(responses):
    ref_BT, mu_BT = responses.logprobs_BT(REF), responses.logprobs_BT(MU)
    right = gradient_of_tokens(responses, prefixes_of=MU)

    def surrogate(logprobs_BT, penalised_BT):
        penalties_BT = reward_penalty("k1", penalised_BT, ref_BT, responses.mask_BT)
        return (logprobs_BT - mu_BT).exp() * penalties_BT

    same(expected_gradient(responses, lambda now: surrogate(now, now), drawn_from=MU), right)
    stale = expected_gradient(responses, lambda now: surrogate(now, mu_BT), drawn_from=MU)
    assert differ(stale, right)


def reward_gradient(responses, estimator, ref_KV):
    ref_BT, mask_BT = responses.logprobs_BT(ref_KV), responses.mask_BT
    return expected_gradient(
        responses,
        lambda now: now * to_go(reward_penalty(estimator, now, ref_BT, mask_BT), mask_BT),
        drawn_from=PI,
    )


@every
def test_k3_in_the_reward_gives_one_direction_less_the_other(responses):
    right = gradient_of_responses(responses)
    reverse = gradient_of_tokens(responses, prefixes_of=PI, reverse=True)
    same(reward_gradient(responses, "k3", REF), right - reverse)


@every
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_in_the_reward_hardly_pull_near_the_reference(estimator, responses):
    near = PI + 0.01 * REF
    pull = reward_gradient(responses, "k1", near).norm()
    assert reward_gradient(responses, estimator, near).norm() < 0.02 * pull


def test_a_mean_over_each_responses_own_length_breaks_it():
    responses = Responses(3, can_end=True)
    ref_BT, old_BT = responses.logprobs_BT(REF), responses.logprobs_BT(PI)
    lengths_B1 = responses.mask_BT.sum(1, keepdim=True)
    noise = expected_gradient(responses, lambda now: k1(now, ref_BT) / lengths_B1, drawn_from=PI)
    assert noise.norm() > 0.01
    found = expected_gradient(
        responses, lambda now: loss_penalty("k2", now, ref_BT, old_BT) / lengths_B1, drawn_from=PI
    )
    right = gradient_of_tokens(responses, prefixes_of=PI)
    # No weighting of the prefixes would do: the first prefix's gradient has another direction.
    assert torch.cosine_similarity(found[0], right[0], dim=0) < 0.999


def group_gradient(advantages):
    """Return minus the mean policy gradient over all groups of 3 one-token responses, for the
    advantages that (groups, 3) tokens and their k1 are given."""
    tokens_PG = torch.tensor(list(product(range(V), repeat=3)))
    logits_V = PI[0].clone().requires_grad_()
    logprobs_PG = logits_V.log_softmax(0)[tokens_PG]
    k1_PG = k1(logprobs_PG.detach(), REF[0].log_softmax(0)[tokens_PG])
    probability_P = logprobs_PG.detach().sum(1).exp()
    (probability_P @ -(advantages(tokens_PG, k1_PG) * logprobs_PG).mean(1)).backward()
    return logits_V.grad


def normalised(rewards_PG):
    counted_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
    return group_advantages(rewards_PG, counted_PG, scale="group")


def test_group_normalisation_rescales_a_kl_inside_rewards_and_leaves_one_taken_after_it():
    beta = 0.02
    rewards = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    plain = group_gradient(lambda tokens, _: normalised(rewards[tokens]))
    inside = group_gradient(lambda tokens, k1_PG: normalised(rewards[tokens] - beta * k1_PG))
    after = group_gradient(lambda tokens, k1_PG: normalised(rewards[tokens]) - beta * k1_PG)
    exact = gradient_of_responses(Responses(1))[0]
    same((after - plain) / beta, exact)
    found = (inside - plain) / beta
    assert found.norm() > 40 * exact.norm()
    assert torch.cosine_similarity(found, exact, dim=0) < 0.8


def test_a_tiny_beta_inside_rewards_decides_the_advantages_of_an_all_wrong_group():
    wrong_PG = torch.zeros(1, 3, dtype=torch.float64)
    k1_PG = torch.tensor([[0.7, -0.2, 0.1]], dtype=torch.float64)
    assert normalised(wrong_PG).tolist() == [[0.0, 0.0, 0.0]]
    inside_PG = normalised(wrong_PG - 0.01 * k1_PG)
    assert inside_PG.abs().max() > 1
    assert (normalised(wrong_PG) - 0.01 * k1_PG).abs().max() < 0.01
