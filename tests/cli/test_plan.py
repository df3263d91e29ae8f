"""What a step asks of each process."""

from functools import partial

import numpy as np
import pytest

from rl_llm.algorithms import grpo, ppo
from rl_llm.cli.plan import Share, plan_step, remarks
from rl_llm.config import parse_recipe
from rl_llm.policy.imagined import Shape
from rl_llm.policy.pack import TrainGroup, TrainRow, pack


def recipe_of(*, optim=None, curriculum=None, kl=None, **rollout):
    return parse_recipe(
        {
            "run": {"name": "a", "steps": 100},
            "model": {"path": "m"},
            "data": {"train": [{"use": "arithmetic", "levels": [1]}], "max_prompt_tokens": 32},
            "rewards": [{"use": "exact_answer"}],
            "curriculum": curriculum or {},
            "rollout": {"problems_per_step": 10, "group_size": 4, "max_new_tokens": 96, **rollout},
            "optim": {"tokens_per_micro_batch": 1024, **(optim or {})},
            "kl": kl or {},
        },
        where="test",
    )


def planned(recipe, num_ranks, *, algorithm=None, needs_reference=True, shares_prompts=True):
    return plan_step(
        recipe,
        algorithm or grpo(),
        num_ranks=num_ranks,
        longest_prompt_tokens=32,
        needs_reference=needs_reference,
        shares_prompts=shares_prompts,
    )


def test_ten_groups_on_three_processes():
    plan = planned(recipe_of(), 3)
    assert plan.problems == plan.groups == Share(least=3, most=4)
    assert str(plan.groups) == "3 or 4"
    assert plan.call_completions == plan.sequences == 4 * 4
    assert plan.updates == 1
    # A group of the longest takes 32 + 4 x 96 = 416 positions: two fit into 1,024, so 4 make 2.
    assert plan.micro_batches == 2
    assert plan.fullest == Shape(
        num_prompts=2, rows_per_prompt=4, prompt_tokens=32, response_tokens=96
    )
    assert plan.fullest.num_positions == 832 and plan.full_positions == 1024
    # Each micro-batch once with gradient, and once for the reference.
    assert (plan.passes_with_gradient, plan.passes_without) == (2, 2)
    assert planned(recipe_of(), 3, needs_reference=False).passes_without == 0


def test_a_group_that_does_not_fit_is_cut_into_runs_of_rows():
    plan = planned(recipe_of(optim={"tokens_per_micro_batch": 256}), 5)
    # 32 + 2 x 96 = 224 of 256: two rows at a time, so 2 groups of 4 rows make 4 micro-batches.
    assert plan.groups == Share(least=2, most=2) and plan.micro_batches == 4
    assert plan.fullest.rows_per_prompt == 2 and plan.fullest.num_positions == 224
    assert plan.fill == 256 / 224


def test_a_micro_batch_holds_no_more_than_a_process_has():
    plan = planned(recipe_of(optim={"tokens_per_micro_batch": 8192}), 10)
    assert plan.full_positions == plan.fullest.num_positions == 416 and plan.fill == 1


def test_updates_epochs_and_a_critic_multiply_passes():
    optim = {"updates_per_batch": 2, "epochs": 3}
    plan = planned(recipe_of(optim=optim), 2, algorithm=ppo())
    # 5 groups an update, 3 of them here at most, in 2 micro-batches: 4 in both parts of the step.
    assert plan.updates == 6 and plan.groups == Share(least=2, most=3)
    assert plan.sequences == 12 and plan.micro_batches == 2
    # Policy and critic in each of 3 epochs; policy, reference and critic once before them.
    assert (plan.passes_with_gradient, plan.passes_without) == (4 * 3 * 2, 4 * 3)


def test_prompts_that_run_with_every_completion_count_with_every_one():
    plan = planned(recipe_of(), 3, shares_prompts=False)
    # A group of the longest takes 4 x (32 + 96) = 512 positions: two are 1,024.
    assert plan.fullest.num_prompts == 2 and plan.fullest.num_positions == 1024
    assert plan.micro_batches == 2 and plan.fill == 1
    plan = planned(recipe_of(optim={"tokens_per_micro_batch": 500}), 5, shares_prompts=False)
    # 3 x 128 = 384 of 500: 4 rows make 2 micro-batches, and 2 groups 4.
    assert (plan.fullest.num_prompts, plan.fullest.rows_per_prompt) == (1, 3)
    assert plan.micro_batches == 4 and plan.fill == 500 / 384


@pytest.mark.parametrize("shares_prompts", [True, False])
@pytest.mark.parametrize("budget", [200, 256, 416, 500, 1024, 3000])
def test_groups_of_any_lengths_are_packed_into_no_more_micro_batches_than_are_planned(
    budget, shares_prompts
):
    recipe = recipe_of(optim={"tokens_per_micro_batch": budget})
    plan = planned(recipe, 3, shares_prompts=shares_prompts)
    packed = partial(pack, max_tokens=budget, shares_prompts=shares_prompts)
    rng = np.random.default_rng(0)
    longest = [group([96] * 4, prompt=32) for _ in range(4)]
    assert len(packed(longest)) == plan.micro_batches
    for _ in range(200):
        groups = [group(rng.integers(1, 97, 4), prompt=rng.integers(1, 33)) for _ in range(4)]
        assert len(packed(groups)) <= plan.micro_batches


def group(lengths, *, prompt):
    rows = tuple(
        TrainRow(token_ids=(1,) * n, engine_logprobs=(0.0,) * n, advantage=1.0) for n in lengths
    )
    return TrainGroup(prompt_ids=(1,) * prompt, rows=rows)


def test_probes_and_what_finishes_them_are_dealt_out_apart():
    curriculum = {"probe": {"completions": 3, "problems": 16}, "refill": {"max_rounds": 0}}
    plan = planned(recipe_of(curriculum=curriculum, group_size=8), 4)
    assert plan.problems == Share(least=4, most=4)
    # Of 10 groups that are finished with 5, and 16 probes of 3: 3 x 5 + 4 x 3 = 27 on one of 4. The
    # last step may finish 9 + 16 groups: 7 x 5 = 35.
    assert plan.call_completions == 35


def told(recipe, num_ranks):
    return list(remarks(recipe, planned(recipe, num_ranks)))


def test_processes_without_a_group_are_named():
    (line,) = told(recipe_of(), 16)
    assert line.startswith(
        "rollout.problems_per_step=10 with 16 processes: processes 10 to 15 have nothing to do"
    )
    assert "use 16 or more, or 10 processes" in line
    assert "process 10 has nothing to do" in told(recipe_of(), 11)[0]


def test_uneven_shares_are_said():
    (line,) = told(recipe_of(), 4)
    # 10 = 3 + 3 + 2 + 2.
    assert "2 of them have one group less" in line and "a multiple of 4" in line
    assert told(recipe_of(), 5) == told(recipe_of(), 1) == []


def test_updates_with_fewer_groups_than_processes_leave_some_empty():
    (line,) = told(recipe_of(optim={"updates_per_batch": 5}), 5)
    assert "an update learns from 2 groups" in line
    assert "processes 2 to 4 have nothing to learn from" in line
