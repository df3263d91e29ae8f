"""What `--resume` means in a folder, and what it says."""

import pytest

from rl_llm.errors import CheckpointError
from rl_llm.trainer import ResumePoint, RunFolder

CUT = "curriculum.parquet is truncated: 1,024 of 4,096 bytes"


@pytest.fixture
def run(tmp_path, write):
    """A run with checkpoints behind steps 2 and 4, and rows to step 5."""
    folder = RunFolder(tmp_path / "run")
    for step in (2, 4):
        write(folder.checkpoints, step)
    rows = "".join(f'{{"step": {step}}}\n' for step in range(6))
    folder.metrics.write_text(rows, encoding="utf-8")
    return folder


def test_auto_and_the_folder_of_the_run_mean_the_newest_checkpoint(run, tmp_path):
    newest = ResumePoint(checkpoint=run.checkpoints / "step-000004")
    assert run.find_checkpoint("auto") == run.find_checkpoint(str(run.path)) == newest
    empty = RunFolder(tmp_path / "empty")
    assert empty.find_checkpoint("auto") is None and empty.find_checkpoint("never") is None


def test_never_refuses_a_folder_that_holds_a_run(run):
    with pytest.raises(CheckpointError, match="holds a run already"):
        run.find_checkpoint("never")


@pytest.mark.parametrize("resume", ["auto", "the folder"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_used(run, truncate, resume):
    truncate(run.checkpoints / "step-000004")
    found = run.find_checkpoint(resume.replace("the folder", str(run.path)))
    assert found.checkpoint == run.checkpoints / "step-000002"
    assert found.warning == (
        f"warning: damaged: {run.checkpoints}/step-000004 ({CUT}; kept as step-000004.damaged); "
        "step-000002 is used instead"
    )
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        "step-000002",
        "step-000004.damaged",
    ]
    # It is neither among what later steps left, nor counted at the next start.
    assert run.past(2) == [] and run.find_checkpoint("auto").warning == ""


def test_where_no_checkpoint_is_whole_all_are_named_and_stay(run, truncate):
    for step in (2, 4):
        truncate(run.checkpoints / f"step-00000{step}")
    expected = (
        rf"no checkpoint in .* is whole: step-000004 \({CUT}\), step-000002 \({CUT}\); put one back"
    )
    with pytest.raises(CheckpointError, match=expected):
        run.find_checkpoint("auto")
    assert len(list(run.checkpoints.iterdir())) == 2


def test_a_damaged_checkpoint_that_was_named_is_an_error(run, truncate):
    named = run.checkpoints / "step-000004"
    truncate(named)
    with pytest.raises(CheckpointError, match=rf"step-000004 is damaged: {CUT}; name another"):
        run.find_checkpoint(str(named))
    assert named.is_dir()


def test_a_named_folder_that_is_no_checkpoint_is_an_error(run):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        run.find_checkpoint(str(run.checkpoints))


def test_a_folder_that_is_not_there_is_an_error_with_the_way_out(run):
    with pytest.raises(CheckpointError, match=r"nowhere: there is no such folder; name that of"):
        run.find_checkpoint(str(run.path / "nowhere"))


def test_going_back_says_what_it_drops(run):
    named = run.checkpoints / "step-000002"
    assert run.find_checkpoint(str(named)) == ResumePoint(
        checkpoint=named,
        dropped="going back to step 2: the rows of steps 3 to 5 and checkpoint step-000004 "
        "are dropped",
    )
    assert run.past(2) == [run.checkpoints / "step-000004"]


def test_a_checkpoint_of_another_run_is_gone_on_from_in_a_folder_of_its_own_alone(
    run, tmp_path, truncate
):
    other = RunFolder(tmp_path / "other")
    named = run.checkpoints / "step-000002"
    assert other.find_checkpoint(str(named)) == ResumePoint(checkpoint=named)
    truncate(run.checkpoints / "step-000004")
    found = other.find_checkpoint(str(run.path))
    assert (found.checkpoint, "kept as" in found.warning) == (named, False)
    assert (run.checkpoints / "step-000004").is_dir()
    other.path.mkdir()
    other.metrics.write_text('{"step": 0}\n', encoding="utf-8")
    for path in (run.path, named):
        with pytest.raises(CheckpointError, match="is of another run"):
            other.find_checkpoint(str(path))
