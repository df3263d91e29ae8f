"""The benchmark against TRL: its proof runs as a user runs it, its arithmetic by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rl_llm.errors import InputError
from rl_llm.plugins import load_module

ROOT = Path(__file__).parents[2]
PARTS = ROOT / "scripts" / "parts"


@pytest.fixture(scope="module")
def table():
    return load_module(PARTS / "vs_trl" / "table.py")


@pytest.fixture(scope="module")
def checkout():
    return load_module(PARTS / "shared" / "checkout.py")


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    pytest.importorskip("trl", exc_type=ImportError)
    out = tmp_path_factory.mktemp("vs_trl") / "vs_trl.json"
    script = ROOT / "scripts" / "bench_vs_trl.py"
    command = [sys.executable, str(script), "--model", "embedded", "--prove", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))["same_work"]["embedded"]


@pytest.mark.slow
def test_loss_and_every_lora_gradient_agree_with_trl_to_1e4(proof):
    assert len(proof["cases"]) == 5
    for case in proof["cases"]:
        assert case["gradient_matrices"] == 2 * 7 * 4  # A and B of 7 matrices in 4 layers.
        assert case["smallest_gradient_norm"] > 0
        assert case["gradient_difference"] <= 1e-4, case
        assert case["loss_difference"] <= 1e-4, case


@pytest.mark.slow
def test_the_proof_is_made_where_ratios_differ_from_1_and_clipping_bites(proof):
    for case in proof["cases"]:
        assert case["ratio_p02"] < 0.8 and case["ratio_p98"] > 1.05, case
        assert 0.01 < case["clipped_share"] < 0.5, case


@pytest.mark.slow
def test_the_proof_covers_both_reductions_the_penalty_and_micro_batches(proof):
    settings = {(case["loss_type"], case["beta"]) for case in proof["cases"]}
    assert settings == {("dapo", 0.0), ("dapo", 0.1), ("grpo", 0.0), ("grpo", 0.1)}
    assert max(case["micro_batches"] for case in proof["cases"]) >= 5


@pytest.mark.slow
def test_advantages_and_prompt_ids_are_those_of_trl(proof):
    assert proof["prompts_equal"] is True
    assert proof["advantage_difference"] <= 1e-6


def side(step_s, generate_s, *, tokens=1000.0, publish_s=0.0):
    step = {
        "step_s": step_s,
        "cpu_s": step_s,
        "generate_s": generate_s,
        "score_s": 0.0,
        "update_s": step_s - generate_s - publish_s,
        "publish_s": publish_s,
        "other_s": 0.0,
        "tokens": tokens,
        "completion_tokens_mean": tokens / 100,
        "informative_share": 0.5,
    }
    return {
        "peak_rss_mib": 100.0,
        "loaded_rss_mib": 50.0,
        "steps": [step, step | {"step_s": 9e9}, step],
    }


def row(table, pair, trl, own):
    stages = {"trl": table.side_summary(trl), "rl_llm": table.side_summary(own)}
    return {
        "model": "embedded",
        "groups": "as-drawn",
        "pair": pair,
        "trl_step_s": stages["trl"]["step_s"],
        "rl_llm_step_s": stages["rl_llm"]["step_s"],
        "stages": stages,
    }


def test_the_ratio_is_the_median_over_pairs_of_trl_over_rl_llm(table):
    rows = [
        row(table, pair, side(step_s, 1.0), side(2.0, 1.0))
        for pair, step_s in enumerate([4, 6, 20])
    ]
    entry = table.summarise(rows)["embedded/as-drawn"]
    assert (entry["ratio"], entry["pairs"], entry["target"]) == (3.0, 3, 1.5)
    assert entry["ci_low"] == 2.0 and entry["ci_high"] == 10.0


def test_a_pair_takes_the_median_step_so_one_slow_step_changes_nothing(table):
    assert table.side_summary(side(4.0, 1.0))["step_s"] == 4.0


def test_a_side_that_generates_twice_the_tokens_in_twice_the_time_is_as_fast_per_token(table):
    rows = [row(table, 0, side(8.0, 4.0, tokens=2000.0), side(4.0, 2.0, tokens=1000.0))]
    entry = table.summarise(rows)["embedded/as-drawn"]
    assert (entry["ratio"], entry["per_token_ratio"], entry["generation_ratio"]) == (2.0, 1.0, 1.0)
    assert entry["completion_length_ratio"] == 2.0


def test_publishing_counts_as_generating_where_the_two_are_compared_together(table):
    rows = [row(table, 0, side(4.0, 3.0), side(4.0, 2.0, publish_s=1.0))]
    entry = table.summarise(rows)["embedded/as-drawn"]
    assert (entry["generation_ratio"], entry["generation_with_publish_ratio"]) == (1.5, 1.0)


def test_the_interval_is_the_same_in_every_run_and_lies_within_the_ratios(table):
    first, second = (table.bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0]) for _ in range(2))
    assert first == second
    assert 1.0 <= first[0] < 3.0 < first[1] <= 5.0


def test_the_table_replaces_what_stands_between_the_markers_alone(table, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    table.write_into(document, "new")
    assert document.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


def test_a_document_without_markers_is_refused_and_left_as_it_is(table, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(InputError, match="lacks the lines"):
        table.write_into(document, "new")
    assert document.read_text() == "no markers\n"


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["as-drawn", "informative"])
def test_the_own_side_measures_every_kind_of_work(checkout, tmp_path, groups):
    task = {"model": "embedded", "groups": groups, "pair": 0, "warm_up": 1, "steps": 1}
    task |= {"threads": 1, "rows_per_micro_batch": 256, "scratch": str(tmp_path)}
    task_file, out = tmp_path / "task.json", tmp_path / "out.json"
    task_file.write_text(json.dumps(task), encoding="utf-8")
    for mode in ["draw", "run"] if groups == "informative" else ["run"]:
        command = [*checkout.program("parts.vs_trl.own"), mode, str(task_file), str(out)]
        done = subprocess.run(
            command,
            env=checkout.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    (step,) = json.loads(out.read_text(encoding="utf-8"))["steps"]
    assert step["step_s"] > 0 and step["trained_tokens"] > 1000
