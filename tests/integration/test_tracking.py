"""Whole runs that log to Weights & Biases: what arrives, and that nothing there touches a run."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rl_llm.cli.main import main
from rl_llm.plugins import load_module

pytestmark = pytest.mark.slow

fake_wandb = load_module(Path(__file__).parents[1] / "tracking" / "fake_wandb.py")
TOKEN = "hf_" + "Ab0" * 8
WANDB = "tracking=[jsonl, {name: wandb, project: adders}]"


@pytest.fixture
def server(tmp_path_factory):
    started = fake_wandb.FakeWandb(home=tmp_path_factory.mktemp("home"))
    yield started
    started.close()


def numbers(row):
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def test_a_run_logs_the_numbers_of_its_metrics_and_says_where_in_one_line(
    server, program, write_small, read_metrics, tmp_path
):
    write_small(tmp_path)
    words = ["train", "small.yaml", WANDB, f"run.output_dir=runs-{TOKEN}"]
    done = program(*words, folder=tmp_path, **server.environment)
    assert done.returncode == 0, done.stderr
    ((run_id, run),) = server.runs.items()
    about = [line for line in (done.stdout + done.stderr).splitlines() if "wandb" in line]
    assert about == [f"wandb: {server.url}/me/adders/runs/{run_id}"]
    rows = read_metrics(tmp_path / f"runs-{TOKEN}" / "small")
    assert len(rows) == 6 and run.rows == [numbers(row) for row in rows]
    assert "eval/pass_rate/level=3" in run.rows[0] and "kl/beta" in run.rows[1]
    assert (run.display_name, run.exit_codes) == ("small", [0])
    assert run.config["kl"]["value"]["controller"]["valley"] == 0.3
    assert run.config["run"]["value"]["output_dir"] == "runs-[token]"


def test_a_stopped_run_goes_on_in_the_same_run_there(
    server, program, prepare, finished, read_metrics, lasting, tmp_path
):
    words = ["train", "small.yaml", "curriculum.sampler.name=stopping.py:Posterior", WANDB]
    folder = prepare(tmp_path)
    # Killed behind step 3, of which the checkpoint of step 2 knows nothing; its row is out or lost.
    first = program(*words, folder=folder, STOP="4 SIGKILL", **server.environment)
    assert first.returncode == -signal.SIGKILL
    (run,) = server.runs.values()
    wait_until(lambda: run.exit_codes == [137])
    assert [row["step"] for row in run.rows] in ([0, 1, 2, 3], [0, 1, 2])
    done = program(*words, folder=folder, **server.environment)
    assert done.returncode == 0, done.stderr
    assert "resuming runs/small/checkpoints/step-000002" in done.stdout
    assert list(server.runs.values()) == [run]
    whole = [numbers(row) for row in read_metrics(finished / "runs" / "small")]
    assert lasting(run.rows) == lasting(whole) and run.exit_codes == [137, 0]


def test_the_same_command_with_wandb_logs_a_run_that_is_done(
    server, program, finished, read_metrics, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "copy")
    for _ in range(2):
        done = program("train", "small.yaml", WANDB, folder=folder, **server.environment)
        assert done.returncode == 0, done.stderr
        assert "nothing is left to do" in done.stdout
    (run,) = server.runs.values()
    rows = read_metrics(finished / "runs" / "small")
    assert run.rows == [numbers(row) for row in rows]
    assert run.exit_codes == [0]  # The second time there was nothing to log.


def test_ctrl_c_marks_the_run_and_leaves_no_process(server, write_small, tmp_path):
    write_small(tmp_path)
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rl_llm", "train", "small.yaml", WANDB, "run.steps=500"],
        cwd=tmp_path,
        env=os.environ | server.environment | quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: any(run.rows for run in server.runs.values()))
        family = psutil.Process(process.pid).children(recursive=True)
        assert "wandb-core" in [each.name() for each in family]
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (run,) = server.runs.values()
    assert (process.returncode, run.exit_codes) == (130, [130])
    lines = (tmp_path / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    assert len(run.rows) == len(lines)
    wait_until(lambda: not any(is_running(each) for each in family))
    assert "Traceback" not in printed


def test_a_server_that_is_not_there_changes_no_number_and_no_exit_code(
    server, program, write_small, finished, read_metrics, lasting, tmp_path
):
    write_small(tmp_path)
    dead = server.environment | {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = program("train", "small.yaml", WANDB, folder=tmp_path, **dead)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run is logged offline") == 1
    ours, whole = (read_metrics(each / "runs" / "small") for each in (tmp_path, finished))
    assert lasting(ours) == lasting(whole)


def test_of_two_processes_the_first_alone_logs(server, python, repository, write_small, tmp_path):
    write_small(tmp_path)
    config = repository / "recipes" / "accelerate" / "cpu.yaml"
    options = ["-m", "accelerate.commands.launch", f"--config_file={config}"]
    words = [*options, "--main_process_port=0", repository / "scripts" / "train.py", "small.yaml"]
    done = python(*words, WANDB, "run.steps=2", folder=tmp_path, **server.environment)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert [row["step"] for row in run.rows] == [0, 1, 2] and run.exit_codes == [0]
    assert done.stdout.count("wandb: ") == 1


@pytest.mark.parametrize("command", ["validate", "train"])
def test_a_library_that_is_not_installed_is_refused_with_its_extra(
    small, monkeypatch, capsys, command
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([command, str(small), "tracking=[wandb]"]) == 2
    assert capsys.readouterr().err == (
        "error: tracking=wandb: the library wandb is not installed; run pip install "
        "'rl-llm[wandb]', or take wandb out of tracking\n"
    )
    assert not Path("runs").exists()


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds, *, within_s=60):
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
