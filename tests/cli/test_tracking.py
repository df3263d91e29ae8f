import time
from io import StringIO

import pytest
from rich.console import Console

from rl_llm.cli import tracking
from rl_llm.cli.tracking import Tracking
from rl_llm.config import parse_recipe
from rl_llm.errors import RunError
from rl_llm.trainer import RunFolder


class Recorder:
    """A tracker that remembers how it was finished, and takes its time."""

    def __init__(self, *, takes_s=0.0):
        self.takes_s, self.codes = takes_s, []

    def write(self, row):
        pass

    def take_messages(self):
        return ["seen there"]

    def finish(self, exit_code):
        time.sleep(self.takes_s)
        self.codes.append(exit_code)


@pytest.fixture
def opened(tmp_path):
    """Return the trackers of a run with one of ours among them, and what is printed."""
    recipe = parse_recipe(
        {
            "run": {"name": "x", "steps": 1},
            "model": {"path": "somewhere"},
            "data": {"train": [{"use": "arithmetic"}]},
            "rewards": [{"use": "exact_answer"}],
        },
        where="here",
    )
    printed = StringIO()

    def open_with(recorder):
        found = Tracking(recipe, RunFolder(tmp_path), Console(file=printed))
        found.trackers = [recorder]
        return found, printed

    return open_with


def test_a_finished_run_is_told_once_with_its_code(opened):
    recorder = Recorder()
    trackers, printed = opened(recorder)
    with trackers:
        trackers.finish(0)
    assert (recorder.codes, printed.getvalue()) == ([0], "seen there\n")


@pytest.mark.parametrize(
    ("error", "code"), [(RunError("x"), 1), (SystemExit(143), 143), (KeyboardInterrupt(), 130)]
)
def test_an_error_is_told_as_the_exit_code_that_it_becomes(opened, error, code):
    recorder = Recorder()
    trackers, _ = opened(recorder)
    with pytest.raises(type(error)), trackers:
        raise error
    assert recorder.codes == [code]


def test_a_key_in_a_recipe_is_not_shown_to_a_tracker(monkeypatch, tmp_path):
    key = "0123456789abcdef" * 2
    monkeypatch.setenv("WANDB_API_KEY", key)
    recipe = parse_recipe(
        {
            "run": {"name": "x", "steps": 1, "output_dir": f"runs-{key}"},
            "model": {"path": "somewhere"},
            "data": {"train": [{"use": "arithmetic"}]},
            "rewards": [{"use": "exact_answer"}],
            "tracking": ["wandb"],
        },
        where="here",
    )
    given = []
    monkeypatch.setattr(tracking, "Wandb", lambda folder, **options: given.append(options))
    Tracking(recipe, RunFolder(tmp_path), Console(file=StringIO())).begin(last_step=-1)
    assert given[0]["config"]["run"]["output_dir"] == "runs-[token]"


def test_a_long_end_says_what_it_waits_for(opened, monkeypatch):
    monkeypatch.setattr(tracking, "_SILENT_S", 0.05)
    trackers, printed = opened(Recorder(takes_s=0.5))
    trackers.finish(0)
    waiting = "waiting for wandb to send what is left; Ctrl-C ends that\n"
    assert printed.getvalue() == waiting + "seen there\n"
