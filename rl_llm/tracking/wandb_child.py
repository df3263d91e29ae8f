"""The process that logs to Weights & Biases, and the only one that imports wandb.

It reads frames from stdin, a line of JSON each: what to open, then `numbers`, then an `exit_code`;
where they end without one, the run was killed. On stdout it answers with what there is to `say`,
the `place` of the data on the disk, and that it is `done`.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO
from uuid import uuid4

_OPEN_WITHIN_S = 20
_SEND_WITHIN_S = 20
_KILLED = 128 + signal.SIGKILL

Frame = Mapping[str, Any]


def main() -> None:
    """Log what stdin says, to its end; an error becomes a message."""
    frames, answers = _take_streams()
    try:
        whole = (line for line in frames if line.endswith("\n"))
        _log(map(json.loads, whole), answers)
    except Exception as error:  # wandb raises many kinds, and each ends the tracker alone.
        said = f"wandb: {_in_one_line(error)}; the run goes on without it"
        _answer(answers, say=said, done=True)


def _take_streams() -> tuple[TextIO, TextIO]:
    """Return stdin and stdout, and leave in their place nothing to read or to be seen: wandb and
    the program that it starts talk, and may ask."""
    frames = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    sys.argv[:] = ["rl-llm"]  # What a run is shown to have been started by.
    return frames, answers


def _log(frames: Iterator[Frame], answers: TextIO) -> None:
    order = next(frames)
    kept = Kept(Path(order["folder"]))
    run = _open(order, kept.id, answers)
    if run.disabled:
        _answer(answers, done=True)
        return
    # The server knows what it has; what lies on the disk is known here.
    kept.next_step = kept.next_step if run.offline else run.starting_step
    try:
        exit_code = _log_rows(frames, run, kept)
    except Exception:
        run.finish(exit_code=1)
        raise
    if exit_code is None:
        signal.alarm(_SEND_WITHIN_S)
    run.finish(exit_code=_KILLED if exit_code is None else exit_code)
    _answer(answers, done=True)


def _log_rows(frames: Iterator[Frame], run: Any, kept: "Kept") -> int | None:
    """Log rows up to the exit code, and return it; None where there is none."""
    kept.save()
    for frame in frames:
        if "exit_code" in frame:
            return int(frame["exit_code"])
        step = frame["numbers"]["step"]
        if step >= kept.next_step:
            run.log(frame["numbers"], step=step, commit=True)
            kept.next_step = step + 1
            kept.save()
    return None


class Kept:
    """What the next part of a run has to know, in its folder: the id on Weights & Biases, and the
    step that is to be logged next."""

    def __init__(self, folder: Path) -> None:
        """Read it; nothing is written before `save`."""
        self._file = folder / "wandb.json"
        self.id, self.next_step = uuid4().hex[:16], 0
        if self._file.is_file():
            there = json.loads(self._file.read_text(encoding="utf-8"))
            self.id, self.next_step = there["id"], there["next_step"]

    def save(self) -> None:
        """Write it, as a whole."""
        aside = self._file.with_name(f".{self._file.name}.partial")
        there = {"id": self.id, "next_step": self.next_step}
        aside.write_text(json.dumps(there) + "\n", encoding="utf-8")
        aside.replace(self._file)


def _open(order: Frame, run_id: str, answers: TextIO) -> Any:
    """Open the run where WANDB_MODE wants it; where that fails, on the disk alone."""
    try:
        run = _init(order, run_id, mode=None)
    except Exception as error:  # As in `main`.
        _forget_failed_run()
        run = _init(order, run_id, mode="offline")
        said = (
            f"wandb: {_in_one_line(error)}; the run is logged offline, as WANDB_MODE=offline does "
            f"without a try; send it later with: wandb sync {_place(run)}"
        )
        _answer(answers, say=said)
    else:
        _answer(answers, say=f"wandb: {_where(run)}")
    _answer(answers, place=_place(run))
    return run


def _init(order: Frame, run_id: str, *, mode: Literal["offline"] | None) -> Any:
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=_OPEN_WITHIN_S,
        finish_timeout=_SEND_WITHIN_S,
        x_stats_pid=order["pid"],
    )
    return wandb.init(
        project=order["project"] or os.environ.get("WANDB_PROJECT") or "rl-llm",
        entity=order["entity"],
        name=order["name"],
        id=run_id,
        resume="allow",
        config=order["config"],
        allow_val_change=True,
        dir=order["folder"],
        mode=mode,
        settings=settings,
    )


def _forget_failed_run() -> None:
    """End the program that wandb has started: to it, the id of a run that failed is in use."""
    import wandb

    wandb.teardown()


def _place(run: Any) -> str:
    """Return the folder that `wandb sync` takes."""
    place = Path(run.dir).parent
    here = Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def _where(run: Any) -> str:
    """Say where the run can be seen."""
    if run.disabled:
        return "switched off by WANDB_MODE"
    if run.offline:
        return f"offline; send the run with: wandb sync {_place(run)}"
    return str(run.url)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _answer(answers: TextIO, **what: Any) -> None:
    with suppress(BrokenPipeError):  # The run is gone, and what it logged is kept all the same.
        answers.write(json.dumps(what) + "\n")
        answers.flush()
