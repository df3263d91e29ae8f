"""Rows that are kept under docs/benchmarks are those that the benchmarks would make today, so that
the command that made them goes on with them."""

import importlib
import json
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = {"curriculum": "*/*/*.json", "kl": "*/*.json", "algorithms": "*.json"}


@pytest.mark.parametrize("name", KEPT)
def test_kept_rows_are_of_todays_settings(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    arms = importlib.import_module(f"parts.{name}.arms")
    names = {field.name for field in fields(arms.Spec)}
    files = sorted((ROOT / "docs" / "benchmarks" / f"{name}-runs").glob(KEPT[name]))
    if not files:
        pytest.skip(f"no rows of bench_{name}.py are kept")
    settings: dict[str, str] = {}
    for file in files:
        row = json.loads(file.read_text(encoding="utf-8"))
        spec = arms.Spec(**{key: value for key, value in row.items() if key in names})
        assert spec.file(Path()).name == file.name
        arm = f"{spec.stage} {spec.arm} {file.parent}"
        if "lr" in names:
            arm += f" {spec.lr}"
        expected = settings.setdefault(arm, spec.settings)
        assert row["settings"] == expected, f"{file}: run that stage again with --fresh"


@pytest.mark.parametrize("stage", ["freeze", "measure", "confirm"])
def test_kept_rows_of_every_stage_make_its_table(stage, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench = importlib.import_module("bench_curriculum")
    runs = bench.read_rows(bench.RUNS / stage, "*/*.json")
    found = bench.summary_of(runs)
    assert len(found["rows"]) == len(runs) > 0
    assert found["summary"]["pool"]["posterior vs uniform"]["ratio"] > 1
