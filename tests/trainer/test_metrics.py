"""Rows of metrics, and the file that holds them."""

import json
import math
import resource
from dataclasses import asdict, fields, replace

import pytest

from rl_llm.curriculum.draw_record import Draw
from rl_llm.errors import StorageError
from rl_llm.pass_rates import PassRate
from rl_llm.policy import UpdateFacts
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key
from rl_llm.trainer.evaluate import Evaluation
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.metrics import (
    Counters,
    JsonlSink,
    evaluation_row,
    harvest_row,
    read_rows,
    update_row,
)


def scored_group(prompt, *scores, level=0):
    completion = Completion(
        token_ids=(5, 1), logprobs=(-1.0, -1.0), text="", finish_reason="stop", policy_version=0
    )
    problem = Problem(
        key=content_key(prompt, "a"), prompt=prompt, answer="a", level=level, source="sums"
    )
    group = Group(problem=problem, prompt_ids=(2,), completions=(completion,) * len(scores))
    return ScoredGroup(group=group, scores=scores)


RIGHT = Score(total=1.1, parts={"exact": 1.0, "format": 1.0}, correct=True)
WRONG = Score(total=0.1, parts={"exact": 0.0, "format": 1.0}, correct=False)
FAILED = Score(total=0.0, parts={}, correct=False, error="boom")


def harvest(*groups, admitted=(), dropped=None, whys=None):
    """Bring groups; those that are not admitted are dropped, unless it says which."""
    draws = [
        Draw(
            key=group.group.problem.key,
            belief_a=1.0,
            belief_b=1.0,
            informative=0.5,
            why=why,
            round=0,
        )
        for group, why in zip(groups, whys or ["sampler"] * len(groups), strict=True)
    ]
    return Harvest(
        scored=groups,
        draws=tuple(draws),
        admitted=admitted,
        dropped=tuple(g for g in groups if g not in admitted) if dropped is None else dropped,
        num_rounds=2,
        generate_s=0.5,
        score_s=0.1,
    )


def test_failures_of_rewards_are_counted_by_reward_and_kind():
    def failed(**failures):
        return Score(total=0.0, parts={}, correct=False, error="boom", failures=failures)

    groups = [
        scored_group("p", RIGHT, failed(exact="timeout"), failed(exact="timeout", format="killed")),
        scored_group("q", failed(exact="raised"), WRONG),
    ]
    row = harvest_row(harvest(*groups), Counters())
    assert {key: value for key, value in row.items() if "failures" in key} == {
        "reward/exact_failures/raised": 1,
        "reward/exact_failures/timeout": 2,
        "reward/format_failures/killed": 1,
    }


def test_a_harvest_counts_dropped_groups_and_leaves_failed_rewards_out_of_means():
    informative = scored_group("p", RIGHT, WRONG)
    dropped = scored_group("q", WRONG, WRONG)
    failed = scored_group("r", RIGHT, FAILED)
    counters = Counters()
    brought = harvest(informative, dropped, failed, admitted=(informative,))
    counters.count(3, brought)
    row = harvest_row(brought, counters)
    assert row["train/pass_rate"] == pytest.approx(2 / 5)
    assert row["train/reward_mean"] == pytest.approx((1.1 + 0.1 + 0.1 + 0.1 + 1.1) / 5)
    assert row["reward/exact_mean"] == pytest.approx(2 / 5)
    assert row["train/informative_share"] == pytest.approx(1 / 3)
    assert row["train/groups_admitted"] == 1
    assert row["train/completions_masked"] == 1
    assert row["rollout/completions"] == 6 and row["rollout/tokens"] == 12
    assert row["rollout/tokens_per_s"] == pytest.approx(24)
    assert row["rollout/refill_rounds"] == 1
    assert counters.step == 3


def test_lengths_are_told_by_source_and_level_and_likeness_over_all():
    long = replace(scored_group("q", WRONG, level=2).group.completions[0], token_ids=(5,) * 8)
    group = scored_group("q", WRONG, WRONG, level=2)
    mixed = replace(group, group=replace(group.group, completions=(long, long)))
    groups = scored_group("p", RIGHT, WRONG, level=1), scored_group("r", RIGHT, level=2), mixed
    row = harvest_row(harvest(*groups), Counters())
    # Level 2: two completions of 8 tokens, one of 2.
    assert row["train/completion_tokens_mean/sums/level=1"] == 2.0
    assert row["train/completion_tokens_mean/sums/level=2"] == 6.0
    # All texts are the same, and so are the reference answers.
    assert row["rollout/distinct_share"] == 0.0
    assert row["rollout/same_answer_share"] == pytest.approx(1.0)
    assert row["rollout/same_reference_share"] == 1.0


def test_an_evaluation_tells_of_each_reward_the_mean_over_problems_with_its_error():
    only_exact = Score(total=0.0, parts={"exact": 0.0}, correct=False)
    groups = (
        scored_group("p", RIGHT, WRONG),
        scored_group("q", WRONG, FAILED),
        scored_group("r", only_exact, only_exact),
    )
    evaluation = Evaluation(
        overall=PassRate(mean=0.0, standard_error=0.0, num_problems=3),
        by_level={},
        completion_tokens_mean=2.0,
        truncated_share=0.0,
        num_masked=1,
        elapsed_s=0.0,
        scored=groups,
    )
    row = evaluation_row(evaluation)
    # Exact: 1/2, 0 and 0, of deviation root(1/12). Format applies to two problems, 1 in both.
    assert row["eval/reward/exact_mean"] == pytest.approx(1 / 6)
    assert row["eval/reward/exact_mean_se"] == pytest.approx(1 / 6)
    assert (row["eval/reward/format_mean"], row["eval/reward/format_mean_se"]) == (1.0, 0.0)


def test_counters_accumulate():
    counters = Counters()
    for step in (1, 2):
        counters.count(step, harvest(scored_group("p", RIGHT, WRONG)))
    assert (counters.completions, counters.tokens, counters.step) == (4, 8, 2)


def test_completions_of_dropped_groups_are_counted_apart_and_among_all():
    counters = Counters()
    kept = scored_group("p", RIGHT, WRONG)
    for step in (1, 2):
        dropped = scored_group("q", WRONG, WRONG, FAILED)
        brought = harvest(kept, dropped, admitted=(kept,))
        counters.count(step, brought)
    row = harvest_row(brought, counters)
    assert (row["rollout/dropped_completions"], row["rollout/dropped_tokens"]) == (6, 12)
    assert row["rollout/completions"] == 10
    assert row["curriculum/admitted_share"] == pytest.approx(2 / 5)
    assert asdict(counters)["dropped_tokens"] == 12


def test_a_step_counts_its_groups_by_source_and_level():
    groups = [scored_group(p, RIGHT, level=level) for p, level in (("p", 2), ("q", 10), ("r", 2))]
    row = harvest_row(harvest(*groups), Counters())
    found = {key: count for key, count in row.items() if key.startswith("curriculum/groups/")}
    assert found == {
        "curriculum/groups/sums/level=2": 2,
        "curriculum/groups/sums/level=10": 1,
    }


def test_the_yield_counts_a_group_where_it_is_concluded_whatever_of_it_was_generated_before():
    whole, waiting = scored_group("p", RIGHT, WRONG, WRONG, WRONG), scored_group("q", RIGHT, WRONG)
    finish, dropped = scored_group("p", WRONG, WRONG), scored_group("r", WRONG, WRONG)
    brought = harvest(finish, waiting, dropped, admitted=(whole,), dropped=(dropped,))
    row = harvest_row(brought, Counters())
    assert row["curriculum/admitted_share"] == pytest.approx(4 / 6)


def test_the_informative_share_is_that_of_probes_in_the_step_that_probed_them():
    finish, whole = scored_group("p", WRONG), scored_group("p", RIGHT, WRONG, WRONG)
    probes = [scored_group("q", RIGHT, WRONG), *(scored_group(p, WRONG, WRONG) for p in "rst")]
    brought = harvest(
        finish, *probes, admitted=(whole,), dropped=probes[1:], whys=["finish", *["probe"] * 4]
    )
    row = harvest_row(brought, Counters())
    assert row["train/informative_share"] == pytest.approx(1 / 4)
    assert row["train/groups_admitted"] == 1


def test_a_step_that_finishes_probes_of_earlier_ones_alone_has_no_informative_share():
    whole = scored_group("p", RIGHT, WRONG, WRONG)
    brought = harvest(scored_group("p", WRONG), admitted=(whole,), dropped=(), whys=["finish"])
    assert math.isnan(harvest_row(brought, Counters())["train/informative_share"])


def test_groups_of_one_have_no_informative_share():
    groups = scored_group("p", RIGHT), scored_group("q", WRONG)
    brought = harvest(*groups, admitted=groups)
    assert math.isnan(harvest_row(brought, Counters())["train/informative_share"])


def test_a_step_without_a_group_has_a_yield_and_an_informative_share_of_nought():
    row = harvest_row(harvest(), Counters())
    assert row["curriculum/admitted_share"] == row["train/informative_share"] == 0.0


def test_where_no_completion_counts_none_is_right_and_none_is_wrong():
    for brought in (harvest(scored_group("p", FAILED, FAILED)), harvest()):
        row = harvest_row(brought, Counters())
        assert math.isnan(row["train/pass_rate"]) and math.isnan(row["train/reward_mean"])


def test_both_divergences_are_written_in_both_units_and_null_where_nothing_measured_them(tmp_path):
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    ref = {"ref_nats_per_token": 0.1, "ref_nats_per_response": 2.0}
    old = {"old_nats_per_token": math.nan, "old_nats_per_response": math.nan}
    facts = UpdateFacts(**(blank | ref | old | {"critic": None}))
    sink = JsonlSink(tmp_path / "metrics.jsonl", last_step=-1)
    sink.write({"step": 1, **update_row(facts, beta=0.5, lr=0.0, num_skipped=0)})
    sink.close()
    [row] = read_rows(tmp_path / "metrics.jsonl")
    assert {key: row[key] for key in row if key.startswith("kl/") and "nats" in key} == {
        "kl/ref_nats_per_token": 0.1,
        "kl/ref_nats_per_response": 2.0,
        "kl/old_nats_per_token": None,
        "kl/old_nats_per_response": None,
    }


def test_the_policy_has_no_learning_rate_while_the_critic_learns_alone():
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    for learns, lr in ((False, 0.0), (True, 0.5)):
        facts = UpdateFacts(**(blank | {"critic": None, "policy_learns": learns}))
        assert update_row(facts, beta=0.0, lr=0.5, num_skipped=0)["optim/lr"] == lr


def test_rows_past_the_checkpoint_are_cut_when_the_file_is_opened_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonlSink(path, last_step=-1)
    for step in range(4):
        first.write({"step": step, "loss": float(step)})
    first.close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    second = JsonlSink(path, last_step=2)
    second.write({"step": 3, "loss": 30.0})
    second.close()
    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_a_new_run_starts_with_an_empty_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n', encoding="utf-8")
    JsonlSink(path, last_step=-1).close()
    assert read_rows(path) == []


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, last_step=-1)
    sink.write({"step": 1, "loss": math.nan, "norm": math.inf})
    sink.close()
    assert json.loads(path.read_text(encoding="utf-8")) == {"step": 1, "loss": None, "norm": None}


def test_a_row_that_does_not_fit_leaves_none_of_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, last_step=-1)
    sink.write({"step": 1, "text": "x" * 100})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be written: File too large"):
            sink.write({"step": 2, "text": "y" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["step"] for row in read_rows(path)] == [1]
    assert path.read_bytes().endswith(b"}\n")
    sink.write({"step": 2})
    sink.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2}', b"\x00\xff\x00"])
def test_a_torn_last_line_is_left_out_and_cut(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert read_rows(path)[0] == {"step": 1}
    sink = JsonlSink(path, last_step=2)
    sink.write({"step": 2})
    sink.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_damaged_line_between_rows_costs_itself_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xffp": 2\n{"step": 3}\n{"step": 4}\n')
    JsonlSink(path, last_step=3).close()
    assert path.read_bytes().endswith(b'{"step": 3}\n')
    assert [row["step"] for row in read_rows(path)] == [1, 3]
