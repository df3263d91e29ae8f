"""What the algorithm of a recipe decides of the curriculum where the recipe leaves it open."""

import pytest

from rl_llm.cli.inputs import load_data
from rl_llm.cli.parts import make_scheduler
from rl_llm.config import load_recipe
from rl_llm.errors import ConfigError
from rl_llm.policy import load_tokenizer
from rl_llm.records import Completion, Group, Score, ScoredGroup
from rl_llm.rollout.prompts import PromptEncoder


@pytest.fixture
def drawn(small):
    """Return `(*overrides) -> keys` of 20 steps in which a problem of level 3 is solved by one in
    four, and others by all but one."""

    def draw(*overrides):
        recipe = load_recipe(small, overrides=["rollout.problems_per_step=2", *overrides])
        encoder = PromptEncoder(load_tokenizer(recipe.model.path))
        scheduler = make_scheduler(recipe, load_data(recipe, encoder))
        keys = []
        for step in range(1, 21):
            groups = [_answered(request) for request in scheduler.plan(step)]
            keys += [group.group.problem.key for group in groups]
            scheduler.observe(groups, step=step)
            scheduler.conclude(groups)
        return keys

    return draw


def _answered(request):
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0
    )
    count = request.num_completions
    num_correct = 1 if request.problem.level == 3 else count - 1
    scores = [Score(total=0.0, parts={}, correct=n < num_correct) for n in range(count)]
    group = Group(problem=request.problem, prompt_ids=(0,), completions=(completion,) * count)
    return ScoredGroup(group=group, scores=tuple(scores))


@pytest.mark.parametrize(
    ("algorithm", "kernel"),
    [
        ("{name: grpo}", "headroom"),
        ("{name: dapo}", "headroom"),
        ("{name: dr_grpo}", "variance"),
        ("{name: grpo, scale: none}", "variance"),
        ("{name: grpo, scale: batch}", "variance"),
        ("{name: rloo}", "variance"),
    ],
)
def test_the_kernel_of_the_default_sampler_matches_the_advantages(drawn, algorithm, kernel):
    by_kernel = {
        name: drawn(f"curriculum.sampler={{name: posterior, kernel: {name}}}")
        for name in ("headroom", "variance", "flat")
    }
    assert len({str(found) for found in by_kernel.values()}) == 3
    assert drawn(f"algorithm={algorithm}") == by_kernel[kernel]


def test_a_kernel_that_is_asked_for_stands_whatever_the_algorithm(drawn):
    flat = "curriculum.sampler={name: posterior, kernel: flat}"
    assert drawn("algorithm={name: dr_grpo}", flat) == drawn(flat)


SOLVED = "curriculum.gates=[{name: range, low: 1, high: 1}]"
ONE_REWARD = "rewards=[{use: exact_answer}]"


@pytest.mark.parametrize("algorithm", ["{name: grpo}", "{name: dapo, truncated: train}"])
def test_a_gate_for_groups_without_an_advantage_is_refused(drawn, algorithm):
    with pytest.raises(ConfigError, match=r"curriculum\.gates\.0: .*all correct or all wrong"):
        drawn(f"algorithm={algorithm}", SOLVED, ONE_REWARD)


@pytest.mark.parametrize(
    "differs",
    [
        "algorithm={name: ppo}",
        "algorithm={name: dapo}",
        "rewards=[{use: exact_answer}, {use: answer_tags, channel: format}]",
        "rewards=[{use: length_budget, limit: 64, cache: 32, correct_at: 0.0}]",
        "rewards=[{use: length_budget, limit: 64, cache: 32}]",
        "rewards=[{use: exact_answer, correct_at: 0.0}]",
    ],
)
def test_that_gate_stands_where_groups_of_correct_completions_may_differ_in_reward(drawn, differs):
    given = [ONE_REWARD, differs] if differs.startswith("algorithm") else [differs]
    assert drawn(*given, SOLVED)
