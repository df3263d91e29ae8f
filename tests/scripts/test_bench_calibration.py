"""The table of what beliefs are worth on the simulated learner, as the docs show it."""

from pathlib import Path

import pytest

from rl_llm.plugins import load_module

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return load_module(SCRIPTS / "bench_calibration.py")


def test_beliefs_are_calibrated_and_nobody_scores_below_the_true_rates(bench):
    error, brier, least, mixed = bench.simulated("posterior", 0.0, seed=0)
    assert 0.0 < error < 0.02
    assert least < brier < least + 0.01
    assert mixed > 0.8


def test_the_table_goes_between_its_markers(bench, monkeypatch, tmp_path, capsys):
    document = tmp_path / "curriculum.md"
    document.write_text("a\n<!-- calibration:begin -->\n<!-- calibration:end -->\nb\n")
    monkeypatch.setattr(bench, "DOCUMENT", document)
    monkeypatch.setattr(bench, "LEARNERS", {"stays as it is": 0.0})
    assert bench.main(["--seeds", "1"]) == 0
    lines = document.read_text().splitlines()
    assert [line.split(" | ")[1] for line in lines[4:6]] == ["`uniform`", "`posterior`"]
    assert "\n".join(lines[2:6]) in capsys.readouterr().out
