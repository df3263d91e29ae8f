"""What is evaluated, with what randomness; pass rates and their standard errors by hand."""

from collections import Counter

import numpy as np
import pytest

from rl_llm.config import SourceUse
from rl_llm.errors import ConfigError
from rl_llm.pass_rates import pass_rate
from rl_llm.problems import load_pool
from rl_llm.records import (
    Completion,
    Group,
    Problem,
    Sampling,
    Score,
    ScoredGroup,
    content_key,
)
from rl_llm.trainer.evaluate import Evaluator, sample_problems
from rl_llm.trainer.metrics import evaluation_row, evaluation_rows

SAMPLING = Sampling(temperature=1.0, max_new_tokens=4)


def problem(prompt, *, level=1, source="s"):
    return Problem(
        key=content_key(prompt, "a"), prompt=prompt, answer="a", level=level, source=source
    )


def scored(request):
    """Return a group of which those completions are correct that the prompt has a 1 for."""
    problem = request.problem
    marks = problem.prompt.partition(":")[2]
    completions = tuple(
        Completion(
            token_ids=(1,) * len(marks),
            logprobs=(0.0,) * len(marks),
            text="",
            finish_reason="stop",
            policy_version=0,
        )
        for _ in marks
    )
    scores = tuple(Score(total=0.0, parts={}, correct=mark == "1") for mark in marks)
    group = Group(problem=problem, prompt_ids=(0,), completions=completions)
    return ScoredGroup(group=group, scores=scores)


class Scripted:
    """Generates what the prompts say, and remembers the requests."""

    def __init__(self):
        self.requests = []

    def __call__(self, requests):
        self.requests.append(requests)
        return [scored(request) for request in requests]

    def streams(self, call):
        return {r.problem.prompt: r.stream_key for r in self.requests[call]}


def evaluator(generation, held_out, train=(), *, seed=0):
    return Evaluator(
        held_out,
        generation,
        sampling=SAMPLING,
        samples_per_problem=2,
        seed=seed,
        train_problems=train,
    )


def test_the_standard_error_is_that_of_the_mean_over_problems():
    # rates 0 .5 1: mean .5, squares .25 + 0 + .25 over 2: .25, deviation .5
    found = pass_rate(np.array([0.0, 0.5, 1.0]))
    assert found.mean == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(0.5 / 3**0.5)
    assert found.num_problems == 3


def test_one_problem_has_no_standard_error():
    assert pass_rate(np.array([0.25])).standard_error == 0.0


def test_training_problems_are_measured_apart_from_held_out_ones():
    held_out = [problem("h:00", level=1), problem("i:01", level=2)]
    train = [problem("t:11"), problem("u:11"), problem("v:01")]
    found = evaluator(Scripted(), held_out, train)(4)
    assert found.overall.mean == pytest.approx(0.25) and found.overall.num_problems == 2
    assert {level: rate.mean for level, rate in found.by_level.items()} == {1: 0.0, 2: 0.5}
    assert [g.group.problem.prompt for g in found.scored] == ["h:00", "i:01"]
    # rates 1 1 .5: mean 5/6, squares 1/36 + 1/36 + 4/36 over 2: 1/12
    assert found.train.mean == pytest.approx(5 / 6)
    assert found.train.standard_error == pytest.approx((1 / 12 / 3) ** 0.5)
    assert [g.group.problem.prompt for g in found.scored_train] == ["t:11", "u:11", "v:01"]


def test_lengths_and_masked_completions_are_those_of_held_out_problems():
    found = evaluator(Scripted(), [problem("h:00")], [problem("t:1111")])()
    assert found.completion_tokens_mean == 2.0


def test_a_level_that_sources_write_as_a_number_and_as_text_is_one():
    held_out = [problem("a:11"), problem("b:00", level="1", source="t"), problem("c:10", level=2)]
    row = evaluation_row(evaluator(Scripted(), held_out)())
    rates = {key: value for key, value in row.items() if "level=" in key}
    assert rates == {"eval/pass_rate/level=1": 0.5, "eval/pass_rate/level=2": 0.5}


def test_without_training_problems_there_is_no_training_pass_rate():
    found = evaluator(Scripted(), [problem("h:00")])()
    assert found.train is None and found.scored_train == ()


def test_held_out_problems_keep_their_randomness_and_training_problems_get_new_at_every_step():
    generation = Scripted()
    measure = evaluator(generation, [problem("h:00")], [problem("t:11"), problem("u:11")])
    for step in (0, 25, 25):
        measure(step)
    first, later, again = (generation.streams(call) for call in range(3))
    assert first["h:00"] == later["h:00"]
    assert len({first["t:11"], first["u:11"], later["t:11"], later["u:11"]}) == 4
    assert later == again  # A run that resumes behind this step measures the same.


def test_the_same_problem_has_other_randomness_with_another_seed():
    keys = []
    for seed in (0, 1):
        generation = Scripted()
        evaluator(generation, [problem("h:00")], [problem("t:11")], seed=seed)()
        keys += generation.streams(0).values()
    assert len(set(keys)) == 4


def test_training_problems_without_held_out_ones_are_refused():
    with pytest.raises(ConfigError, match=r"eval\.train_problems=1 with nothing under data\.eval"):
        evaluator(Scripted(), [], [problem("t:11")])


def test_a_sample_holds_every_level_in_proportion_and_always_the_same_problems():
    # Levels stand in turn, so that every 4th problem would be of one level.
    pool = [problem(f"{n}", level=n % 4, source="a" if n < 60 else "b") for n in range(80)]
    chosen = sample_problems(pool, 16, seed=5)
    assert chosen == sample_problems(pool, 16, seed=5)
    assert chosen != sample_problems(pool, 16, seed=6)
    assert len({p.key for p in chosen}) == 16
    counts = Counter((p.source, p.level) for p in chosen)
    assert counts == {("a", level): 3 for level in range(4)} | {
        ("b", level): 1 for level in range(4)
    }
    places = [pool.index(p) for p in chosen]
    assert places == sorted(places)


def test_every_problem_is_chosen_equally_often_over_the_seeds():
    # 3 of 10, levels of 7 and 3: 300 of 1000 each, with a standard deviation of 14.5.
    pool = [problem(f"{n}", level=n < 7) for n in range(10)]
    counts = Counter(p.prompt for seed in range(1000) for p in sample_problems(pool, 3, seed=seed))
    assert set(counts) == {f"{n}" for n in range(10)}
    assert all(abs(count - 300) < 60 for count in counts.values())


@pytest.mark.parametrize(("num", "expected"), [(0, ""), (3, "abc"), (9, "abc")])
def test_none_or_all_problems_may_be_asked_for(num, expected):
    pool = [problem(prompt) for prompt in "abc"]
    assert "".join(p.prompt for p in sample_problems(pool, num, seed=0)) == expected


def test_of_a_stream_the_first_batch_is_measured():
    use = SourceUse(use="arithmetic", levels=[3, 4], size=40, split="train", endless=True)
    pool = load_pool([use], where="data.train")
    chosen = sample_problems(pool.problems, 10, seed=0)
    assert {p.key for p in chosen} <= pool.endless_keys
    assert Counter(p.level for p in chosen) == {3: 5, 4: 5}


def test_several_samples_give_pass_at_k_and_a_row_for_each_problem():
    held_out = [problem("h:1000", level=1), problem("i:1110", level=2)]
    evaluation = evaluator(Scripted(), held_out, [problem("t:1111")])()
    row = {key: value for key, value in evaluation_row(evaluation).items() if "pass" in key}
    del row["eval/train_pass_rate"], row["eval/train_pass_rate_se"]
    assert row == pytest.approx(
        {
            "eval/pass_rate": 0.5,
            "eval/pass_rate_se": 0.25,
            "eval/pass_rate/level=1": 0.25,
            "eval/pass_rate/level=2": 0.75,
            # Of the 6 pairs of h, 3 hold its correct sample; of i, all.
            "eval/pass_at_2": 0.75,
            "eval/pass_at_2_se": 0.25,
            "eval/pass_at_4": 1.0,
            "eval/pass_at_4_se": 0.0,
        }
    )
    rows = evaluation_rows(evaluation, step=8)
    assert [(r["step"], r["key"], r["correct"], r["samples"], r["masked"]) for r in rows] == [
        (8, held_out[0].key, 1, 4, 0),
        (8, held_out[1].key, 3, 4, 0),
    ]


def test_one_sample_gives_no_pass_at_k():
    row = evaluation_row(evaluator(Scripted(), [problem("h:1"), problem("i:0")])())
    assert not [key for key in row if key.startswith("eval/pass_at")]
