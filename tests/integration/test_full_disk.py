"""A run whose disk is full ends with the last good checkpoint named, and goes on from it exactly
once there is room."""

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.slow

# A sampler whose process meets the fault FAULT="STEP KIND BYTES" at the start of step STEP: `fill`
# leaves so many bytes of the run's file system free; with `limit` the system refuses larger files.
FAILING = """\
import os
import resource
import shutil

from rl_llm.curriculum import samplers


def fail(step, round):
    at, _, fault = os.environ.get("FAULT", "0").partition(" ")
    if (step, round) != (int(at), 0):
        return
    kind, num_bytes = fault.split()
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), resource.RLIM_INFINITY))
    else:
        with open("runs/ballast", "wb") as file:
            file.write(bytes(shutil.disk_usage("runs").free - int(num_bytes)))


class Posterior(samplers.Posterior):
    def plan(self, step, num_problems, *, round=0, exclude=None):
        fail(step, round)
        return super().plan(step, num_problems, round=round, exclude=exclude)
"""
RECIPE = ["curriculum.sampler={name: failing.py:Posterior}", "tracking=[jsonl]"]
LAST_GOOD = "it goes on from runs/small/checkpoints/step-000002, the last good checkpoint"


@pytest.fixture
def into(write_small):
    """Write the recipe and its sampler into a folder."""

    def write(folder):
        write_small(folder)
        (folder / "failing.py").write_text(FAILING, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def whole(once, into, program):
    """The run that never failed."""

    def make(folder):
        done = program("train", "small.yaml", *RECIPE, folder=into(folder))
        assert done.returncode == 0, done.stderr

    return once("run-with-room", make) / "runs" / "small"


@pytest.fixture
def small_disk(tmp_path, into):
    """Return a folder whose `runs` is a file system of 4 MB."""
    runs = into(tmp_path) / "runs"
    runs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(runs)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path
    subprocess.run(["umount", str(runs)], check=True)


def assert_nothing_is_torn(run, steps):
    """Check that every line is whole, and nothing half written is left."""
    for name in ("metrics.jsonl", "draws.jsonl"):
        lines = (run / name).read_text(encoding="utf-8").splitlines(keepends=True)
        assert all(line.endswith("}\n") and json.loads(line)["step"] in steps for line in lines)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert not {".partial", ".deleted", ".replaced"} & {path.suffix for path in run.rglob(".*")}


def assert_goes_on(folder, program, whole, assert_same_run):
    """Check that the same command ends in the run that never failed."""
    resumed = program("train", "small.yaml", *RECIPE, folder=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming runs/small/checkpoints/step-000002, after step 2 of 5" in resumed.stdout
    assert_same_run(folder / "runs" / "small", whole)
    drawn, drawn_whole = (run / "draws.jsonl" for run in (folder / "runs" / "small", whole))
    assert drawn.read_bytes() == drawn_whole.read_bytes()


@pytest.mark.parametrize(
    ("free", "what"),
    [
        (0, "runs/small/draws.jsonl"),
        (64 * 1024, "runs/small/checkpoints/step-000004"),
        (600 * 1024, "runs/small/checkpoints/step-000004"),
    ],
    ids=["in a row", "in an adapter", "in the optimiser"],
)
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    small_disk, program, whole, assert_same_run, free, what
):
    run = small_disk / "runs" / "small"
    failed = program("train", "small.yaml", *RECIPE, folder=small_disk, FAULT=f"3 fill {free}")
    assert failed.returncode == 1
    error = failed.stderr
    assert error.startswith(f"error: {what} cannot be written: No space left on device (")
    assert error.count("\n") == 1 and LAST_GOOD in error
    assert ("a checkpoint takes 1.1 MB, " in error) == (free > 0)
    assert_nothing_is_torn(run, range(5))
    (small_disk / "runs" / "ballast").unlink()
    assert_goes_on(small_disk, program, whole, assert_same_run)


def test_a_file_that_may_not_grow_ends_the_run_and_it_goes_on_without_the_limit(
    tmp_path, into, program, whole, assert_same_run
):
    # The adapter has 335 kB, the optimiser 701.
    failed = program("train", "small.yaml", *RECIPE, folder=into(tmp_path), FAULT="3 limit 500000")
    assert failed.returncode == 1
    what = "runs/small/checkpoints/step-000004"
    assert failed.stderr.startswith(
        f"error: {what} cannot be written: File too large (a checkpoint"
    )
    assert failed.stderr.count("\n") == 1
    assert f"ulimit -f), and run the same command again: {LAST_GOOD}" in failed.stderr
    assert_nothing_is_torn(tmp_path / "runs" / "small", range(5))
    assert_goes_on(tmp_path, program, whole, assert_same_run)


def test_a_run_on_a_disk_that_became_read_only_says_so(small_disk, finished, program):
    run = small_disk / "runs" / "small"
    shutil.copytree(finished / "runs" / "small", run)
    shutil.rmtree(run / "checkpoints" / "step-000005")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(run.parent)], check=True)
        failed = program("train", "small.yaml", folder=small_disk)
        assert failed.returncode == 1
        assert failed.stderr.startswith(
            "error: runs/small cannot be written: Read-only file system"
        )
        assert failed.stderr.count("\n") == 1
        assert "make it writable, and run the same command again: it goes on from" in failed.stderr
        assert (run / "adapter").is_dir()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(run.parent)], check=True)


def test_a_complete_run_on_a_disk_that_may_only_be_read_shows_what_it_came_to(
    small_disk, finished, program
):
    run = small_disk / "runs" / "small"
    shutil.copytree(finished / "runs" / "small", run)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(run.parent)], check=True)
        done = program("train", "small.yaml", folder=small_disk)
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing is left to do" in done.stdout
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(run.parent)], check=True)


def test_before_the_first_checkpoint_the_error_says_that_the_run_starts_over(
    tmp_path, into, program
):
    failed = program("train", "small.yaml", *RECIPE, folder=into(tmp_path), FAULT="1 limit 500000")
    assert failed.returncode == 1
    assert "step-000002 cannot be written: File too large (" in failed.stderr
    assert "it starts over, for there is no checkpoint yet" in failed.stderr


def test_results_that_cannot_be_written_are_written_at_the_next_start(
    tmp_path, finished, program, assert_same_run
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    run = folder / "runs" / "small"
    shutil.rmtree(run / "adapter")
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    failed = program("train", "small.yaml", folder=folder)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: cannot write 'runs/small/report.html': Is a directory;")
    assert "it goes on from runs/small/checkpoints/step-000005, the last" in failed.stderr
    assert not (run / "adapter").exists()
    (run / "report.html").rmdir()
    again = program("train", "small.yaml", folder=folder)
    assert again.returncode == 0, again.stderr
    assert (run / "report.html").is_file()
    assert_same_run(run, finished / "runs" / "small")


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_two_processes_end_alike_when_the_first_cannot_write(
    tmp_path, into, python, repository, max_staleness
):
    failed = python(
        *("-m", "accelerate.commands.launch"),
        f"--config_file={repository / 'recipes' / 'accelerate' / 'cpu.yaml'}",
        "--main_process_port=0",
        *(repository / "scripts" / "train.py", "small.yaml", *RECIPE),
        f"rollout.max_staleness={max_staleness}",
        folder=into(tmp_path),
        # Ahead of time, step 3 is planned before the checkpoint of step 2.
        FAULT=f"{3 + max_staleness} limit 500000",
    )
    assert failed.returncode == 1
    # Each process ended with the error itself, and none with a collective that fell silent.
    assert "step-000004 cannot be written: File too large" in failed.stderr
    for sign in ("RuntimeError: ", "Connection closed", "Timed out", "gloo"):
        assert sign not in failed.stderr
    saved = [path.name for path in (tmp_path / "runs" / "small" / "checkpoints").iterdir()]
    assert saved == ["step-000002"]
