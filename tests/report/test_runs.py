"""What the folder of each run says of it."""

import json
import os
import shutil

import pytest

from rl_llm.errors import InputError
from rl_llm.report.runs import find_runs, summarise
from rl_llm.run_lock import hold


def test_a_stopped_a_running_and_a_finished_run_are_told_apart(make_run, rows):
    folder = make_run(rows[:11])
    assert summarise(folder).state == "stopped"
    (folder / "adapter").mkdir()
    assert summarise(folder).state == "finished"
    with hold(folder, on_loss=pytest.fail):
        assert summarise(folder).state == "running"
    (folder / "run.lock").write_text(json.dumps({"pid": 1}))
    assert summarise(folder).state == "finished"


def test_a_run_that_an_error_ended_has_failed_until_it_goes_on(make_run, rows):
    folder = make_run(rows[:11])
    (folder / "failure.txt").write_text("error: losses are not finite\n")
    assert summarise(folder).state == "failed"
    with hold(folder, on_loss=pytest.fail):
        assert summarise(folder).state == "running"


def test_a_run_shows_its_steps_its_recipe_and_its_first_and_last_pass_rate(make_run, rows):
    found = summarise(make_run(rows[:11]))  # Steps 0 to 10, evaluated at 0, 4 and 8.
    assert (found.name, found.step, found.steps) == ("partial", 10, 16)
    assert (found.model, found.algorithm) == ("data/models/tiny-arithmetic", "grpo")
    assert (found.first.step, found.last.step) == (0, 8)
    assert found.last.mean == rows[8]["eval/pass_rate"] and found.last.error == 0.0172


def test_a_run_that_has_written_nothing_but_its_recipe_is_shown(make_run):
    folder = make_run([])
    (folder / "metrics.jsonl").unlink()
    found = summarise(folder)
    assert (found.step, found.state, found.first, found.last) == (0, "stopped", None, None)


def test_when_is_when_the_last_row_was_written(make_run, rows):
    folder = make_run(rows)
    os.utime(folder / "metrics.jsonl", (1_000_000_000, 1_000_000_000))
    assert summarise(folder).at.isoformat() == "2001-09-09T01:46:40+00:00"


def test_only_folders_with_a_run_are_found_or_the_run_itself(make_run, rows, tmp_path):
    first, second = make_run(rows, name="b"), make_run(rows, name="a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    closed = tmp_path / "closed"
    closed.symlink_to(tmp_path / ("x" * 300))  # As a folder that may not be looked into.
    with pytest.raises(OSError, match="too long"):
        (closed / "resolved.yaml").is_file()
    assert find_runs(tmp_path) == [second, first]
    assert find_runs(first) == [first]
    shutil.rmtree(first)
    with pytest.raises(InputError, match=r"there is no folder .*run\.output_dir"):
        find_runs(first)
