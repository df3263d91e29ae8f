"""The groups of a step, from the scheduler's requests to what is learnt from: none is lost."""

from dataclasses import dataclass

import pytest

from rl_llm.config.curriculum import CurriculumSection
from rl_llm.curriculum import Rollouts, build_scheduler
from rl_llm.policy import Ranks
from rl_llm.records import Completion, Group, Problem, Sampling, Score, ScoredGroup, content_key
from rl_llm.trainer import Generation

# Each prompt is a pattern, of which a group of 4 shows the first 4 marks, and then the rest.
MIXED, WRONG, RIGHT = "+-+-", "----", "++++"


class PatternEngine:
    """Answers each problem with the marks of its prompt; groups finish in the opposite order."""

    def complete(self, requests):
        for request in reversed(requests):
            marks = request.problem.prompt.split()[0][: request.num_completions]
            completions = tuple(
                Completion(
                    token_ids=(1,),
                    logprobs=(-1.0,),
                    text=mark,
                    finish_reason="stop",
                    policy_version=0,
                )
                for mark in marks
            )
            yield Group(problem=request.problem, prompt_ids=(2,), completions=completions)


class MarksRubric:
    """Takes `+` for correct."""

    def score(self, groups):
        for group in groups:
            right = [completion.text == "+" for completion in group.completions]
            scores = tuple(Score(total=float(r), parts={}, correct=r) for r in right)
            yield ScoredGroup(group=group, scores=scores)


@dataclass
class Stage:
    scheduler: object
    generation: Generation

    def step(self, number, num_wanted=4):
        return self.generation.harvest(self.scheduler, number, num_wanted=num_wanted)


@pytest.fixture
def make_stage():
    """Return `(patterns, last_step=100, **curriculum) -> stage`: steps of 4 groups of 4."""

    def make(patterns, *, last_step=100, **section):
        prompts = [f"{pattern} {number}" for number, pattern in enumerate(patterns)]
        problems = [
            Problem(key=content_key(p, ""), prompt=p, answer="", source="s") for p in prompts
        ]
        scheduler = build_scheduler(
            CurriculumSection.model_validate({"sampler": {"name": "uniform"}, **section}),
            problems=problems,
            rollouts=Rollouts(
                num_problems=4,
                group_size=4,
                sampling=Sampling(temperature=1.0, max_new_tokens=1),
                last_step=last_step,
            ),
            seed=0,
        )
        return Stage(scheduler, Generation(PatternEngine(), MarksRubric(), Ranks()))

    return make


def prompts(groups):
    return [group.group.problem.prompt for group in groups]


def patterns(groups):
    return [prompt.split()[0] for prompt in prompts(groups)]


def assert_nothing_is_lost(harvest):
    assert sorted(prompts(harvest.scored)) == sorted(
        prompts(harvest.admitted) + prompts(harvest.dropped)
    )
    assert [draw.key for draw in harvest.draws] == [g.group.problem.key for g in harvest.scored]


def test_without_refill_a_step_learns_from_what_passed(make_stage):
    harvest = make_stage([MIXED, WRONG, RIGHT, MIXED]).step(1)
    assert patterns(harvest.admitted) == [MIXED, MIXED]
    assert sorted(patterns(harvest.dropped)) == [RIGHT, WRONG]
    assert harvest.num_rounds == 1
    assert_nothing_is_lost(harvest)


def test_refill_goes_on_until_the_step_is_full(make_stage):
    harvest = make_stage([MIXED, WRONG] * 20, refill={"max_rounds": 50}).step(1)
    assert patterns(harvest.admitted) == [MIXED] * 4
    assert harvest.num_rounds > 1
    assert_nothing_is_lost(harvest)


def test_a_refill_draws_what_is_missing_of_the_groups_that_are_wanted(make_stage):
    stage = make_stage([MIXED, WRONG, WRONG, WRONG] * 10, refill={"max_rounds": 50})
    harvest = stage.step(1, num_wanted=2)
    assert patterns(harvest.admitted) == [MIXED] * 2
    assert [draw.round for draw in harvest.draws].count(0) == 4
    assert all([draw.round for draw in harvest.draws].count(n) <= 2 for n in range(1, 50))
    assert_nothing_is_lost(harvest)


@pytest.mark.parametrize("number", [1, 100])
def test_a_pool_that_ends_in_the_middle_of_a_refill_loses_no_admitted_group(make_stage, number):
    """Of 7 problems 3 teach; step 100 is the last."""
    stage = make_stage([MIXED, WRONG, RIGHT, WRONG, MIXED, WRONG, MIXED], refill={"max_rounds": 50})
    harvest = stage.step(number)
    assert patterns(harvest.admitted) == [MIXED] * 3
    assert len(harvest.scored) == 7
    assert_nothing_is_lost(harvest)


def test_a_step_that_finds_nothing_ends_at_the_bound_with_nothing(make_stage):
    harvest = make_stage([WRONG] * 40, refill={"max_rounds": 3}).step(1)
    assert harvest.admitted == ()
    assert [len(harvest.scored), harvest.num_rounds] == [16, 4]
    assert [draw.round for draw in harvest.draws] == [n for n in range(4) for _ in range(4)]


def test_beliefs_are_those_of_before_the_step(make_stage):
    stage = make_stage([WRONG] * 4)
    assert set(stage.step(1).beliefs.values()) == {0.5}
    assert max(stage.step(2).beliefs.values()) < 0.1


def test_probed_groups_are_admitted_whole_and_over_a_run_no_completion_is_lost(make_stage):
    stage = make_stage(
        [MIXED, WRONG, RIGHT, MIXED] * 8, last_step=5, probe={"completions": 2, "problems": 6}
    )
    harvests = [stage.step(number) for number in range(1, 6)]
    admitted = [group for harvest in harvests for group in harvest.admitted]
    dropped = [group for harvest in harvests for group in harvest.dropped]
    assert admitted and {len(group.scores) for group in admitted} == {4}
    assert {len(group.scores) for group in dropped} == {2}
    generated = sum(len(group.scores) for harvest in harvests for group in harvest.scored)
    assert sum(len(group.scores) for group in admitted + dropped) == generated
    assert all(len(harvest.admitted) <= 4 for harvest in harvests[:-1])
