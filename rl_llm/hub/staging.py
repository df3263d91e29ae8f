"""Adapters of checkpoints that wait to be pushed: checkpoints come and go, so each has a folder of
its own, `unpushed/step-000050`, as it will be in the repository."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from rl_llm.hub.tree import files_in
from rl_llm.trainer.shelf import list_checkpoints, step_of

MOST_WAITING = 8
"""So many wait at most, or a hub that is away for a week would fill the disk."""

_NOT_PUSHED = ("README.md",)  # What PEFT writes there by itself.


def folder_of(run_dir: Path) -> Path:
    """Return where the adapters of a run wait."""
    return run_dir / "unpushed"


def stage(checkpoint: Path, run_dir: Path, *, tokenizer: Path, card: str, resolved: str) -> Path:
    """Put together what is pushed of a checkpoint, and return its folder; may raise `OSError`.

    The weights are linked and not copied where the disk can do that, so this takes next to no time.
    """
    final = folder_of(run_dir) / checkpoint.name
    aside = final.with_name(f".{final.name}.partial")
    for left in (aside, final):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, file in (files_in(checkpoint / "adapter") | files_in(tokenizer)).items():
        if name not in _NOT_PUSHED:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            _link(file, aside / name)
    (aside / "README.md").write_text(card, encoding="utf-8")
    (aside / "resolved.yaml").write_text(resolved, encoding="utf-8")
    aside.rename(final)
    return final


def waiting(run_dir: Path) -> list[Path]:
    """Return the folders that an earlier part of the run left, oldest first."""
    return list_checkpoints(folder_of(run_dir))


def forget(staged: Path) -> None:
    """Delete what is pushed, or no longer wanted."""
    shutil.rmtree(staged, ignore_errors=True)
    with suppress(OSError):  # Others wait there still.
        staged.parent.rmdir()


def forget_past(run_dir: Path, step: int) -> None:
    """Delete what belongs to a branch of the run that is left, steps past this one, and what a kill
    left half done."""
    for half_done in folder_of(run_dir).glob(".step-*"):
        shutil.rmtree(half_done, ignore_errors=True)
    for staged in waiting(run_dir):
        if step_of(staged) > step:
            forget(staged)


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:  # Another disk, or one without links.
        shutil.copyfile(file, link)
