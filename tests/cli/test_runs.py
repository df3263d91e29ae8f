"""`rl-llm runs` as a person, and a script, reads it."""

import io
import json
import os

import pytest
from rich.console import Console

from rl_llm.cli import runs
from rl_llm.cli.main import main

RESOLVED = """\
run: {name: any, steps: 9}
model: {path: some/where/carry-adder}
algorithm: {name: grpo}
"""


@pytest.fixture
def folder(tmp_path):
    """Two runs: the one that comes first by name wrote last."""
    for name, at_s, step in (("early", 2_000_000_000, 9), ("late", 1_000_000_000, 4)):
        run_dir = tmp_path / name
        run_dir.mkdir()
        (run_dir / "resolved.yaml").write_text(RESOLVED)
        rate = {"eval/pass_rate": 0.25, "eval/pass_rate_se": 0.125}
        rows = [{"step": 0, **rate}, {"step": step, **rate, "eval/pass_rate": 0.5}]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.utime(run_dir / "metrics.jsonl", (at_s, at_s))
    (tmp_path / "early" / "adapter").mkdir()
    return tmp_path


def test_outside_a_terminal_there_is_a_line_for_each_run_the_newest_last(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    head, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["name", "state", "step", "model", "algorithm", "first", "last", "written"]
    assert [line[:9] for line in lines] == [
        [name, state, step, "carry-adder", "grpo", "0.250", "+-0.125", "0.500", "+-0.125"]
        for name, state, step in (("late", "stopped", "4/9"), ("early", "finished", "9/9"))
    ]


def test_without_a_folder_the_runs_are_those_in_runs(folder, monkeypatch, capsys):
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert main(["runs"]) == 2
    assert "there is no folder 'runs'" in capsys.readouterr().err
    (folder / "sub" / "runs").symlink_to(folder)
    assert main(["runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_terminal_of_80_characters_shows_whole_words(folder, monkeypatch):
    out = io.StringIO()
    narrow = Console(file=out, width=80, force_terminal=True, no_color=True, highlight=False)
    monkeypatch.setattr(runs, "Console", lambda: narrow)
    assert main(["runs", str(folder)]) == 0
    text = out.getvalue()
    assert all(word in text for word in ("carry-adder", "finished", "+-0.125", "2001-09-09"))


def test_scripts_get_json(folder, capsys):
    assert main(["runs", str(folder), "--json"]) == 0
    late, early = json.loads(capsys.readouterr().out)
    assert (late["name"], early["name"]) == ("late", "early")
    assert (early["state"], early["step"], early["steps"]) == ("finished", 9, 9)
    assert early["model"] == "some/where/carry-adder"
    assert (early["first"]["mean"], early["last"]["mean"]) == (0.25, 0.5)
    assert late["at"] == "2001-09-09T01:46:40+00:00"


def test_a_damaged_run_is_named_and_the_others_are_shown(folder, capsys):
    (folder / "late" / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 1}\n')
    assert main(["runs", str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    assert [each["name"] for each in json.loads(printed.out)] == ["early"]
    assert printed.err.startswith("late is left out: ") and "line 2" in printed.err


def test_a_run_without_a_number_of_steps_is_damaged(folder, capsys):
    (folder / "late" / "resolved.yaml").write_text(RESOLVED.replace("steps: 9", "steps: many"))
    assert main(["runs", str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    assert [each["name"] for each in json.loads(printed.out)] == ["early"]
    assert "run.steps='many' is no whole number" in printed.err


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path} holds no run\n"
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.slow
def test_a_real_run_is_listed_as_finished(finished, capsys):
    assert main(["runs", str(finished / "runs"), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["name"], found["state"], found["step"], found["steps"]) == (
        "small",
        "finished",
        5,
        5,
    )
    assert (found["first"]["step"], found["last"]["step"]) == (0, 5)
