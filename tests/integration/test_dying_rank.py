"""One of two processes dies, fails or hangs: both end soon, the cause is said once, and the run
goes on from its checkpoint."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

pytestmark = pytest.mark.slow

OVERRIDES = [
    "curriculum.sampler={name: faulty.py:Faulty}",
    "run.steps=3",
    "eval.every=3",
    "checkpoint.every=1",
]

GOES_ON = (
    "run the same command again: it goes on from runs/small/checkpoints/step-000001, the last good "
    "checkpoint\n"
)

# FAULT="RANK WHEN HOW": a sampler that fails on one rank, where step 2 is planned ("plan"), or
# where rank 0 is in the midst of writing the checkpoint of step 2 ("save"), and notes the time.
FAULTY = """\
import os
import signal
import time
from pathlib import Path

from rl_llm.curriculum import samplers
from rl_llm.errors import ConfigError


def fail(now):
    rank, when, how = os.environ.get("FAULT", "- - -").split()
    if (rank, when) != (os.environ["RANK"], now):
        return
    Path("failed").write_text(f"{time.time()} {os.getpid()}", encoding="utf-8")
    if how == "ValueError":
        raise ValueError("a defect")
    if how == "ConfigError":
        raise ConfigError("a wrong option")
    os.kill(os.getpid(), signal.Signals[how])


class Faulty(samplers.Posterior):
    step = 0

    def plan(self, step, num_problems, *, round=0, exclude=None):
        self.step = step
        if step == 2:
            fail("plan")
        return super().plan(step, num_problems, round=round, exclude=exclude)

    def state_dict(self):
        if self.step == 2:
            fail("save")
        return super().state_dict()
"""


@pytest.fixture
def launch(repository, write_small):
    """Train on two processes; return the finished launcher, what it printed, and the seconds from
    the fault to its end. No process outlives the test."""
    folders = []

    def run(
        folder, *overrides, file="cpu", fault="", on_start=lambda launcher: None, **environment
    ):
        write_small(folder)
        folders.append(folder)
        (folder / "faulty.py").write_text(FAULTY, encoding="utf-8")
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        launcher = subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                f"--config_file={repository / 'recipes' / 'accelerate' / f'{file}.yaml'}",
                *("--num_processes=2", "--num_machines=1", "--main_process_port=0"),
                *(str(repository / "scripts" / "train.py"), "small.yaml", *OVERRIDES, *overrides),
            ],
            cwd=folder,
            env=os.environ | threads | environment | ({"FAULT": fault} if fault else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        on_start(launcher)
        printed, said = launcher.communicate(timeout=240)
        ended_at = time.time()
        assert processes_in(folder) == []
        failed = folder / "failed"
        failed_at, pid = failed.read_text().split() if failed.is_file() else (ended_at, 0)
        return Launched(launcher.returncode, printed, said, ended_at - float(failed_at), int(pid))

    yield run
    for process in [each for folder in folders for each in processes_in(folder)]:
        process.kill()


def processes_in(folder):
    """Return what still runs there: a process that has lost its parent too."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder):
                found.append(process)
    return found


class Launched:
    def __init__(self, code, printed, said, seconds, pid):
        self.code, self.printed, self.seconds, self.pid = code, printed, seconds, pid
        # The launcher warns in between, and sums up behind what the processes say.
        before, mark, behind = re.split(r"^(E\d{4} |\Z)", said, maxsplit=1, flags=re.MULTILINE)
        self.said = re.sub(r"^W\d{4} .*\n", "", before, flags=re.MULTILINE)
        self.summary = mark + behind


def gone(rank, pid):
    return (
        f"error: rank {rank} (pid {pid} on {socket.gethostname()}) is gone without a word: it was "
        "killed, as the kernel does when memory runs out, or it crashed\n"
    )


@pytest.fixture
def whole(once, launch):
    """The run that nothing happens to."""

    def make(folder):
        done = launch(folder)
        assert (done.code, done.said) == (0, "")

    return once("whole-run-of-two", make) / "runs" / "small"


def test_rank_0_is_killed_as_it_writes_a_checkpoint_and_the_run_goes_on_as_if_nothing_had_happened(
    launch, whole, tmp_path, assert_same_run
):
    dead = launch(tmp_path, fault="0 save SIGKILL")
    assert dead.code == 1 and dead.seconds < 60
    saved = tmp_path / "runs" / "small" / "checkpoints"
    assert dead.said == gone(0, dead.pid) + GOES_ON
    assert sorted(each.name for each in saved.iterdir()) == [".step-000002.partial", "step-000001"]
    resumed = launch(tmp_path)
    assert "resuming runs/small/checkpoints/step-000001, after step 1 of 3" in resumed.printed
    assert_same_run(tmp_path / "runs" / "small", whole)
    assert sorted(each.name for each in saved.iterdir()) == ["step-000002", "step-000003"]


def test_rank_1_is_killed_while_rank_0_waits_for_it_under_zero_3(launch, tmp_path):
    dead = launch(tmp_path, file="zero3", fault="1 plan SIGKILL", DS_ACCELERATOR="cpu")
    assert dead.code == 1 and dead.seconds < 60
    assert dead.said.startswith(gone(1, dead.pid)) and dead.said.count("\n") == 2


def test_a_defect_on_one_rank_is_one_traceback_with_its_tag(launch, tmp_path):
    done = launch(tmp_path, "rollout.max_staleness=1", fault="0 plan ValueError")
    assert done.code == 1 and done.seconds < 60
    lines = done.said.splitlines()
    assert all(line.startswith("rank 0: ") for line in lines)
    assert lines[0] == "rank 0: Traceback (most recent call last):"
    assert lines[-1] == "rank 0: ValueError: a defect"
    assert done.said.count("Traceback") == 1


def test_a_users_error_is_one_line_and_the_processes_leave_with_2(launch, tmp_path):
    done = launch(tmp_path, fault="1 plan ConfigError")
    assert done.seconds < 60
    assert done.said == "rank 1: error: a wrong option\n"
    codes = re.findall(r"exitcode  : (-?\d+)", done.summary)
    assert set(codes) <= {"2", "-15", "143"}
    root = done.summary.partition("Root Cause")[2]
    assert "rank      : 1 " in root and "exitcode  : 2 " in root and "said above" in root


def test_an_error_before_the_processes_know_each_other_is_said_once(launch, tmp_path):
    done = launch(tmp_path, "run.steps=0")
    assert done.said == "error: command line: run.steps=0: input should be greater than 0\n"


def test_a_process_that_hangs_ends_the_run_after_the_time_of_the_recipe(launch, tmp_path):
    done = launch(
        tmp_path, "run.timeout_s=10", fault="1 plan SIGSTOP", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="1"
    )
    assert done.code == 1 and 10 < done.seconds < 60
    assert done.said == (
        "rank 0: error: another process did not come within run.timeout_s=10 seconds; if it was "
        "only slow, give it more time\n"
        f"no answer from rank 1 (pid {done.pid} on {socket.gethostname()})\n"
        f"{GOES_ON}"
    )


def test_sigterm_to_the_launcher_is_said_once_and_leaves_a_checkpoint(launch, tmp_path):
    run_dir = tmp_path / "runs" / "small"
    metrics = run_dir / "metrics.jsonl"

    def terminate_behind_step_1(launcher):
        while not metrics.is_file() or metrics.read_bytes().count(b"\n") < 2:
            assert launcher.poll() is None
            time.sleep(0.01)
        launcher.send_signal(signal.SIGTERM)

    # No checkpoint is due.
    overrides = ("run.steps=50", "checkpoint.every=50")
    done = launch(tmp_path, *overrides, on_start=terminate_behind_step_1)
    told = "SIGTERM: finishing this step and writing a checkpoint; once more to stop at once\n"
    assert (done.said + done.summary).count(told) == 1
    assert "Error" not in done.said
    step = metrics.read_bytes().count(b"\n") - 1
    assert done.printed.count(f"stopped after step {step} of 50; ") == 1
    assert [each.name for each in (run_dir / "checkpoints").iterdir()] == [f"step-{step:06d}"]
