"""Recorded runs replayed to beliefs: the figures of one step by hand, and the way from a run to the
table."""

import importlib
import json
import subprocess
from dataclasses import asdict
from math import comb, log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import beta

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NUM_PROBLEMS = 252
FLAT = {"prior_strength": 3.0, "max_gain": 0.0, "coupling": 0.0}


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield SimpleNamespace(
            main=importlib.import_module("bench_beliefs"),
            arms=importlib.import_module("parts.curriculum.arms"),
            checkout=importlib.import_module("parts.shared.checkout"),
        )


def spec_of(scripts, arm, seed=100, **options):
    return scripts.arms.Spec(stage="traces", task="pool", arm=arm, seed=seed, **options)


def trace_of(scripts, arm, *, groups, rates):
    spec = spec_of(scripts, arm)
    return {**asdict(spec), "settings": spec.settings, "groups": groups, "rates": rates}


def nats(correct, a, b):
    """The logarithm of a beta-binomial probability, of 8 completions."""
    return log(comb(8, correct) * beta(correct + a, 8 - correct + b) / beta(a, b))


def test_groups_of_a_step_are_foretold_from_what_was_known_before_it(scripts):
    groups = [[1, 0, 6, 8], [1, 1, 0, 8], [2, 0, 8, 8]]
    trace = trace_of(scripts, "uniform", groups=groups, rates={})
    found = scripts.main.replayed(trace, FLAT | {"visit_decay": 1.0, "max_drift": 0.0})
    # Problems 0 and 1 are of one level, whose mean is 6.5 / 17 after the first step.
    mean = 3 * 6.5 / 17
    own = nats(8, mean + 6, 3 - mean + 2)
    expected = (nats(6, 1.5, 1.5) + nats(0, 1.5, 1.5) + own) / 3
    assert found["nats"] == pytest.approx(expected, rel=1e-5)


def test_distances_are_to_the_rates_as_they_were_when_the_step_was_planned(scripts):
    rates = {"1": [0.25] * NUM_PROBLEMS, "2": [0.5] * NUM_PROBLEMS}
    groups = [[1, 0, 4, 8], [2, 3, 4, 8]]
    found = scripts.main.replayed(trace_of(scripts, "uniform", groups=groups, rates=rates), FLAT)
    # One half is believed of everything: .25 away at first, and right after.
    assert found["all"] == pytest.approx(0.125, abs=1e-6)
    assert found["undrawn"] == pytest.approx(0.125, abs=1e-6)
    assert found["drawn"] == pytest.approx(0.0, abs=1e-6)


def test_the_gain_is_that_of_mixed_groups(scripts):
    """A problem that rises each time that it was mixed is foretold better with the gain."""
    rises = [[step, 0, min(1 + step, 8), 8] for step in range(1, 8)]
    still = [[step, 20, 4, 8] for step in range(1, 8)]
    trace = trace_of(scripts, "uniform", groups=sorted(rises + still), rates={})
    gained, alone = (
        scripts.main.replayed(trace, {"coupling": 0.0, "max_gain": most}) for most in (2.0, 0.0)
    )
    assert gained["nats"] > alone["nats"] + 0.01


def test_groups_that_are_not_mixed_bring_no_gain(scripts):
    groups = [[step, step % 3, 8 * (step % 2), 8] for step in range(1, 12)]
    trace = trace_of(scripts, "uniform", groups=groups, rates={})
    gained, alone = (scripts.main.replayed(trace, {"max_gain": most}) for most in (2.0, 0.0))
    assert gained["nats"] == alone["nats"]


def test_the_table_compares_every_setting_with_the_defaults(scripts, monkeypatch, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text("a\n<!-- beliefs:begin -->\nold\n<!-- beliefs:end -->\nb\n")
    monkeypatch.setattr(scripts.main, "DOCUMENT", document)
    rng = np.random.default_rng(0)
    for arm in scripts.main.ARMS:
        for seed in (100, 101):
            groups = [[step, int(rng.integers(9)), step % 9, 8] for step in range(1, 12)]
            trace = trace_of(scripts, arm, groups=groups, rates={"1": [0.5] * NUM_PROBLEMS})
            file = spec_of(scripts, arm, seed).file(tmp_path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(trace | {"seed": seed}))
    words = ["--table", "--seeds", "100", "101", "--runs", str(tmp_path)]
    assert scripts.main.main(words) == 0
    rows = [line.split(" | ") for line in document.read_text().splitlines() if "|" in line]
    assert [row[0].removeprefix("| ") for row in rows[2:]] == list(scripts.main.SETTINGS)
    assert rows[2][2] == "-"
    assert all(" to " in row[2] for row in rows[3:])
    # As the figures say: a setting's likelihood less that of the defaults.
    nats = [float(row[1]) for row in rows[2:]]
    differences = [float(row[2].split()[0]) for row in rows[3:]]
    assert differences == pytest.approx([each - nats[0] for each in nats[1:]], abs=0.0011)


def test_a_table_without_its_runs_or_with_others_says_what_to_do(scripts, tmp_path, capsys):
    words = ["--table", "--seeds", "100", "--runs", str(tmp_path)]
    assert scripts.main.main(words) == 2
    assert "uniform-100.json is not there; leave --table out" in capsys.readouterr().err
    file = spec_of(scripts, "uniform").file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"settings": "old"}))
    assert scripts.main.main(words) == 2
    assert "uniform-100.json is a run of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_a_recorded_run_has_every_group_and_the_rates_of_the_whole_pool(scripts, tmp_path):
    spec, out = spec_of(scripts, "posterior", budget=576), tmp_path / "row.json"
    command = [
        *scripts.checkout.program("parts.curriculum.traces"),
        *("run", json.dumps(asdict(spec)), str(out)),
    ]
    done = subprocess.run(
        command,
        env=scripts.checkout.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace = json.loads(out.read_text(encoding="utf-8"))
    assert [group[0] for group in trace["groups"]] == [1 + k // 4 for k in range(72)]
    assert sum(counted for *_, counted in trace["groups"]) == 576
    assert list(trace["rates"]) == ["1", "17"]
    assert {len(rates) for rates in trace["rates"].values()} == {NUM_PROBLEMS}
    assert trace["settings"] == spec.settings
    assert np.isfinite(list(scripts.main.replayed(trace, {}).values())).all()
