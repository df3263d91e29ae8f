"""The KL benchmark: what it runs, its arithmetic on runs worked by hand, and how it goes on."""

import importlib
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_llm.cli.parts import build_controller
from rl_llm.errors import ConfigError, InputError
from rl_llm.kl import GrpoD

SCRIPTS = Path(__file__).parents[2] / "scripts"

CHILD = """
import json, pathlib, sys
spec, out = json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
if spec["arm"] == "constant-high":
    sys.exit("no such luck")
steps = spec["steps"]
rise = 0.01 * (spec["arm"] == "grpo_d") + 0.001 * spec["seed"]
curve = {"step": [0, steps], "trained": [0.2, 0.5 + rise], "untrained": [0.9, 0.8]}
curve |= {"trained_ref_nats": [0.0, 0.05], "untrained_ref_nats": [0.0, 0.02]}
updates = {"beta": [0.1] * steps, "ref_nats_per_token": [0.004] * steps}
updates |= {"trained_tokens": [9] * steps, "pass_rate": [1.0] * steps}
row = {**spec, "settings": "x", "curve": curve, "updates": updates, "wall_s": 1.0}
out.write_text(json.dumps(row))
"""


@pytest.fixture(scope="module")
def scripts():
    names = ("arms", "docs", "plots", "reversed", "run", "table")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        modules = {name: importlib.import_module(f"parts.kl.{name}") for name in names}
        modules["checkout"] = importlib.import_module("parts.shared.checkout")
        yield SimpleNamespace(main=importlib.import_module("bench_kl"), **modules)


@pytest.fixture
def sandbox(scripts, tmp_path, monkeypatch):
    """The driver with a child that takes no time, and documents of its own."""
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    document = tmp_path / "benchmarks.md"
    document.write_text("head\n<!-- kl:begin -->\nold\n<!-- kl:end -->\ntail\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(scripts.main, "CHILD", child.stem)
    monkeypatch.setattr(scripts.main, "RESULT", tmp_path / "kl.json")
    monkeypatch.setattr(scripts.main, "DOCUMENT", document)
    (tmp_path / "kl.md").write_text("<!-- kl-curves:begin -->\nold\n<!-- kl-curves:end -->\n")
    monkeypatch.setattr(scripts.arms.Spec, "settings", "x")
    runs = tmp_path / "runs"
    return SimpleNamespace(
        runs=runs,
        document=document,
        result=tmp_path / "kl.json",
        call=lambda *words: scripts.main.main([*words, "--runs", str(runs)]),
        specs=lambda *words: list(scripts.main.planned(scripts.main._parser().parse_args(words))),
    )


def spec(scripts, arm, *, stage="measure", seed=0):
    return scripts.arms.spec_of(stage, arm, seed)


def test_arms_differ_in_their_controller_alone(scripts):
    kinds = {"measure": scripts.arms.ARMS, "control": scripts.arms.CONTROL_ARMS}
    for stage, arms in kinds.items():
        recipes = [spec(scripts, arm, stage=stage, seed=3).recipe() for arm in arms]
        assert len({str(recipe.kl.controller) for recipe in recipes}) == len(arms)
        trees = [recipe.model_dump() | {"kl": None} for recipe in recipes]
        assert all(tree == trees[0] for tree in trees)
        assert recipes[0].data.train[0].options["seed"] == 1003
        assert all(use.options["seed"] == 1 for use in recipes[0].data.eval)


def test_every_arm_is_a_controller_that_takes_its_options(scripts, monkeypatch):
    monkeypatch.chdir(SCRIPTS.parent)
    betas = {arm: build_controller(spec(scripts, arm).recipe()).beta for arm in scripts.arms.ARMS}
    assert betas["none"] == 0.0
    assert betas["grpo_d"] == pytest.approx(0.1) and betas["grpo_d-reversed"] > 0.19
    assert betas["target"] == betas["constant-average"]


def test_tasks_share_no_level_and_no_pool(scripts):
    recipe = spec(scripts, "none").recipe()
    trained = set(recipe.data.train[0].options["levels"])
    held_out = {level for use in recipe.data.eval for level in use.options["levels"]}
    assert trained == {5, 6, 7, 8} and held_out - trained == {1, 2, 3, 4}


def test_the_control_starts_ten_times_off_either_way(scripts):
    betas = {
        arm: spec(scripts, arm, stage="control").recipe().kl.controller.options["beta"]
        for arm in scripts.arms.CONTROL_ARMS
    }
    assert betas["too-high"] == pytest.approx(100 * betas["too-low"])


def test_settings_differ_between_arms_and_not_between_seeds(scripts):
    arms = scripts.arms.ARMS
    assert len({spec(scripts, arm).settings for arm in arms}) == len(arms)
    assert spec(scripts, "none", seed=7).settings == spec(scripts, "none").settings


def test_the_matched_constant_is_the_mean_of_the_schedules_coefficients(scripts):
    # With 10 steps and a valley after 3: 1, 2/3, 1/3, 0 times the middle, then 1/7 to 6/7 of max.
    schedule = GrpoD(min=0.0, max=0.7, valley=0.3, total_steps=10)
    betas = scripts.reversed.coefficients(schedule, 10)
    by_hand = [0.35, 0.35 * 2 / 3, 0.35 / 3, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert betas == pytest.approx(by_hand)
    # With 100 steps: .1 (30 - 435 / 30) on the way down, .2 (0 + ... + 69) / 70 on the way up.
    assert pytest.approx((1.55 + 6.9) / 100) == scripts.arms.AVERAGE


def test_the_reversed_schedule_uses_the_same_coefficients_from_the_last_to_the_first(scripts):
    options = {"min": 0.0, "max": 0.7, "valley": 0.3, "total_steps": 10}
    forwards = scripts.reversed.coefficients(GrpoD(**options), 10)
    backwards = scripts.reversed.coefficients(scripts.reversed.GrpoDReversed(**options), 10)
    assert backwards == forwards[::-1]
    with pytest.raises(ConfigError, match=r"min=0\.7 and max=0\.7"):
        scripts.reversed.GrpoDReversed(min=0.7, max=0.7, total_steps=10)


def test_a_resumed_reversed_schedule_goes_on_where_it_was(scripts):
    options = {"min": 0.0, "max": 0.7, "valley": 0.3, "total_steps": 10}
    done, resumed = (scripts.reversed.GrpoDReversed(**options) for _ in range(2))
    facts = SimpleNamespace(step=4)
    done.observe(facts)
    resumed.load_state_dict(done.state_dict())
    assert resumed.beta == done.beta == pytest.approx(0.2)  # 0.6, 0.5, 0.4, 0.3, and then


def run(arm, seed, trained, untrained, *, nats=0.05, settings="x", steps=10):
    """A run of 10 steps, evaluated before and after each."""
    count = steps + 1
    curve = {"step": list(range(count)), "trained": [0.2] * 9 + trained}
    curve |= {"untrained": [0.9] * 9 + untrained, "trained_ref_nats": [nats] * count}
    curve |= {"untrained_ref_nats": [0.01] * count}
    updates = {"beta": [0.1, 0.3] * 5, "pass_rate": [0.5] * 8 + [0.7, 0.9]}
    about = {"stage": "measure", "arm": arm, "seed": seed, "settings": settings, "wall_s": 1.0}
    return {**about, "steps": steps, "curve": curve, "updates": updates}


def test_a_row_is_the_mean_of_the_last_fifth_beside_the_start(scripts):
    (row,) = scripts.table.rows_of([run("none", 0, [0.5, 0.7], [0.8, 0.6])])
    assert (row["trained"], row["untrained"]) == (pytest.approx(0.6), pytest.approx(0.7))
    assert (row["trained_before"], row["untrained_before"]) == (0.2, 0.9)
    assert (row["ref_nats"], row["beta"], row["pool"]) == (0.05, 0.2, pytest.approx(0.8))


def test_a_step_that_counted_no_completion_is_in_no_mean(scripts):
    plain = run("none", 0, [0.5, 0.7], [0.8, 0.6])
    plain["updates"]["pass_rate"][-1] = None
    (row,) = scripts.table.rows_of([plain])
    assert row["pool"] == pytest.approx(0.7)


def test_every_arm_is_compared_with_no_penalty_and_with_the_matched_constant(scripts):
    arms = ("none", "constant-average", "grpo_d", "grpo_d-reversed")
    runs = [run(arm, seed, [0.5, 0.5], [0.8, 0.8]) for arm in arms for seed in (0, 1)]
    runs[4] = run("grpo_d", 0, [0.6, 0.6], [0.8, 0.8])
    runs[5] = run("grpo_d", 1, [0.7, 0.7], [0.8, 0.8])
    summary = scripts.table.summarise(scripts.table.rows_of(runs))
    assert list(summary) == [
        "constant-average vs none",
        "grpo_d vs none",
        "grpo_d-reversed vs none",
        "grpo_d vs constant-average",
        "grpo_d-reversed vs constant-average",
        "grpo_d vs grpo_d-reversed",
    ]
    found = summary["grpo_d vs constant-average"]
    # .1 and .2: .15 +- 12.7062 (Student's t of one degree of freedom) times .05.
    ends = {"ci_low": -0.4853, "ci_high": 0.7853}
    assert found["trained"] == {"pairs": 2, "difference": 0.15, **ends}
    assert found["untrained"]["difference"] == 0.0


@pytest.mark.parametrize(
    ("pairs", "low", "high", "said"),
    [
        (8, 0.01, 0.2, "better"),
        (8, -0.2, -0.01, "worse"),
        (8, -0.01, 0.2, "not told apart"),
        (1, 0.2, 0.2, "not told apart"),
    ],
)
def test_a_difference_counts_only_where_its_interval_leaves_out_zero(
    scripts, pairs, low, high, said
):
    assert scripts.table.verdict({"pairs": pairs, "ci_low": low, "ci_high": high}) == said


def control_run(nats, betas, *, tokens=None):
    updates = {"ref_nats_per_token": nats, "beta": betas}
    updates["trained_tokens"] = tokens or [5] * len(nats)
    about = {"stage": "control", "arm": "too-low", "seed": 0, "settings": "x", "wall_s": 1.0}
    return {**about, "steps": len(nats), "updates": updates}


def test_the_control_is_judged_by_the_last_half_of_the_updates_that_trained(scripts):
    target = scripts.arms.CONTROL_NATS
    # The last half is .8, nothing, 1.0 and 1.8 times the target: 1.2 on average, two of three near.
    nats = [0.0, 0.0, 0.0, 9.0, 0.8 * target, None, target, 1.8 * target]
    betas = [0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.025, 0.025]
    tokens = [5, 5, 5, 5, 5, 0, 5, 5]
    (row,) = scripts.table.control_rows([control_run(nats, betas, tokens=tokens)])
    assert (row["updates"], row["mean_over_target"], row["holds"]) == (3, 1.2, True)
    assert row["near"] == pytest.approx(2 / 3, abs=1e-4)
    assert row["beta_settled"] == pytest.approx(0.05)  # The geometric mean.
    assert row["start_over_settled"] == pytest.approx(10.0)


def test_what_a_step_did_not_measure_is_kept_as_null(scripts):
    row = {"kl/beta": 0.0, "train/trained_tokens": 9, "train/pass_rate": 0.123456}
    kept = scripts.run.kept_of_step(row | {"kl/ref_nats_per_token": float("nan")})
    assert kept == {
        "beta": 0.0,
        "ref_nats_per_token": None,
        "trained_tokens": 9,
        "pass_rate": 0.12346,
    }


def test_a_mean_that_is_more_than_a_quarter_off_does_not_hold(scripts):
    target = scripts.arms.CONTROL_NATS
    for factor, holds in ((0.74, False), (0.76, True), (1.24, True), (1.26, False)):
        (row,) = scripts.table.control_rows([control_run([factor * target] * 4, [0.1] * 4)])
        assert row["holds"] is holds


def test_a_running_mean_looks_back_and_skips_what_was_not_measured(scripts):
    import numpy as np

    values, measured = np.array([7.0, 1.0, 0.0, 3.0, 5.0]), np.array([0, 1, 0, 1, 1]) > 0
    means = scripts.table.running_mean(values, measured, window=2)
    assert np.isnan(means[0]) and means[1:].tolist() == [1.0, 1.0, 2.0, 4.0]


def test_runs_are_planned_seed_by_seed_and_stages_have_seeds_of_their_own(sandbox):
    words = ("--seeds", "3", "4", "--arms", "none", "grpo_d")
    assert [(each.seed, each.arm) for each in sandbox.specs(*words)] == [
        (3, "none"),
        (3, "grpo_d"),
        (4, "none"),
        (4, "grpo_d"),
    ]
    assert {each.seed for each in sandbox.specs("--stage", "freeze")} == {100, 101, 102}
    assert {each.seed for each in sandbox.specs()} == set(range(10, 18))
    assert {each.steps for each in sandbox.specs("--stage", "control")} == {480}


def test_a_failing_run_stops_no_other_and_tables_say_who_beats_the_matched_constant(
    sandbox, capsys
):
    words = ("--seeds", "0", "1", "--arms")
    arms = ("none", "constant-average", "constant-high", "grpo_d")
    assert sandbox.call(*words, *arms) == 1
    assert "measure/constant-high-0 failed:\nno such luck" in capsys.readouterr().err
    assert len(list(sandbox.runs.glob("measure/*.json"))) == 6
    tree = json.loads(sandbox.result.read_text())
    assert [row["arm"] for row in tree["rows"]][::2] == ["none", "constant-average", "grpo_d"]
    text = sandbox.document.read_text()
    assert text.startswith("head\n") and text.endswith("\ntail\n") and "\nold\n" not in text
    assert "| grpo_d vs none | 2 | +0.010 (+0.010 to +0.010) |" in text
    assert (
        "- Against `constant-average`, its time average, `grpo_d` (mean beta 0.1 against 0.1) is "
        "better on the trained task and not told apart on the untrained one."
    ) in text
    assert (sandbox.result.parent / "kl-curves.png").is_file()
    page = (sandbox.result.parent / "kl.md").read_text()
    assert "![kl-curves](benchmarks/kl-curves.png)" in page


def test_the_control_stands_beside_the_comparison(sandbox):
    assert sandbox.call("--seeds", "0", "--arms", "none") == 0
    assert sandbox.call("--stage", "control", "--seeds", "0") == 0
    text = sandbox.document.read_text()
    assert "`none`" in text and "#### Control" in text
    assert (
        "In 2 of 2 runs the mean KL of the last half (240 updates or more) is within 25 %" in text
    )
    assert (sandbox.result.parent / "kl-control.png").is_file()


def test_freezing_writes_no_document(sandbox, capsys):
    assert sandbox.call("--stage", "freeze", "--seeds", "100", "--arms", "none", "grpo_d") == 0
    assert "| grpo_d vs none | 1 |" in capsys.readouterr().out
    assert not sandbox.result.exists() and "old" in sandbox.document.read_text()


def test_the_table_alone_makes_no_run_and_without_any_says_so(sandbox, capsys):
    assert sandbox.call("--table") == 2
    assert "no runs of stage measure" in capsys.readouterr().err
    assert not sandbox.runs.exists()


def test_runs_of_other_settings_are_not_put_together(scripts):
    runs = [run("none", seed, [0.5, 0.5], [0.8, 0.8], settings=str(seed)) for seed in (0, 1)]
    with pytest.raises(InputError, match="the runs of none on measure were made with different"):
        scripts.table.check_settings(runs)


@pytest.mark.slow
def test_a_run_leaves_every_step_and_both_tasks_with_the_divergence_of_each(scripts, tmp_path):
    small = scripts.arms.Spec(
        stage="measure", arm="grpo_d-reversed", seed=0, steps=3, evaluate_every=2
    )
    out = tmp_path / "row.json"
    words = ["run", json.dumps(asdict(small)), str(out)]
    command = [*scripts.checkout.program("parts.kl.run"), *words]
    done = subprocess.run(
        command,
        env=scripts.checkout.environment(),
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text(encoding="utf-8"))
    curve, updates = row["curve"], row["updates"]
    assert curve["step"] == [0, 2, 3]
    assert curve["trained_ref_nats"][0] == curve["untrained_ref_nats"][0] == 0.0
    assert curve["trained_ref_nats"][-1] > 0 and curve["untrained_ref_nats"][-1] > 0
    # Forwards, with the valley after .9 of 3 steps: .1, .2 * .1 / 2.1 and .2 * 1.1 / 2.1.
    assert updates["beta"] == pytest.approx([0.22 / 2.1, 0.02 / 2.1, 0.1], rel=1e-4)
    assert curve["untrained"][0] > 0.9 > curve["trained"][0]
    assert len(updates["ref_nats_per_token"]) == 3 and updates["ref_nats_per_token"][2] > 0
    (kept,) = scripts.table.rows_of([row])
    assert (row["settings"], kept["arm"]) == (small.settings, "grpo_d-reversed")
