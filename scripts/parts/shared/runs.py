"""What the benchmarks that make many runs share: each run is a process on a core of its own, and
leaves one JSON file, its row, as it ends.

A call makes the runs that are missing, so it goes on where an earlier one was stopped. Imports no
torch; what the processes themselves share is in `parts/shared/child.py`.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from parts.shared.checkout import ROOT, environment, program
from rl_llm.config import Recipe
from rl_llm.errors import InputError, RlLlmError

Row = dict[str, Any]


class Spec(Protocol):
    """One run: a dataclass whose fields a child process gets as JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def settings(self) -> str:
        """A digest of everything but the seed that the run depends on."""
        ...

    def file(self, runs: Path) -> Path:
        """Return where the run's row lies."""
        ...


SpecT = TypeVar("SpecT", bound=Spec)


def digest(recipe: Recipe, *more: object) -> str:
    """Return 16 hex digits of what a recipe sets, defaults left out, and of `more`.

    A key that a later version adds changes nothing, so rows stay good; what a version does is told
    by the commit in each row.
    """
    text = json.dumps([recipe.model_dump(exclude_unset=True), *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def commit() -> str:
    """Return the commit of this checkout, `-dirty` where it was edited; `unknown` outside git."""
    command = [
        "git",
        "--no-optional-locks",
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def add_run_options(parser: argparse.ArgumentParser, *, runs: Path) -> None:
    """Add what every driver of runs understands; `runs` is where rows are kept."""
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: the stage's)")
    parser.add_argument("--cores", type=int, help="runs at once, each on its core (default all)")
    parser.add_argument("--runs", type=Path, help=f"(default: {runs.relative_to(ROOT)})")
    parser.add_argument("--table", action="store_true", help="make no run")
    parser.add_argument("--fresh", action="store_true", help="replace runs of other settings")


def exit_code(work: Callable[[], int]) -> int:
    """Do the work of a driver; an error of rl-llm becomes a line and its exit code."""
    try:
        return work()
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def missing_runs(specs: Sequence[SpecT], runs: Path, *, fresh: bool) -> list[SpecT]:
    """Return the runs that are not there; refuse to replace those of other settings unasked."""
    missing, stale = [], []
    for spec in specs:
        file = spec.file(runs)
        if not file.is_file():
            missing.append(spec)
        elif read_row(file)["settings"] != spec.settings:
            stale.append(spec)
    if stale and not fresh:
        raise InputError(
            f"{runs} holds {len(stale)} runs of other settings, the first "
            f"{stale[0].file(runs)}; add --fresh to replace them, or name another --runs"
        )
    wanted = {id(spec) for spec in (*missing, *stale)}
    return [spec for spec in specs if id(spec) in wanted]


def run_all(
    specs: Sequence[SpecT],
    *,
    child: str,
    runs: Path,
    cores: int | None,
    describe: Callable[[Row], str],
) -> list[SpecT]:
    """Run each in a process of its own, one on every core at a time; return those that failed.

    `child` is the part that makes a run, such as `parts.kl.run`; `describe` says in a few words
    what a row came to.
    """
    waiting, failed = list(specs), []
    free = sorted(os.sched_getaffinity(0))[:cores]
    running: dict[int, tuple[SpecT, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            while free and waiting:
                core, spec = free.pop(0), waiting.pop(0)
                running[core] = (spec, start(child, "run", spec, spec.file(runs), core))
            time.sleep(0.2)
            for core, (spec, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[core]
                free.append(core)
                ended = process.returncode == 0
                failed += [] if ended else [spec]
                name = spec.file(runs).relative_to(runs).with_suffix("")
                _say(name, runs, describe if ended else None, left=len(waiting) + len(running))
    finally:
        for _, process in running.values():
            process.terminate()
            process.wait()
    return failed


def start(child: str, mode: str, spec: Spec, out: Path, core: int) -> "subprocess.Popen[bytes]":
    """Start a child that writes `out` when it has ended well, and its log beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [*program(child), mode, json.dumps(asdict(spec)), str(out)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--core", str(core)],
            env=_environment(),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _environment() -> dict[str, str]:
    """Return an environment of one thread and no network."""
    return environment(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        OMP_WAIT_POLICY="PASSIVE",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
    )


def check_settings(runs: Iterable[Mapping[str, Any]], key: Callable[[Any], Hashable]) -> None:
    """Refuse to put runs of one key together that were made with different settings."""
    seen: dict[Hashable, str] = {}
    for run in runs:
        if seen.setdefault(key(run), run["settings"]) != run["settings"]:
            where = run["task"] if "task" in run else run["stage"]
            raise InputError(
                f"the runs of {run['arm']} on {where} were made with different settings; "
                "run that stage again with --fresh, or name another --runs"
            )


def read_row(file: Path) -> Row:
    """Return the row of one run."""
    row: Row = json.loads(file.read_text(encoding="utf-8"))
    return row


def read_rows(folder: Path, pattern: str = "*.json") -> list[Row]:
    """Return the rows of a folder, by the names of their files."""
    return [read_row(file) for file in sorted(folder.glob(pattern))]


def _say(name: Path, runs: Path, describe: Callable[[Row], str] | None, *, left: int) -> None:
    """Print one line on a run that is over, or, without a description, the end of its log."""
    if describe is None:
        log = (runs / name.with_name(f"{name.name}.log")).read_text(encoding="utf-8")
        print(f"{name} failed:\n{log[-2000:]}", file=sys.stderr, flush=True)
        return
    row = read_row(runs / name.with_name(f"{name.name}.json"))
    print(f"{name}: {describe(row)}, {row['wall_s']:.0f} s; {left} to go", flush=True)
