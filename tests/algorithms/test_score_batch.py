"""What algorithms are told of a step's groups. Legend: P groups, G completions, R rewards."""

import pytest
import torch

from rl_llm.algorithms import dapo, grpo
from rl_llm.policy.pack import score_batch
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup

WEIGHTS = {"exact": 1.0, "tags": 0.1}


def scored_group(*completions):
    """A group of (tokens, finish reason, parts, error)."""
    return ScoredGroup(
        group=Group(
            problem=Problem(key="0", prompt="q", answer="a"),
            prompt_ids=(5,),
            completions=tuple(
                Completion(
                    token_ids=(3,) * num_tokens,
                    logprobs=(-1.0,) * num_tokens,
                    text="",
                    finish_reason=reason,
                    policy_version=0,
                )
                for num_tokens, reason, _, _ in completions
            ),
        ),
        scores=tuple(
            Score(
                total=0.0 if error else sum(WEIGHTS[name] * value for name, value in parts.items()),
                parts=parts,
                correct=False,
                error=error,
            )
            for _, _, parts, error in completions
        ),
    )


GROUPS = [
    scored_group(
        (4, "stop", {"exact": 1.0, "tags": 2.0}, None), (6, "length", {"exact": 0.0}, None)
    ),
    scored_group((2, "stop", {"exact": 1.0, "tags": 1.0}, "boom")),
]


def test_parts_carry_their_weights_and_add_up_to_the_total():
    batch = score_batch(GROUPS, weights=WEIGHTS)
    expected = torch.tensor([[[1.0, 0.2], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    torch.testing.assert_close(batch.parts_PGR, expected)
    torch.testing.assert_close(batch.parts_PGR.sum(dim=2), batch.rewards_PG)
    assert batch.weights_R.tolist() == [1.0, 0.1]
    assert score_batch(GROUPS).parts_PGR.shape == (2, 2, 0)


def test_lengths_are_counted_where_rewards_are():
    batch = score_batch(GROUPS)
    assert batch.lengths_PG.tolist() == [[4, 6], [0, 0]]
    assert batch.counted_PG.tolist() == [[True, True], [False, False]]


def test_the_length_limit_is_what_is_said_or_where_completions_were_cut_off():
    assert score_batch(GROUPS, max_response_tokens=9).max_response_tokens == 9
    assert score_batch(GROUPS).max_response_tokens == 6


def test_where_nothing_was_cut_off_an_unknown_limit_costs_nothing():
    group = scored_group((4, "stop", {"exact": 1.0}, None), (900, "stop", {"exact": 1.0}, None))
    assert (dapo().advantages(score_batch([group])) == 0).all()
    assert (dapo().advantages(score_batch([group], max_response_tokens=1000)) != 0).all()


def test_a_part_that_drowns_in_the_sum_counts_when_it_is_normalised_first():
    # Exact and tags favour the one and the other; by weight, 10 to 1, either way of counting.
    group = scored_group(
        (4, "stop", {"exact": 1.0, "tags": 0.0}, None),
        (4, "stop", {"exact": 0.0, "tags": 100.0}, None),
    )
    batch = score_batch([group], weights=WEIGHTS)
    assert grpo().advantages(batch)[0, 1] > 0
    assert grpo(combine="normalise_then_sum").advantages(batch)[0, 0] > 0


def test_a_step_without_groups_has_an_empty_batch():
    batch = score_batch([], weights=WEIGHTS, max_response_tokens=5)
    assert batch.rewards_PG.shape == (0, 1) and batch.parts_PGR.shape == (0, 1, 2)
    for combine in ("sum_then_normalise", "normalise_then_sum"):
        algorithm = grpo(combine=combine, truncated="penalise")
        assert algorithm.advantages(batch).shape == (0, 1)


@pytest.mark.parametrize("weights", [{"exact": 1.0, "tags": 0.0}, {"exact": 1.0}])
def test_a_reward_without_weight_changes_nothing(weights):
    groups = [scored_group((4, "stop", {"exact": 1.0}, None), (4, "stop", {"exact": 0.0}, None))]
    found = grpo(combine="normalise_then_sum").advantages(score_batch(groups, weights=weights))
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0]]).double() * found[0, 0])
    assert found[0, 0] > 0.6
