"""The rollout benchmark and the curve of SmolLM2: their arithmetic on rows worked by hand."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        names = {"bench": "bench_rollout", "table": "parts.rollout.table"}
        names["chain"] = "measure_chain_sum"
        yield SimpleNamespace(**{k: importlib.import_module(v) for k, v in names.items()})


def step(**seconds):
    return {"score_s": 0.0, "publish_s": 1.0, **seconds}


def test_generation_is_compared_step_by_step_and_in_the_middle(scripts):
    steps = [
        step(tokens=100, generate_s=1.0, alone_s=1.0, step_s=4.0),
        step(tokens=100, generate_s=2.0, alone_s=1.8, step_s=4.0),
        step(tokens=400, generate_s=4.0, alone_s=2.0, step_s=5.0),
    ]
    found = scripts.table.summarise([{"part": "generation", "case": "smollm2", "steps": steps}])
    assert found["generation_share"] == 0.9
    assert (found["training_tokens_per_s"], found["alone_tokens_per_s"]) == (100.0, 100.0)
    assert (found["wait_for_weights_s"], found["wait_for_weights_share"]) == (1.0, 0.25)


def test_overlap_is_judged_by_the_longer_of_generation_and_training(scripts):
    turns = [step(generate_s=3.0, step_s=8.0)] * 3
    at_once = [{"step_s": 6.0}] * 3
    rows = [
        {"part": "overlap", "case": "max_staleness=0", "steps": turns},
        {"part": "overlap", "case": "max_staleness=1", "steps": at_once},
    ]
    found = scripts.table.summarise(rows)
    assert (found["turns_generate_s"], found["turns_train_s"]) == (3.0, 5.0)
    assert found["overlap_ratio"] == 1.2


def test_publication_is_told_apart_by_mechanism(scripts):
    rows = [
        {"part": "publish", "case": "smollm2/merged", "publish_s": [1.0, 3.0, 2.0]},
        {"part": "publish", "case": "smollm2/adapter", "publish_s": [0.1]},
    ]
    found = scripts.table.summarise(rows)
    assert found == {"publish_s/smollm2/merged": 2.0, "publish_s/smollm2/adapter": 0.1}


def test_every_figure_has_words_in_the_table(scripts):
    tree = {"summary": {"generation_share": 0.95, "overlap_ratio": 1.1}, "machine": "m"}
    lines = scripts.table.markdown({**tree, "versions": "v", "command": "c"}).splitlines()
    assert lines[-2].endswith("| 0.95 | at least 0.9 |")
    assert lines[-1] == "| over the longer of both | 1.1 | at most 1.15 |"


def test_every_case_is_measured_once_before_any_is_repeated(scripts):
    planned = [(case.name, repeat) for case, repeat in scripts.bench.planned(["overlap"], 2)]
    names = ["max_staleness=0", "max_staleness=1"]
    assert planned == [(name, repeat) for repeat in (0, 1) for name in names]


def test_engine_and_trainer_share_no_core_where_they_overlap(scripts):
    (case,) = [case for case in scripts.bench.cases() if case.name == "max_staleness=1"]
    assert not {*case.task["engine_cores"]} & {*case.task["trainer_cores"]}


def evaluated(number, rate, **more):
    level = {"eval/pass_rate/level=0": rate}
    row = {"step": number, "eval/pass_rate": rate, "eval/pass_rate_se": 0.0, "time/eval_s": 30.0}
    return {**row, **level, "rollout/completions": 64 * number, **more}


def test_the_curve_counts_everything_that_a_run_waited_for(scripts):
    seconds = {"step_s": 60.0, "time/generate_s": 30.0, "time/update_s": 15.0}
    rows = [evaluated(0, 0.2), evaluated(1, 0.5, **seconds, **{"rollout/tokens_per_s": 80.0})]
    found = scripts.chain.summary(rows)
    assert [point["minutes"] for point in found["curve"]] == [0.5, 2.0]
    assert (found["training_s"], found["generate_share"]) == (120.0, 0.25)
    assert (found["gain"], found["tokens_per_s"]) == (0.3, 80.0)
    assert scripts.chain.faults(found) == []


def test_a_small_gain_and_a_long_run_are_missed_targets(scripts):
    gain, took = scripts.chain.faults({"gain": 0.1, "training_s": 3000.0})
    assert gain == "the pass rate gained 0.100, less than 0.15"
    assert took == "it took 50 minutes, more than 45"
