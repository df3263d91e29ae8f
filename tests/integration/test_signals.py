"""What a run does on SIGINT and SIGTERM, at any time, and how it keeps a second run out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_llm.plugins import load_module
from rl_llm.run_lock import hold

pytestmark = pytest.mark.slow

warm_runs = load_module(Path(__file__).with_name("warm.py"))
# Ten minutes long where nobody stops it, and a third of a second a step.
LONG = [
    "run.steps=1000",
    "rollout.problems_per_step=3",
    "eval.every=1000",
    "checkpoint={every: 1000, keep: 2}",
    "tracking=[jsonl]",
]
FINISHING = "finishing this step and writing a checkpoint; once more to stop at once"


@pytest.fixture(scope="module")
def warm():
    runs = warm_runs.WarmRuns()
    yield runs
    runs.close()


@pytest.fixture
def train(warm, tmp_path, write_small):
    """Start the small recipe in an empty folder."""
    write_small(tmp_path)

    def start(*overrides):
        return warm.start("train", "small.yaml", *overrides, folder=tmp_path)

    return start


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "runs" / "small"


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def num_rows(run_dir):
    file = run_dir / "metrics.jsonl"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("stage", "overrides", "last_step"),
    [
        ("evaluation", [], 1),
        ("generation", [], 1),
        ("update", ["optim.epochs=8"], 1),
        ("checkpoint", ["checkpoint.every=2"], 2),
    ],
)
def test_a_signal_lets_the_step_finish_and_the_message_names_the_checkpoint(
    train, run_dir, number, stage, overrides, last_step
):
    run = train(*LONG, *overrides)
    run.wait_until(lambda: run.stage() == stage)
    run.send(number)
    assert run.wait() == 128 + number
    assert f"{number.name}: {FINISHING}\n" in run.printed
    newest = f"step-{last_step:06d}"
    goes_on = f"run the same command again: it goes on from runs/small/checkpoints/{newest}"
    assert f"stopped after step {last_step} of 1000; {goes_on}, the last good" in run.printed
    assert names(run_dir / "checkpoints") == [newest]
    assert num_rows(run_dir) == last_step + 1
    assert "run.lock" not in names(run_dir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_at_once_says_so_and_leaves_no_folder(
    train, tmp_path, number
):
    run = train(*LONG)
    run.wait_until(lambda: run.printed)
    run.send(number)
    assert run.wait() == 128 + number
    expected = f"{number.name}: stopping at once; no step is done yet, so there is nothing to save"
    assert run.printed.splitlines()[-1] == expected
    assert not (tmp_path / "runs").exists()


def test_a_second_signal_stops_at_once_and_writes_nothing(train, run_dir):
    run = train(*LONG)
    run.wait_until(lambda: num_rows(run_dir) >= 2 and run.stage() == "generation")
    run.send(signal.SIGTERM)
    run.wait_until(lambda: FINISHING in run.printed)
    rows = num_rows(run_dir)
    run.send(signal.SIGINT)
    assert run.wait() == 130
    assert run.printed.splitlines()[-1] == "SIGINT: stopping at once; the step is lost"
    assert num_rows(run_dir) == rows
    assert names(run_dir / "checkpoints") == []
    assert "run.lock" not in names(run_dir)


def test_a_signal_while_results_are_written_lets_them_be_written(train, run_dir):
    run = train(*LONG, "run.steps=1", "data.eval=[]", "eval={every: 1, train_problems: 0}")
    run.wait_until(lambda: run.stage() == "results")
    run.send(signal.SIGTERM)
    assert run.wait() == 143
    assert "SIGTERM: writing the results; once more to stop at once\n" in run.printed
    assert run.printed.endswith("stopped after step 1, which was the last: the run is complete\n")
    assert {"adapter", "report.html"} <= set(names(run_dir))
    again = train(*LONG, "run.steps=1", "data.eval=[]", "eval={every: 1, train_problems: 0}")
    assert again.wait() == 0
    assert "nothing is left to do" in again.printed


def test_a_signal_while_the_program_is_imported_ends_it_with_143_and_no_traceback(
    tmp_path, write_small
):
    write_small(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "rl_llm", "train", "small.yaml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    loaded = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in loaded.read_text(encoding="utf-8"):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == ("SIGTERM: stopping at once; no step is done yet, so there is nothing to save\n")


def test_a_second_run_is_refused_while_report_evaluate_and_explain_work(
    train, warm, run_dir, tmp_path
):
    first = train(*LONG, "checkpoint.every=1")
    first.wait_until(lambda: num_rows(run_dir) == 3)
    second = train(*LONG, "checkpoint.every=1")
    assert second.wait() == 2
    assert second.printed.startswith(f"error: runs/small is in use: process {first.pid} on ")
    assert second.printed.count("\n") == 1
    key = json.loads((run_dir / "draws.jsonl").read_text(encoding="utf-8").splitlines()[0])["key"]
    for words in (["report", run_dir], ["evaluate", run_dir], ["data", "explain", run_dir, key]):
        reader = warm.start(*words, folder=tmp_path)
        assert reader.wait() == 0, reader.printed
    assert not first.has_ended()
    first.send(signal.SIGKILL)
    assert first.wait() == -9
    third = train(*LONG, "checkpoint.every=1")
    third.wait_until(lambda: "resuming runs/small/checkpoints/step-" in third.printed)
    assert f"run.lock was left behind by process {first.pid} on " in third.printed
    third.send(signal.SIGKILL)
    third.wait()


def test_a_run_whose_reader_is_gone_finishes_its_step_and_saves_it(tmp_path, write_small, run_dir):
    """As with `rl-llm train ... 2>&1 | tee log`, where tee hears the same Ctrl-C."""
    write_small(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-m", "rl_llm", "train", "small.yaml", *LONG],
        cwd=tmp_path,
        env=os.environ | warm_runs.ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while num_rows(run_dir) < 2 and run.poll() is None:
            time.sleep(0.01)
        run.stdout.close()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=120) == 130
    finally:
        run.kill()
        run.wait()
    assert names(run_dir / "checkpoints") == [f"step-{num_rows(run_dir) - 1:06d}"]


@pytest.fixture
def launch(tmp_path, write_small, repository):
    """Start scripts/train.py on two ranks, in a group of their own with their launcher."""
    write_small(tmp_path)
    started = []

    def run():
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                f"--config_file={repository / 'recipes' / 'accelerate' / 'cpu.yaml'}",
                "--main_process_port=0",
                *(str(repository / "scripts" / "train.py"), "small.yaml", *LONG),
            ],
            cwd=tmp_path,
            env=os.environ | warm_runs.ONE_THREAD,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def children(pid):
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    ]


@pytest.mark.parametrize(
    ("receiver", "number"), [("last rank", signal.SIGTERM), ("group", signal.SIGINT)]
)
def test_two_ranks_stop_behind_the_same_step_whoever_hears_the_signal(
    launch, run_dir, receiver, number
):
    launcher = launch()
    while num_rows(run_dir) < 2 and launcher.poll() is None:
        time.sleep(0.01)
    if receiver == "group":  # As Ctrl-C does it; the launcher then hands it on once more.
        os.killpg(launcher.pid, number)
    else:
        main_rank = json.loads((run_dir / "run.lock").read_text(encoding="utf-8"))["pid"]
        (other,) = set(children(launcher.pid)) - {main_rank}
        os.kill(other, number)
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1  # The launcher's own; the ranks' codes stand in what it prints.
    step = num_rows(run_dir) - 1
    assert printed.count(f"stopped after step {step} of 1000; run the same command again") == 1
    assert printed.count(FINISHING) == (1 if receiver == "group" else 0)
    assert names(run_dir / "checkpoints") == [f"step-{step:06d}"]
    assert "run.lock" not in names(run_dir)


def test_two_ranks_in_a_folder_that_is_in_use_say_so_once(launch, run_dir):
    with hold(run_dir, on_loss=pytest.fail):
        printed, _ = launch().communicate(timeout=120)
    assert printed.count(f"error: runs/small is in use: process {os.getpid()} on ") == 1
    assert "exitcode  : 2" in printed
    assert "data.train" not in printed
