"""Advantages worked by hand. Legend: P groups, G completions of each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import (
    ScoredBatch,
    all_equal,
    batch_advantages,
    dapo,
    group_advantages,
    grpo,
    leave_one_out,
    overlong_penalty,
    reinforce_pp,
)


def advantages(rewards, scale, counted=None):
    rewards_PG = torch.tensor(rewards, dtype=torch.float64)
    counted_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
    if counted is not None:
        counted_PG = torch.tensor(counted)
    return group_advantages(rewards_PG, counted_PG, scale=scale)


def test_one_right_of_four_has_advantage_three_quarters_over_a_half():
    # mean .25; squares .5625 + 3 x .0625 = .75; over 3: .25; deviation .5
    found = advantages([[1, 0, 0, 0]], "group")
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]], dtype=torch.float64) / 0.5001
    torch.testing.assert_close(found, expected)


def test_without_scale_the_advantage_is_the_centred_reward():
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]], dtype=torch.float64)
    torch.testing.assert_close(advantages([[1, 0, 0, 0]], "none"), expected)


def test_batch_scale_divides_every_group_by_the_deviation_of_all_rewards():
    # rewards 1 0 3 2: mean 1.5, squares .25 + 2.25 + 2.25 + .25 = 5, over 3: 5 / 3
    found = advantages([[1, 0], [3, 2]], "batch")
    expected = torch.tensor([[0.5, -0.5], [0.5, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected / ((5 / 3) ** 0.5 + 1e-4))


def test_a_group_of_equal_rewards_does_not_change_what_batch_scale_divides_others_by():
    # rewards 1 0: mean .5, squares .25 + .25, over 1: .5
    found = advantages([[1, 0], [7, 7]], "batch")
    expected = torch.tensor([[0.5, -0.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected / (0.5**0.5 + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("group_size", [6, 7, 12])
def test_equal_rewards_give_exactly_zero_advantage(scale, group_size):
    for cents in range(1, 121):
        rewards_PG = torch.full((1, group_size), cents / 100, dtype=torch.float32)
        counted_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
        found = group_advantages(rewards_PG, counted_PG, scale=scale)
        assert (found == 0).all(), cents


def test_a_failed_reward_counts_in_neither_mean_nor_deviation():
    found = advantages([[1, 0, 77]], "group", [[True, True, False]])
    # mean .5; squares .25 + .25 over 1: .5; deviation sqrt(.5)
    expected = 0.5 / (0.5**0.5 + 1e-4)
    torch.testing.assert_close(
        found, torch.tensor([[expected, -expected, 0.0]], dtype=torch.float64)
    )


def test_a_group_of_which_one_reward_works_has_no_advantage():
    assert advantages([[1, 5]], "group", [[True, False]]).tolist() == [[0.0, 0.0]]


def test_a_group_of_which_no_reward_works_counts_as_equal():
    counted_PG = torch.tensor([[False, False], [True, True]])
    rewards_PG = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert all_equal(rewards_PG, counted_PG).tolist() == [True, False]


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.1]), min_size=2, max_size=16))
def test_advantages_of_a_group_sum_to_zero(rewards):
    for scale in ("group", "batch", "none"):
        assert abs(advantages([rewards], scale).sum().item()) < 1e-9


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def everything(rewards_PG):
    return torch.ones_like(rewards_PG, dtype=torch.bool)


def test_leave_one_out_subtracts_the_mean_of_the_others():
    # others of the 4: (1 + 1) / 2 = 1; others of a 1: (4 + 1) / 2 = 2.5
    rewards_PG = float64([[4.0, 1.0, 1.0]])
    found = leave_one_out(rewards_PG, everything(rewards_PG))
    torch.testing.assert_close(found, float64([[3.0, -1.5, -1.5]]))


def test_leave_one_out_leaves_failed_rewards_out_and_gives_one_alone_nothing():
    rewards_PG = float64([[4.0, 2.0, 9.0], [5.0, 9.0, 9.0]])
    counted_PG = torch.tensor([[True, True, False], [True, False, False]])
    assert leave_one_out(rewards_PG, counted_PG).tolist() == [[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]


def test_batch_advantages_compare_completions_of_all_prompts():
    # mean 2; squares 1 + 0 + 0 + 1 = 2, over 3
    rewards_PG = float64([[1.0, 2.0], [2.0, 3.0]])
    centred = float64([[-1.0, 0.0], [0.0, 1.0]])
    found = batch_advantages(rewards_PG, everything(rewards_PG), scale="none")
    torch.testing.assert_close(found, centred)
    found = batch_advantages(rewards_PG, everything(rewards_PG), scale="batch")
    torch.testing.assert_close(found, centred / ((2 / 3) ** 0.5 + 1e-4))


def test_batch_advantages_give_a_group_of_equal_rewards_something_to_learn():
    rewards_PG = float64([[1.0, 1.0], [0.0, 0.0]])
    found = batch_advantages(rewards_PG, everything(rewards_PG), scale="none")
    assert found.tolist() == [[0.5, 0.5], [-0.5, -0.5]]


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_a_batch_of_equal_rewards_and_an_empty_one_have_no_advantage(scale):
    rewards_PG = torch.full((3, 7), 0.7)
    assert (batch_advantages(rewards_PG, everything(rewards_PG), scale=scale) == 0).all()
    empty = torch.zeros(0, 1)
    assert batch_advantages(empty, everything(empty), scale=scale).shape == (0, 1)


def test_a_failed_reward_is_no_part_of_the_batch():
    rewards_PG = float64([[1.0, 0.0], [77.0, 0.5]])
    counted_PG = torch.tensor([[True, True], [False, True]])
    found = batch_advantages(rewards_PG, counted_PG, scale="none")
    assert found.tolist() == [[0.5, -0.5], [0.0, 0.0]]


def test_the_overlong_penalty_starts_before_the_limit_and_is_minus_one_at_it():
    lengths = torch.tensor([10, 80, 85, 90, 99, 100, 120])
    found = overlong_penalty(lengths, max_response_tokens=100, cache=20)
    torch.testing.assert_close(found, float64([0.0, 0.0, -0.25, -0.5, -0.95, -1.0, -1.0]))


def test_with_a_cache_above_the_limit_the_shortest_pays_too():
    # 10 - 40 = -30: (-30 - 0) / 40 at no token, -1 at ten
    found = overlong_penalty(torch.tensor([0, 10]), max_response_tokens=10, cache=40)
    torch.testing.assert_close(found, float64([-0.75, -1.0]))


def scored(parts, weights, lengths=None, most=100):
    """A batch with values[p][g][r] of each reward, before weights."""
    weights_R = float64(weights)
    parts_PGR = float64(parts) * weights_R
    rewards_PG = parts_PGR.sum(dim=2)
    lengths_PG = torch.ones_like(rewards_PG).long() if lengths is None else torch.tensor(lengths)
    return ScoredBatch(
        rewards_PG=rewards_PG,
        counted_PG=everything(rewards_PG),
        parts_PGR=parts_PGR,
        weights_R=weights_R,
        lengths_PG=lengths_PG,
        max_response_tokens=most,
    )


def test_a_penalised_length_is_a_reward_and_its_default_cache_a_fifth_of_the_limit():
    # 90 of 100 tokens: half of the last twenty, -.5; so totals are 1, .5 and 0
    batch = scored([[[1.0], [1.0], [0.0]]], [1.0], lengths=[[10, 90, 80]])
    found = grpo(scale="none", truncated="penalise").advantages(batch)
    torch.testing.assert_close(found, float64([[0.5, 0.0, -0.5]]))
    found = grpo(scale="none", truncated="penalise", overlong_cache=10).advantages(batch)
    torch.testing.assert_close(found, float64([[1 / 3, 1 / 3, -2 / 3]]))
    assert dapo().advantages(batch)[0, 1] < dapo().advantages(batch)[0, 0]


def test_normalise_then_sum_counts_a_narrow_reward_for_as_much_as_a_wide_one():
    # The second reward varies a tenth as much. Alone each is 1, -1 (times sqrt(.5), nearly), so
    # they cancel in the first group and add up in the second.
    values = [[[1.0, 0.0], [0.0, 0.1]], [[1.0, 0.1], [0.0, 0.0]]]
    batch = scored(values, [1.0, 1.0])
    found = grpo(combine="normalise_then_sum").advantages(batch)
    wide, narrow = 0.5 / (0.5**0.5 + 1e-4), 0.05 / (0.005**0.5 + 1e-4)
    sums = float64([[wide - narrow, narrow - wide], [wide + narrow, -wide - narrow]])
    deviation = (sums.square().sum() / 3).sqrt() + 1e-4
    torch.testing.assert_close(found, sums / deviation)
    assert abs(found[0, 0]) < 1e-3 < 1 < found[1, 0]
    # Summed first, the wide reward decides alone.
    assert grpo().advantages(batch)[0, 0] > 0.7


def test_normalise_then_sum_weighs_what_it_normalised():
    values = [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]
    found = grpo(combine="normalise_then_sum").advantages(scored(values, [3.0, 1.0]))
    # 3 - 1 and 3 + 1, in the same unit
    torch.testing.assert_close(found[1, 0] / found[0, 0], float64(2.0))
    free = grpo(combine="normalise_then_sum").advantages(scored(values, [0.0, 1.0]))
    torch.testing.assert_close(free[0, 0], -free[1, 0])
    turned = grpo(combine="normalise_then_sum").advantages(scored(values, [3.0, -1.0]))
    torch.testing.assert_close(turned[1, 0] / turned[0, 0], float64(0.5))


def test_normalise_then_sum_leaves_groups_without_advantage_at_zero_and_out_of_the_deviation():
    values = [[[1.0, 0.3], [0.0, 0.3]], [[0.7, 0.2], [0.7, 0.2]]]
    both = grpo(combine="normalise_then_sum").advantages(scored(values, [1.0, 0.5]))
    alone = grpo(combine="normalise_then_sum").advantages(scored(values[:1], [1.0, 0.5]))
    assert both[1].tolist() == [0.0, 0.0]
    torch.testing.assert_close(both[:1], alone)


@pytest.mark.parametrize("group_size", [6, 7, 8, 12])
def test_normalise_then_sum_leaves_out_groups_in_which_the_rewards_cancel(group_size):
    # The second reward is 1 less the first, so their advantages are opposite but for rounding.
    firsts = [[0.1 * (place + p) for place in range(group_size)] for p in range(3)]
    cancelling = [[[first, 1 - first] for first in group] for group in firsts]
    teaching = [[float(place == 0), 0.0] for place in range(group_size)]
    algorithm = grpo(combine="normalise_then_sum")
    found = algorithm.advantages(scored([*cancelling, teaching], [1.0, 1.0]))
    assert (found[:3] == 0).all()
    alone = algorithm.advantages(scored([teaching], [1.0, 1.0]))
    torch.testing.assert_close(found[3:], alone)
    assert (algorithm.advantages(scored(cancelling, [1.0, 1.0])) == 0).all()


def test_normalise_then_sum_keeps_what_is_left_where_rewards_nearly_cancel():
    values = [[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]
    found = grpo(combine="normalise_then_sum").advantages(scored(values, [1.0, 0.999999]))
    assert found[0, 0] > 0 > found[0, 1]


def test_totals_that_differ_by_rounding_alone_are_equal():
    # .1 + .2 is .30000000000000004 in float64
    assert advantages([[0.3, 0.1 + 0.2, 0.3], [0.0, 1e-12, 0.0]], "group")[0].tolist() == [0.0] * 3
    rewards_PG = float64([[0.3, 0.1 + 0.2], [-0.3, -0.3001], [0.0, 1e-12]])
    assert all_equal(rewards_PG, everything(rewards_PG)).tolist() == [True, False, False]


def test_reinforce_pp_normalises_each_reward_over_the_batch():
    # One completion of each of four prompts; the second reward varies a tenth as much.
    values = [[[1.0, 0.0]], [[0.0, 0.1]], [[1.0, 0.1]], [[0.0, 0.0]]]
    found = reinforce_pp(combine="normalise_then_sum").advantages(scored(values, [1.0, 1.0]))
    assert found[:2].abs().max() < 1e-2 < 1 < found[2, 0] == -found[3, 0]
    assert reinforce_pp().advantages(scored(values, [1.0, 1.0]))[0, 0] > 0.7


def test_normalise_then_sum_of_parts_that_nobody_named_is_our_own_fault():
    batch = scored([[[1.0], [0.0]]], [1.0])
    unknown = ScoredBatch(
        **{**vars(batch), "parts_PGR": batch.parts_PGR[:, :, :0], "weights_R": batch.weights_R[:0]}
    )
    with pytest.raises(AssertionError, match="weights"):
        grpo(combine="normalise_then_sum", truncated="penalise").advantages(unknown)
