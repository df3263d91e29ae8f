"""Which checkpoint a run goes on from, whatever was left behind."""

import json
import os

import pytest

from rl_llm.errors import CheckpointError, StorageError
from rl_llm.trainer import RunFolder, checkpoint, shelf
from rl_llm.trainer.manifest import seal
from rl_llm.trainer.shelf import (
    FORMAT,
    Damaged,
    list_checkpoints,
    newest_whole,
    read_state,
    set_aside,
    tidy,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_are_listed_by_step_and_nothing_else_is(tmp_path, write):
    for step in (1_000_000, 9, 999_999):
        write(tmp_path, step)
    for name in ("step-000004.damaged", ".step-000005.partial", "step-best", "step-12"):
        write(tmp_path, 4, name)
    (tmp_path / "step-000007").touch()
    listed = [path.name for path in list_checkpoints(tmp_path)]
    assert listed == ["step-000009", "step-999999", "step-1000000"]


def test_the_newest_whole_checkpoint_is_behind_the_damaged_ones(tmp_path, write, truncate):
    good, cut, torn = (write(tmp_path, step) for step in (10, 20, 30))
    truncate(cut)
    (torn / "manifest.json").unlink()
    assert newest_whole(tmp_path) == (
        good,
        [
            Damaged(path=torn, fault="manifest.json is missing"),
            Damaged(path=cut, fault="curriculum.parquet is truncated: 1,024 of 4,096 bytes"),
        ],
    )


def test_an_older_format_is_not_taken_for_damage(tmp_path, write):
    old = write(tmp_path, 10)
    (old / "manifest.json").unlink()
    (old / "state.json").write_text(json.dumps({"format": FORMAT - 1}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"has format {FORMAT - 1}, .* reads {FORMAT}; "):
        newest_whole(tmp_path)
    with pytest.raises(CheckpointError, match="resume it with the version that wrote it"):
        read_state(old)


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_state(tmp_path)


def test_damaged_checkpoints_of_one_step_are_set_aside_beside_each_other(tmp_path, write):
    for _ in range(2):
        set_aside(Damaged(path=write(tmp_path, 50), fault=""))
    assert names(tmp_path) == ["step-000050.damaged", "step-000050.damaged-2"]


def test_what_a_killed_save_left_is_deleted_and_what_it_replaced_is_put_back(tmp_path, write):
    whole = write(tmp_path, 1)
    for name in (".step-000003.partial", ".step-000001.deleted", ".step-000001.replaced"):
        write(tmp_path, 1, name)
    write(tmp_path, 2, ".step-000002.replaced")
    tidy(tmp_path)
    assert list_checkpoints(tmp_path) == [whole, tmp_path / "step-000002"]
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_a_checkpoint_from_elsewhere_is_taken_among_a_runs_own(tmp_path, write):
    theirs, own = write(tmp_path / "theirs", 7, "best"), tmp_path / "own" / "checkpoints"
    shelf.adopt(theirs, own)
    adopted = own / "step-000007"
    assert newest_whole(own) == (adopted, [])
    before = adopted.stat().st_ino
    shelf.adopt(adopted, own)
    assert (names(own), adopted.stat().st_ino) == (["step-000007"], before)


def test_everything_is_on_the_disk_before_a_checkpoint_gets_its_name(tmp_path, monkeypatch):
    final, events = tmp_path / "checkpoints" / "step-000003", []
    sync, rename = os.fsync, shelf.Path.rename

    def noted_sync(handle):
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        sync(handle)

    def noted_rename(path, target):
        events.append(f"{path.name} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(shelf.Path, "rename", noted_rename)
    with shelf.new_checkpoint(final) as aside:
        (aside / "trainer").mkdir()
        for name in ("trainer/policy.pt", "state.json"):
            (aside / name).write_text("{}")
        seal(aside)
    named, partial = events.index(".step-000003.partial -> step-000003"), ".step-000003.partial"
    before = [event.removeprefix(f"checkpoints/{partial}") for event in events[:named]]
    assert sorted(before[:-2]) == ["", "/state.json", "/trainer", "/trainer/policy.pt"]
    assert before[-2:] == ["/manifest.json", ""]
    assert events[named + 1 :] == ["checkpoints", "."]


def test_a_move_that_fails_leaves_the_checkpoint_of_the_step_in_place(tmp_path, write):
    final = write(tmp_path, 2)
    with pytest.raises(FileNotFoundError):
        shelf._put_in_place(tmp_path / ".step-000002.partial", final)
    assert newest_whole(tmp_path) == (final, [])


class Killed(BaseException):
    """SIGKILL at one moment: nothing behind it runs, and nothing cleans up."""


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_step_that_is_saved_again_is_never_without_a_whole_checkpoint(
    tmp_path, write, monkeypatch, moment
):
    final, aside = write(tmp_path, 2), write(tmp_path, 2, ".step-000002.partial")
    calls = iter(range(1, 99))

    def killed_at(function):
        def call(*given, **named):
            if next(calls) == moment:
                raise Killed
            return function(*given, **named)

        return call

    monkeypatch.setattr(shelf.Path, "rename", killed_at(shelf.Path.rename))
    monkeypatch.setattr(shelf, "flush", killed_at(shelf.flush))
    monkeypatch.setattr(shelf.shutil, "rmtree", killed_at(shelf.shutil.rmtree))
    with pytest.raises(Killed):
        shelf._put_in_place(aside, final)
    monkeypatch.undo()
    tidy(tmp_path)
    assert newest_whole(tmp_path) == (final, [])
    assert names(tmp_path) == ["step-000002"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    parts = type("Parts", (), {"counters": type("Counters", (), {"step": 7})})
    expected = r"checkpoints/step-000007 cannot be written: Not a directory \(.* are free\)"
    with pytest.raises(StorageError, match=expected):
        checkpoint.save(RunFolder(tmp_path).checkpoints, parts, None, keep=1)
