"""What an update reports of its tokens: which divergence each number is, in which direction.

A batch holds each of 5 tokens exactly as often as `old` draws it, so that a mean over the batch is
an expectation under `old`.
"""

import math

import pytest
import torch

from rl_llm.algorithms import TokenTerms, mis, tis, uncorrected
from rl_llm.policy.behaviour import behaviour_of
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.update import TokenSums

CPU = torch.device("cpu")
OLD = (0.5, 0.2, 0.1, 0.1, 0.1)
PI = (0.1, 0.3, 0.2, 0.2, 0.2)
REF = (0.2, 0.2, 0.1, 0.1, 0.4)
DRAWN = [0, 0, 0, 0, 0, 1, 1, 2, 3, 4]


def logprobs(probabilities):
    """Return the logprobs of the drawn tokens, in five responses of two."""
    return torch.tensor(probabilities, dtype=torch.float64).log()[DRAWN].reshape(5, 2)


def sums_of(*, old=OLD, pi=PI, ref=None, stale=(False,) * 5, correction=None, mu=OLD):
    """Return the sums of the batch, where `mu` drew it and the policy is `pi`."""
    mask_BT, zeros_BT = torch.ones(5, 2, dtype=torch.bool), torch.zeros(5, 2, dtype=torch.float64)
    batch = TokenBatch(
        **dict.fromkeys(TokenBatch.__dataclass_fields__, zeros_BT)
        | {
            "response_mask_BT": mask_BT,
            "engine_logprobs_BT": logprobs(mu),
            "is_stale_B": torch.tensor(stale),
        },
    )
    behaviour = behaviour_of(batch, logprobs(old), correction or uncorrected())
    terms = TokenTerms(
        logprobs_BT=logprobs(pi),
        old_logprobs_BT=behaviour.old_logprobs_BT,
        advantages_BT=zeros_BT,
        response_mask_BT=mask_BT,
    )
    sums = TokenSums(CPU)
    sums.add(
        terms,
        behaviour,
        entropy_BT=zeros_BT,
        ref_logprobs_BT=None if ref is None else logprobs(ref),
        clipped_BT=zeros_BT,
        policy_loss=torch.zeros(()),
    )
    return sums


def facts_of(sums, *, last=None):
    return sums.facts(
        grad_norms=[1.0],
        last=last,
        num_left_out=0,
        policy_learns=True,
        is_corrected=True,
        critic=None,
    )


def test_the_divergence_from_old_is_that_from_old_to_the_policy():
    # .5 ln 5 + .2 ln(2/3) + .3 ln(1/2). The other direction is .3766; k3 of pi to old, whose mean
    # under old is neither, 1.2677.
    facts = facts_of(sums_of(), last=sums_of())
    assert facts.old_nats_per_token == pytest.approx(0.515682, abs=1e-6)
    assert facts.old_nats_per_response == pytest.approx(2 * 0.515682, abs=1e-6)


def test_the_divergence_from_the_reference_is_that_from_the_policy_to_it():
    # .1 ln(1/2) + .3 ln(3/2) + .4 ln 2 + .2 ln(1/2), though `old` drew the tokens.
    facts = facts_of(sums_of(ref=REF))
    assert facts.ref_nats_per_token == pytest.approx(0.190954, abs=1e-6)
    assert facts.ref_nats_per_response == pytest.approx(2 * 0.190954, abs=1e-6)


def test_in_a_first_update_it_is_the_mean_of_k3_to_the_bit():
    # .5 ln(5/2) + .1 ln(1/4) = .3195; the mean of k2 is .3060.
    difference_BT = logprobs(OLD) - logprobs(REF)
    expected = ((-difference_BT).exp() - 1 + difference_BT).sum().item() / 10
    assert facts_of(sums_of(pi=OLD, ref=REF)).ref_nats_per_token == expected
    assert expected == pytest.approx(0.5 * math.log(2.5) + 0.1 * math.log(1 / 4), abs=1e-9)


def test_stale_rows_are_weighted_towards_the_reference_and_left_out_of_old():
    # All 5 draws of the first token are in the first 3 rows, with one of the second.
    sums = sums_of(ref=REF, stale=(True, True, True, False, False))
    facts = facts_of(sums, last=sums)
    assert facts.ref_nats_per_token == pytest.approx(0.190954, abs=1e-6)
    # Fresh: one draw of ratio 3/2 and three of ratio 2; k3 is ratio - 1 - ln ratio.
    fresh = (0.5 - math.log(1.5)) + 3 * (1 - math.log(2))
    assert facts.old_nats_per_token == pytest.approx(fresh / 4)
    assert facts.old_nats_per_response == pytest.approx(fresh / 2)
    stale = 5 * (0.2 - 1 - math.log(0.2)) + (0.5 - math.log(1.5))
    assert facts.stale_nats_per_token == pytest.approx(stale / 6)


def test_what_nothing_measured_is_not_a_number():
    facts = facts_of(sums_of())
    assert math.isnan(facts.ref_nats_per_token) and math.isnan(facts.ref_nats_per_response)
    assert math.isnan(facts.old_nats_per_token) and math.isnan(facts.old_nats_per_response)
    all_stale = sums_of(stale=(True,) * 5)
    assert math.isnan(facts_of(all_stale, last=all_stale).old_nats_per_token)
    nothing = facts_of(TokenSums(CPU))
    assert math.isnan(nothing.ref_nats_per_token) and math.isnan(nothing.old_nats_per_token)


def test_the_divergence_from_old_is_that_of_the_last_update_alone():
    first, second = sums_of(pi=OLD), sums_of()
    facts = facts_of(first + second, last=second)
    assert facts.old_nats_per_token == pytest.approx(0.515682, abs=1e-6)
    assert facts.stale_share == 0 and facts.trained_tokens == 20


corrections = pytest.mark.parametrize("correction", [tis(cap=1.0), mis(low=1.0, high=1.0)])
MOVED = (0.3, 0.2, 0.2, 0.2, 0.1)
"""Where the update starts, when `OLD` draws as mu."""


@corrections
@pytest.mark.parametrize("is_stale", [False, True])
def test_under_a_correction_both_divergences_are_exact_though_mu_drew_and_weights_are_cut(
    correction, is_stale
):
    stale = (is_stale,) * 5
    sums = sums_of(old=MOVED, ref=REF, stale=stale, correction=correction)
    facts = facts_of(sums, last=sums)
    # KL(pi || ref) as above; KL(old || pi) is .3 ln 3 + .2 ln(2/3) + .1 ln(1/2).
    assert facts.ref_nats_per_token == pytest.approx(0.190954, abs=1e-6)
    assert facts.ref_nats_per_response == pytest.approx(2 * 0.190954, abs=1e-6)
    assert facts.old_nats_per_token == pytest.approx(0.179176, abs=1e-6)
    assert facts.old_nats_per_response == pytest.approx(2 * 0.179176, abs=1e-6)
    # KL(mu || pi), as between `OLD` and `PI` above, though the update starts elsewhere.
    assert facts.stale_nats_per_token == pytest.approx(0.515682 if is_stale else 0, abs=1e-6)


def test_an_engines_mismatch_is_to_the_start_of_the_update_and_not_to_pi():
    # |ln| of .3/.5, 1, 2, 2 and 1, drawn 5, 2, 1, 1 and 1 times.
    off = (5 * math.log(5 / 3) + 2 * math.log(2)) / 10
    for correction in (None, tis()):
        facts = facts_of(sums_of(old=MOVED, correction=correction))
        assert facts.mismatch_mean_nats == pytest.approx(off)
        assert facts.mismatch_max_nats == pytest.approx(math.log(2))
        # The sum of w is 3 + 2 + 2 + 2 + 1 = 10, that of squares 1.8 + 2 + 4 + 4 + 1 = 12.8.
        assert facts.effective_sample_share == pytest.approx(100 / (10 * 12.8))


def test_an_engine_that_is_off_beyond_all_numbers_leaves_the_effective_share_unknown():
    # Half of the tokens: 0.5 / 1e-200 each, whose square is no float; 460 nats.
    facts = facts_of(sums_of(mu=(1e-200, 0.2, 0.1, 0.1, 0.1)))
    assert math.isnan(facts.effective_sample_share)
    assert facts.mismatch_max_nats == pytest.approx(math.log(0.5) + 200 * math.log(10))
