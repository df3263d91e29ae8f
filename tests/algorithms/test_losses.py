"""Losses and reductions worked by hand. Legend: B rows, T response tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import (
    Totals,
    clipped_surrogate,
    fixed_length,
    grpo,
    is_clipped,
    sequence_mean,
    token_mean,
)

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def log_ratios(*ratios):
    return torch.tensor([[math.log(ratio) for ratio in ratios]], dtype=torch.float64)


def test_clipped_surrogate_takes_the_worse_of_the_clipped_and_the_free_ratio():
    # A = +2: 1.5 is cut to 1.28, .5 stays; A = -2: .5 is cut to .8, 1.5 stays
    log_ratio = log_ratios(1.5, 0.5, 0.5, 1.5)
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0]], dtype=torch.float64)
    found = clipped_surrogate(log_ratio, advantages, **CLIP)
    expected = torch.tensor([[-2.56, -1.0, 1.6, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_a_clipped_token_has_no_gradient_and_the_metric_says_so():
    log_ratio = log_ratios(1.5, 0.5, 0.5, 1.5).requires_grad_()
    advantages = torch.tensor([[2.0, 2.0, -2.0, -2.0]], dtype=torch.float64)
    clipped_surrogate(log_ratio, advantages, **CLIP).sum().backward()
    flat = is_clipped(log_ratio.detach(), advantages, **CLIP)
    assert flat.tolist() == [[True, False, True, False]]
    assert (log_ratio.grad == 0).tolist() == flat.tolist()


def test_clip_higher_leaves_a_ratio_of_1_25_free():
    found = clipped_surrogate(log_ratios(1.25), torch.ones(1, 1, dtype=torch.float64), **CLIP)
    assert found.item() == pytest.approx(-1.25)


LOSSES = torch.tensor([[1.0, 2.0, 100.0], [4.0, 100.0, 100.0]])
MASK = torch.tensor([[True, True, False], [True, False, False]])
TOTALS = Totals(num_tokens=3, num_sequences=2, max_response_tokens=10)


def test_token_mean_weighs_every_token_alike():
    assert token_mean(LOSSES, MASK, TOTALS).item() == pytest.approx((1 + 2 + 4) / 3)


def test_sequence_mean_weighs_every_sequence_alike():
    assert sequence_mean(LOSSES, MASK, TOTALS).item() == pytest.approx((1.5 + 4) / 2)


def test_fixed_length_divides_by_the_longest_response_allowed():
    assert fixed_length(LOSSES, MASK, TOTALS).item() == pytest.approx((1 + 2 + 4) / 20)


@pytest.mark.parametrize("reduce", [token_mean, sequence_mean, fixed_length])
def test_shares_of_micro_batches_add_up_to_the_whole(reduce):
    whole = reduce(LOSSES, MASK, TOTALS)
    parts = sum(reduce(LOSSES[i : i + 1], MASK[i : i + 1], TOTALS) for i in range(2))
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("reduce", [token_mean, sequence_mean, fixed_length])
def test_what_is_masked_reaches_neither_loss_nor_gradient_even_if_it_is_not_finite(reduce):
    losses = LOSSES.clone()
    losses[~MASK] = torch.nan
    losses.requires_grad_()
    loss = reduce(losses, MASK, TOTALS)
    loss.backward()
    torch.testing.assert_close(loss.detach(), reduce(LOSSES, MASK, TOTALS))
    assert (losses.grad[~MASK] == 0).all()


@pytest.mark.parametrize("reduce", [token_mean, sequence_mean, fixed_length])
def test_an_empty_share_is_zero(reduce):
    empty = Totals(num_tokens=0, num_sequences=0, max_response_tokens=10)
    assert reduce(LOSSES, torch.zeros_like(MASK), empty).item() == 0.0


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_reductions_agree_where_all_responses_are_as_long_as_allowed(values):
    losses = torch.tensor([[float(v), float(v + 1)] for v in values])
    mask = torch.ones_like(losses, dtype=torch.bool)
    totals = Totals(num_tokens=2 * len(values), num_sequences=len(values), max_response_tokens=2)
    found = {reduce(losses, mask, totals).item() for reduce in (token_mean, fixed_length)}
    assert max(found) - min(found) < 1e-5
    assert sequence_mean(losses, mask, totals).item() == pytest.approx(max(found), rel=1e-5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.2), (-1.0, 0.2), (1.5, 0.2), (0.2, -0.5)])
def test_clips_that_exclude_the_ratio_one_are_refused(low, high):
    with pytest.raises(ValueError, match="clip_low"):
        grpo(clip_low=low, clip_high=high)
