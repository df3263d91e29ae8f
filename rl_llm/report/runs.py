"""The runs that lie in a folder, each in a line."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rl_llm.errors import InputError
from rl_llm.report.read import METRICS_FILE, RECIPE_FILE, RunRecord, read_started
from rl_llm.report.summary import PassRate, held_out
from rl_llm.run_lock import holder

State = Literal["finished", "running", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run as its folder shows it: `step` of `steps` are done, `first` and `last` are its held-out
    pass rates, and `at` is when it last wrote a row of metrics."""

    name: str
    state: State
    step: int
    steps: int
    model: str
    algorithm: str
    first: PassRate | None
    last: PassRate | None
    at: datetime


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs that lie in a folder, or the folder itself where it is one.

    Raises `InputError` where there is no folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {str(folder)!r} (looked in {Path.cwd()}); name the folder that "
            "holds the folders of runs, the recipe's run.output_dir"
        )
    places = [folder] if (folder / RECIPE_FILE).is_file() else sorted(folder.iterdir())
    # `Path.is_file` raises where a folder may not be looked into.
    return [place for place in places if os.path.isfile(place / RECIPE_FILE)]


def summarise(run_dir: Path) -> RunSummary:
    """Return what a run's folder shows; raises `InputError` when a file of it is damaged."""
    run = read_started(run_dir)
    rates = held_out(run)
    written = run_dir / METRICS_FILE
    at_s = (written if written.is_file() else run_dir / RECIPE_FILE).stat().st_mtime
    return RunSummary(
        name=run_dir.resolve().name,
        state=_state(run_dir),
        step=run.last_step if run.rows else 0,
        steps=_steps(run, run_dir),
        model=str(run.setting("model.path")),
        algorithm=str(run.setting("algorithm.name")),
        first=rates[0] if rates else None,
        last=rates[-1] if rates else None,
        at=datetime.fromtimestamp(at_s, UTC),
    )


def _steps(run: RunRecord, run_dir: Path) -> int:
    steps = run.setting("run.steps")
    if not isinstance(steps, int):
        raise InputError(
            f"{run_dir / RECIPE_FILE}: run.steps={steps!r} is no whole number; take the file from "
            "the run again"
        )
    return steps


def _state(run_dir: Path) -> State:
    """Say whether a process trains there, else whether the final adapter is written, else whether
    an error is kept."""
    if holder(run_dir) is not None:
        return "running"
    if (run_dir / "adapter").is_dir():
        return "finished"
    return "failed" if (run_dir / "failure.txt").is_file() else "stopped"
