"""The folder of a run's checkpoints: how one gets its name, which of them is whole, and what a kill
left behind."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rl_llm.errors import CheckpointError
from rl_llm.trainer.manifest import find_fault, is_sealed, total_bytes
from rl_llm.trainer.storage import (
    flush,
    flush_tree,
    readable_bytes,
    storage_error,
    system_error,
    writing,
)

FORMAT = 4
STATE = "state.json"
_PREFIX = "step-"
_NAME = re.compile(r"step-\d{6,}")


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A checkpoint that is not as it was written: `fault` names the file and what is wrong."""

    path: Path
    fault: str


class _NotReadable(Exception):
    """There is no state.json, or it holds no JSON."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; whether they are whole is for
    `newest_whole`."""
    found = (path for path in folder.glob(f"{_PREFIX}*") if _NAME.fullmatch(path.name))
    return sorted((path for path in found if path.is_dir()), key=step_of)


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint behind a step lies."""
    return folder / f"{_PREFIX}{step:06d}"


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def newest_whole(folder: Path) -> tuple[Path | None, list[Damaged]]:
    """Return the newest checkpoint that is as it was written, and the damaged ones behind it,
    newest first.

    Raises `CheckpointError` for one of another format.
    """
    damaged: list[Damaged] = []
    for path in reversed(list_checkpoints(folder)):
        fault = examine(path)
        if fault is None:
            return path, damaged
        damaged.append(Damaged(path=path, fault=fault))
    return None, damaged


def examine(checkpoint: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint, None where it is whole.

    Raises `CheckpointError` for one of another format.
    """
    if not is_sealed(checkpoint):
        # Checkpoints of earlier formats have no manifest.
        with suppress(_NotReadable):
            _check_format(checkpoint, _parsed(checkpoint))
    return find_fault(checkpoint)


def set_aside(damaged: Damaged) -> Path:
    """Rename a damaged checkpoint, so that it counts as none and its files can still be looked at;
    return where it lies now."""
    number, aside = 1, damaged.path.with_name(f"{damaged.path.name}.damaged")
    while aside.exists():
        number += 1
        aside = damaged.path.with_name(f"{damaged.path.name}.damaged-{number}")
    with writing(aside):
        damaged.path.rename(aside)
    return aside


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's state.json; raises `CheckpointError` when it is missing or damaged."""
    try:
        state = _parsed(checkpoint)
    except _NotReadable as error:
        raise CheckpointError(
            f"{checkpoint} is not a checkpoint ({error}); name a folder such as "
            "runs/NAME/checkpoints/step-000050"
        ) from None
    _check_format(checkpoint, state)
    return state


@contextmanager
def new_checkpoint(final: Path) -> Iterator[Path]:
    """Yield an empty folder to fill and seal; behind that it becomes `final`, in one move.

    Where that fails, what was written is deleted, which gives its room back, and `StorageError`
    says what a checkpoint takes and what is free.
    """
    aside = final.with_name(f".{final.name}.partial")
    with writing(final):
        tidy(final.parent)
        aside.mkdir(parents=True)
    try:
        yield aside
        _put_in_place(aside, final)
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = system_error(error)
        if cause is None:
            raise
        shutil.rmtree(aside, ignore_errors=True)
        raise storage_error(final, cause, needed=_needed_bytes(final.parent)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def adopt(found: Path, folder: Path) -> None:
    """Copy a checkpoint from elsewhere among a run's own, so that the run can be resumed before it
    writes its first; one that lies there already stays as it is."""
    if found.parent.resolve() == folder.resolve():
        return
    step = read_state(found)["counters"]["step"]
    with new_checkpoint(path_of(folder, step)) as aside:
        shutil.copytree(found, aside, dirs_exist_ok=True)
        flush_tree(aside)


def tidy(folder: Path) -> None:
    """Delete what a killed save left behind; a checkpoint that was about to be replaced by another
    of its step is put back."""
    for left in folder.glob(f".{_PREFIX}*"):
        final = folder / left.stem.removeprefix(".")
        if left.suffix == ".replaced" and not final.exists():
            left.rename(final)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _put_in_place(aside: Path, final: Path) -> None:
    """Give a sealed folder its name; one of the same step waits beside it until then, where `tidy`
    finds it after a kill."""
    replaced = final.with_name(f".{final.name}.replaced")
    is_second = final.exists()
    if is_second:
        final.rename(replaced)
    try:
        aside.rename(final)
    except OSError:
        if is_second:
            replaced.rename(final)
        raise
    for above in (final.parent, final.parent.parent):
        flush(above)
    if is_second:
        shutil.rmtree(replaced, ignore_errors=True)


def _needed_bytes(folder: Path) -> str:
    """Say how much the newest checkpoint takes; empty where there is none to compare with."""
    sizes = [total_bytes(path) for path in list_checkpoints(folder)[-1:]]
    return "".join(f"a checkpoint takes {readable_bytes(size)}, " for size in sizes if size)


def _parsed(checkpoint: Path) -> dict[str, Any]:
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _NotReadable(str(error)) from None
    return state if isinstance(state, dict) else {}


def _check_format(checkpoint: Path, state: Mapping[str, Any]) -> None:
    found = state.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"{checkpoint} has format {found!r}, and this version reads {FORMAT}; "
            "resume it with the version that wrote it"
        )
