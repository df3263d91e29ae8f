"""A run that was stopped and resumed is, bit for bit, the run that never stopped."""

import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rl_llm.cli.main import main

# The small recipe itself refills, divides a step into two updates, repeats them, and moves beta.
RICH = ["run.steps=7", "curriculum.sampler={name: stopping.py:Posterior}", "checkpoint.every=4"]

# The other sampler crosses an epoch (10 problems, 4 a step); rates are scheduled over the run.
PLAIN = [
    "run.steps=6",
    "data.train.0.size=10",
    "curriculum={sampler: {name: stopping.py:Uniform}}",
    "algorithm={name: grpo, scale: batch, reduce: sequence_mean, truncated: train}",
    "kl={controller: {name: constant, beta: 0.01}, estimator: k3}",
    "optim={lr: 1.0e-3, schedule: cosine, warmup_steps: 2, weight_decay: 0.01}",
    "eval.every=4",
    "checkpoint={every: 4, keep: 1}",
]


@pytest.fixture
def whole(once, prepare, program):
    """The rich run, never interrupted."""

    def make(folder):
        done = program("train", "small.yaml", *RICH, folder=prepare(folder))
        assert done.returncode == 0, done.stderr

    return once("uninterrupted-run", make) / "runs" / "small"


def checkpoints(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def digests(run_dir):
    return {
        str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in run_dir.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
def test_the_run_that_is_compared_uses_everything_that_a_resume_must_restore(whole, read_metrics):
    rows = read_metrics(whole)[1:]
    assert any(row["rollout/refill_rounds"] > 0 for row in rows)
    assert any((row["kl/old_nats_per_token"] or 0) > 0 for row in rows)
    assert sum(row["optim/grad_norm"] > 0 for row in rows) >= 5
    assert len({row["kl/beta"] for row in rows}) > 3
    assert len({str(row["curriculum/belief_histogram"]) for row in rows}) > 3


@pytest.mark.slow
def test_sigterm_ends_the_step_and_the_resumed_run_is_the_uninterrupted_one(
    tmp_path, prepare, program, whole, assert_same_run
):
    ours = prepare(tmp_path) / "runs" / "small"
    stopped = program("train", "small.yaml", *RICH, folder=tmp_path, STOP="3 SIGTERM")
    assert stopped.returncode == 143
    assert stopped.stderr.startswith("SIGTERM: finishing this step and writing a checkpoint")
    assert "Traceback" not in stopped.stderr
    assert checkpoints(ours) == ["step-000003"]
    assert not (ours / "adapter").exists()
    resumed = program("train", "small.yaml", *RICH, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming runs/small/checkpoints/step-000003, after step 3 of 7" in resumed.stdout
    assert_same_run(ours, whole)


@pytest.mark.slow
def test_rows_past_the_checkpoint_are_cut_after_sigkill_and_written_again(
    tmp_path, prepare, program, whole, assert_same_run, read_metrics
):
    ours = prepare(tmp_path) / "runs" / "small"
    killed = program("train", "small.yaml", *RICH, folder=tmp_path, STOP="6 SIGKILL")
    assert killed.returncode == -9
    assert checkpoints(ours) == ["step-000004"]
    assert [row["step"] for row in read_metrics(ours)] == [0, 1, 2, 3, 4, 5]
    with (ours / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "step_s": 0.')
    resumed = program("train", "small.yaml", *RICH, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming runs/small/checkpoints/step-000004, after step 4 of 7" in resumed.stdout
    assert_same_run(ours, whole)


@pytest.mark.slow
def test_schedules_and_the_uniform_sampler_go_on_where_they_stopped(
    tmp_path, prepare, monkeypatch, assert_same_run, read_metrics
):
    for name, stop in (("whole", None), ("stopped", "4 SIGTERM")):
        monkeypatch.chdir(prepare(tmp_path / name))
        if stop is not None:
            monkeypatch.setenv("STOP", stop)
            assert main(["train", "small.yaml", *PLAIN]) == 143
            monkeypatch.delenv("STOP")
        assert main(["train", "small.yaml", *PLAIN]) == 0
    rows = read_metrics("runs/small")
    assert [round(row["optim/lr"], 6) for row in rows[1:]] == [
        0.0005,
        0.001,
        0.001,
        0.000854,
        0.0005,
        0.000146,
    ]
    assert_same_run(tmp_path / "stopped" / "runs" / "small", tmp_path / "whole" / "runs" / "small")


@pytest.mark.slow
def test_sigint_exits_with_130_behind_a_checkpoint(tmp_path, prepare, monkeypatch):
    monkeypatch.chdir(prepare(tmp_path))
    monkeypatch.setenv("STOP", "1 SIGINT")
    assert main(["train", "small.yaml", *PLAIN]) == 130
    assert checkpoints(tmp_path / "runs" / "small") == ["step-000001"]


@pytest.mark.slow
def test_resuming_a_finished_run_prints_its_table_and_changes_no_file(finished, tmp_path, program):
    shutil.copytree(finished, tmp_path / "copy")
    run_dir = tmp_path / "copy" / "runs" / "small"
    before = digests(run_dir)
    again = program("train", "small.yaml", folder=tmp_path / "copy")
    assert again.returncode == 0, again.stderr
    printed = (finished / "printed.txt").read_text(encoding="utf-8")
    ending = printed[printed.index("held-out pass rate  ") :]
    assert "level" in ending and "adapter  runs/small/adapter" in ending
    assert again.stdout.endswith(ending)
    assert "step 1/5" not in again.stdout
    assert digests(run_dir) == before


@pytest.mark.slow
def test_a_run_without_schedules_goes_on_for_more_steps(small, read_metrics, lasting, capsys):
    constant = ["kl={controller: {name: constant}}", "eval.every=3", "checkpoint.every=3"]
    assert main(["train", str(small), "run.name=longer", "run.steps=4", *constant]) == 0
    assert main(["train", str(small), "run.steps=3", *constant]) == 0
    assert main(["train", str(small), "run.steps=4", *constant]) == 0
    assert (
        "resuming runs/small/checkpoints/step-000003, after step 3 of 4" in capsys.readouterr()[0]
    )
    assert lasting(read_metrics("runs/small")) == lasting(read_metrics("runs/longer"))


@pytest.mark.slow
def test_a_checkpoint_named_by_its_path_starts_another_run(finished, tmp_path, small, read_metrics):
    older = finished / "runs" / "small" / "checkpoints" / "step-000004"
    assert main(["train", str(small), "run.name=branch", "--resume", str(older)]) == 0
    assert [row["step"] for row in read_metrics("runs/branch")] == [5]
    # The branch can be resumed without the run that it comes from, also before its own first one.
    assert checkpoints(tmp_path / "runs" / "branch") == ["step-000004", "step-000005"]
    branch, original = (
        load_file(run / "adapter" / "adapter_model.safetensors")
        for run in (tmp_path / "runs" / "branch", finished / "runs" / "small")
    )
    # The finished run is another process, perhaps with another number of threads.
    for name in original:
        torch.testing.assert_close(branch[name], original[name])
