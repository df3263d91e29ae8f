"""What is trained on, and how it is cut. Legend: see rl_llm/policy/pack.py."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import grpo
from rl_llm.policy.pack import (
    TrainGroup,
    TrainRow,
    balance,
    collate,
    count,
    pack,
    score_batch,
    train_groups,
)
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key

PROBLEM = Problem(key=content_key("p", "a"), prompt="p", answer="a")
CPU = torch.device("cpu")


def scored_group(*completions):
    """Build a group from (token ids, finish reason, total, error)."""
    return ScoredGroup(
        group=Group(
            problem=PROBLEM,
            prompt_ids=(7, 8),
            completions=tuple(
                Completion(
                    token_ids=tuple(ids),
                    logprobs=(-0.5,) * len(ids),
                    text="",
                    finish_reason=reason,
                    policy_version=0,
                )
                for ids, reason, _, _ in completions
            ),
        ),
        scores=tuple(
            Score(total=total, parts={}, correct=total > 0.5, error=error)
            for _, _, total, error in completions
        ),
    )


def kept_rows(group, algorithm=None):
    algorithm = algorithm or grpo()
    advantages_PG = algorithm.advantages(score_batch([group]))
    groups = train_groups([group], advantages_PG, algorithm)
    return [row.token_ids for one in groups for row in one.rows]


def test_a_truncated_completion_counts_in_the_baseline_but_is_not_trained_on():
    group = scored_group(([3, 1], "stop", 1.0, None), ([4, 4], "length", 0.0, None))
    assert kept_rows(group) == [(3, 1)]
    assert grpo().advantages(score_batch([group]))[0, 0] > 0.5
    assert kept_rows(group, grpo(truncated="train")) == [(3, 1), (4, 4)]


def test_a_completion_whose_reward_failed_is_not_trained_on():
    group = scored_group(
        ([3, 1], "stop", 1.0, None), ([4, 1], "stop", 0.0, None), ([5, 1], "stop", 0.0, "boom")
    )
    assert kept_rows(group) == [(3, 1), (4, 1)]


def test_a_group_with_equal_rewards_is_not_run_at_all():
    assert kept_rows(scored_group(*[([3, 1], "stop", 0.3, None)] * 7)) == []


def test_a_completion_without_tokens_is_left_out():
    group = scored_group(([], "length", 1.0, None), ([4, 1], "stop", 0.0, None))
    assert kept_rows(group, grpo(truncated="train")) == [(4, 1)]


def drawn_by(*versions):
    """A group whose completions were drawn by these versions, right and wrong in turn."""
    group = scored_group(
        *[([3 + place, 1], "stop", float(place % 2), None) for place in range(len(versions))]
    )
    completions = tuple(
        replace(completion, policy_version=version)
        for completion, version in zip(group.group.completions, versions, strict=True)
    )
    return replace(group, group=replace(group.group, completions=completions))


def staleness(groups, **options):
    advantages_PG = grpo().advantages(score_batch(groups))
    kept = train_groups(groups, advantages_PG, grpo(), **options)
    return [[row.is_stale for row in group.rows] for group in kept]


def test_rows_of_older_versions_than_the_updates_start_are_stale():
    groups = [drawn_by(4, 4, 6, 6), drawn_by(5, 6)]
    assert staleness(groups, version=6) == [[True, True, False, False], [True, False]]
    assert staleness(groups, version=7) == [[True] * 4, [True] * 2]


def test_without_a_version_the_newest_completion_of_the_batch_is_fresh():
    groups = [drawn_by(4, 4), drawn_by(5, 6)]
    assert staleness(groups) == [[True, True], [True, False]]
    assert staleness([drawn_by(4, 4)]) == [[False, False]]
    assert staleness([]) == []


def test_collate_tells_stale_rows_apart():
    rows = [
        TrainRow(token_ids=(6, 1), engine_logprobs=(-1.0, -1.0), advantage=1.0, is_stale=is_stale)
        for is_stale in (False, True, False)
    ]
    groups = [TrainGroup(prompt_ids=(5,), rows=tuple(rows[:2]))]
    groups.append(TrainGroup(prompt_ids=(5, 6), rows=tuple(rows[2:])))
    assert collate(groups, pad_id=0, device=CPU).is_stale_B.tolist() == [False, True, False]


def test_collate_pads_prompts_left_and_responses_right_and_masks_both():
    first = TrainGroup(
        prompt_ids=(5,),
        rows=(TrainRow(token_ids=(6, 1), engine_logprobs=(-0.1, -0.2), advantage=2.0),),
    )
    second = TrainGroup(
        prompt_ids=(7, 8, 9),
        rows=(TrainRow(token_ids=(4, 4, 1), engine_logprobs=(-1.0, -2.0, -3.0), advantage=-1.0),),
    )
    batch = collate([first, second], pad_id=0, device=CPU)
    assert batch.prompt_ids_PL.tolist() == [[0, 0, 5], [7, 8, 9]]
    assert batch.prompt_mask_PL.tolist() == [[False, False, True], [True, True, True]]
    assert batch.response_ids_BT.tolist() == [[6, 1, 0], [4, 4, 1]]
    assert batch.response_mask_BT.tolist() == [[True, True, False], [True, True, True]]
    assert batch.advantages_BT.tolist() == [[2.0, 2.0, 0.0], [-1.0, -1.0, -1.0]]
    torch.testing.assert_close(
        batch.engine_logprobs_BT, torch.tensor([[-0.1, -0.2, 0.0], [-1.0, -2.0, -3.0]])
    )


def rewards_of(*rows):
    batch = collate([TrainGroup(prompt_ids=(5,), rows=rows)], pad_id=0, device=CPU)
    assert batch.rewards_BT.dtype == torch.float32
    return batch.rewards_BT


def row_of(length, advantage, token_rewards=()):
    return TrainRow(
        token_ids=(3,) * (length - 1) + (1,),
        engine_logprobs=(-1.0,) * length,
        advantage=advantage,
        token_rewards=token_rewards,
    )


def test_a_reward_of_the_whole_completion_stands_at_its_last_token_and_0_elsewhere():
    rewards_BT = rewards_of(row_of(3, 2.0), row_of(1, -1.0), row_of(2, 0.0))
    assert rewards_BT.tolist() == [[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_rewards_per_token_stand_at_their_tokens_and_the_rest_at_the_last():
    per_token = row_of(3, 3.0, token_rewards=(0.5, -1.0, 0.25))
    nothing_left = row_of(2, 0.75, token_rewards=(0.5, 0.25))
    rewards_BT = rewards_of(per_token, nothing_left)
    assert rewards_BT.tolist() == [[0.5, -1.0, 3.5], [0.5, 0.25, 0.0]]
    assert rewards_BT.sum(dim=1).tolist() == [3.0, 0.75]


def test_rows_take_the_token_rewards_of_their_scores():
    group = scored_group(([3, 1], "stop", 1.0, None), ([4, 1], "stop", 0.0, None))
    scores = (replace(group.scores[0], token_rewards=(0.25, 0.0)), group.scores[1])
    groups = [replace(group, scores=scores)]
    (kept,) = train_groups(groups, grpo().advantages(score_batch(groups)), grpo())
    assert [row.token_rewards for row in kept.rows] == [(0.25, 0.0), ()]


def test_a_reward_that_is_held_back_is_0_among_the_parts_of_a_batch():
    group = scored_group(([3, 1], "stop", 1.0, None), ([4, 1], "stop", 0.0, None))
    parts = {"right": 0.5, "tags": 0.75}
    scores = tuple(
        replace(score, parts=parts, held_back=held_back)
        for score, held_back in zip(group.scores, [(), ("tags",)], strict=True)
    )
    batch = score_batch([replace(group, scores=scores)], weights={"right": 1.0, "tags": 2.0})
    assert batch.parts_PGR.tolist() == [[[0.5, 1.5], [0.5, 0.0]]]


groups_of_any_shape = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 20), min_size=1, max_size=9)),
    min_size=1,
    max_size=12,
)


def numbered_groups(shapes):
    """Give every row tokens of its own, so that a lost or doubled row shows."""
    serial = 0
    groups = []
    for prompt_tokens, lengths in shapes:
        rows = []
        for length in lengths:
            serial += 1
            rows.append(
                TrainRow(
                    token_ids=(serial,) * (length - 1) + (1,),
                    engine_logprobs=(-1.0,) * length,
                    advantage=float(serial),
                )
            )
        groups.append(TrainGroup(prompt_ids=(serial,) * prompt_tokens, rows=tuple(rows)))
    return groups


def rows_of(groups):
    return sorted((group.prompt_ids, row.advantage) for group in groups for row in group.rows)


@given(groups_of_any_shape, st.integers(32, 200))
def test_packing_loses_and_doubles_no_row_and_keeps_to_the_budget(shapes, max_tokens):
    groups = numbered_groups(shapes)
    micro_batches = pack(groups, max_tokens=max_tokens)
    assert rows_of([group for batch in micro_batches for group in batch]) == rows_of(groups)
    for batch in micro_batches:
        tensors = collate(batch, pad_id=0, device=CPU)
        positions = tensors.prompt_ids_PL.numel() + tensors.response_ids_BT.numel()
        assert positions <= max_tokens


@given(groups_of_any_shape, st.integers(32, 200))
def test_prompts_that_run_with_every_row_count_with_every_row(shapes, max_tokens):
    groups = numbered_groups(shapes)
    micro_batches = pack(groups, max_tokens=max_tokens, shares_prompts=False)
    assert rows_of([group for batch in micro_batches for group in batch]) == rows_of(groups)
    for batch in micro_batches:
        tensors = collate(batch, pad_id=0, device=CPU)
        num_rows, width = tensors.response_ids_BT.shape
        assert num_rows * (tensors.prompt_ids_PL.shape[1] + width) <= max_tokens


def test_a_long_prompt_is_counted_as_often_as_it_runs():
    rows = (TrainRow(token_ids=(1,) * 100, engine_logprobs=(0.0,) * 100, advantage=1.0),) * 8
    groups = [TrainGroup(prompt_ids=(2,) * 2000, rows=rows)] * 2
    # 2 x (2,000 + 8 x 100) = 5,600 positions, or 3 rows of 2,100 at a time: 8 make 3 + 3 + 2.
    assert [len(batch) for batch in pack(groups, max_tokens=8192)] == [2]
    apart = pack(groups, max_tokens=8192, shares_prompts=False)
    assert [len(group.rows) for batch in apart for group in batch] == [3, 3, 2] * 2
    assert len(apart) == 6


@given(groups_of_any_shape)
def test_mask_counts_are_the_totals_and_every_row_keeps_its_end(shapes):
    groups = numbered_groups(shapes)
    totals = count(groups, max_response_tokens=20)
    batches = [collate(b, pad_id=0, device=CPU) for b in pack(groups, max_tokens=64)]
    assert sum(int(b.response_mask_BT.sum()) for b in batches) == totals.num_tokens
    assert sum(len(b.response_mask_BT) for b in batches) == totals.num_sequences
    for batch in batches:
        last_B = batch.response_mask_BT.sum(dim=1) - 1
        ends = batch.response_ids_BT.gather(1, last_B[:, None]).squeeze(1)
        assert (ends == 1).all()


@given(groups_of_any_shape, st.integers(1, 5))
def test_ranks_share_groups_whole_and_all(shapes, num_ranks):
    groups = numbered_groups(shapes)
    shares = balance(groups, num_ranks)
    assert len(shares) == num_ranks
    assert rows_of([group for share in shares for group in share]) == rows_of(groups)
    loads = [sum(group.num_tokens for group in share) for share in shares]
    assert max(loads) - min(loads) <= max(group.num_tokens for group in groups)


def test_one_group_on_two_ranks_leaves_one_with_nothing():
    assert [len(share) for share in balance(numbered_groups([(2, [3])]), 2)] == [1, 0]


def test_scores_of_groups_of_several_sizes_are_padded_and_not_counted():
    batch = score_batch(
        [
            scored_group(([3, 1], "stop", 1.0, None)),
            scored_group(([3, 1], "stop", 0.25, None), ([3, 1], "stop", 9.0, "boom")),
        ]
    )
    assert batch.counted_PG.tolist() == [[True, False], [True, False]]
    assert batch.rewards_PG[:, 0].tolist() == pytest.approx([1.0, 0.25])
