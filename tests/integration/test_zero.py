"""Runs under ZeRO-2 and ZeRO-3 on two processes: they train, resume, and read each other's
checkpoints."""

import json
import shutil

import pytest

pytestmark = pytest.mark.slow

STEPS = ["run.steps=3", "eval.every=3", "checkpoint.every=2"]
ALGORITHMS = {
    "grpo": ["kl.reference.mode=ema"],
    "ppo": [
        "algorithm={name: ppo, critic_warmup_steps: 1}",
        "kl.reference={mode: snapshot, refresh_every: 2}",
    ],
}
# What moves between one process and two: the order in which gradients are summed.
CLOSE = {"rel": 1e-2, "abs": 1e-4}

each_run = pytest.mark.parametrize(
    ("stage", "algorithm"), [(stage, name) for stage in (2, 3) for name in ALGORITHMS]
)


@pytest.fixture(scope="session")
def launch(python, repository, write_small):
    """Run a program under ZeRO on two processes in a folder with the small recipe."""

    def run(folder, file, *overrides, program="scripts/train.py", **environment):
        write_small(folder)
        done = python(
            *("-m", "accelerate.commands.launch"),
            f"--config_file={repository / 'recipes' / 'accelerate' / f'{file}.yaml'}",
            *("--num_processes=2", "--num_machines=1", "--main_process_port=0"),
            *(repository / program, "small.yaml", *STEPS, *overrides),
            folder=folder,
            **environment,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def sharded(once, launch):
    """Return the folder of a finished run under ZeRO; read only."""

    def get(stage, algorithm):
        def make(folder):
            cache = folder / "extensions"
            overrides = ALGORITHMS[algorithm]
            done = launch(folder, f"zero{stage}", *overrides, TORCH_EXTENSIONS_DIR=str(cache))
            (folder / "stdout.txt").write_text(done.stdout, encoding="utf-8")
            (folder / "stderr.txt").write_text(done.stderr, encoding="utf-8")

        return once(f"run-zero{stage}-{algorithm}", make)

    return get


@pytest.fixture(scope="session")
def alone(once, program, write_small):
    """Return the folder of the same run on one process without DeepSpeed; read only."""

    def get(algorithm):
        def make(folder):
            write_small(folder)
            done = program("train", "small.yaml", *STEPS, *ALGORITHMS[algorithm], folder=folder)
            assert done.returncode == 0, done.stderr

        return once(f"run-alone-{algorithm}", make)

    return get


def back_to_step_2(finished, folder):
    """Copy a finished run into a folder as it would be had it ended behind its second step."""
    shutil.copytree(finished / "runs", folder / "runs")
    run = folder / "runs" / "small"
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-000003")
    return run


def learnt(row):
    keys = ("train/pass_rate", "optim/grad_norm", "kl/ref_nats_per_token", "loss/policy")
    return [row[key] for key in keys]


@each_run
def test_three_steps_are_those_of_one_process(sharded, alone, read_metrics, stage, algorithm):
    folder = sharded(stage, algorithm)
    ours = read_metrics(folder / "runs" / "small")
    rows = read_metrics(alone(algorithm) / "runs" / "small")
    assert [row["step"] for row in ours] == [0, 1, 2, 3]
    assert ours[0]["eval/pass_rate"] == rows[0]["eval/pass_rate"]
    assert ours[1]["rollout/tokens"] == rows[1]["rollout/tokens"]
    assert learnt(ours[1]) == pytest.approx(learnt(rows[1]), **CLOSE)
    resolved = (folder / "runs" / "small" / "resolved.yaml").read_text(encoding="utf-8")
    assert f"processes: 2, ZeRO stage: {stage}" in resolved.splitlines()[1]


@each_run
def test_a_resumed_run_is_the_run_to_the_bit(
    sharded, launch, assert_same_run, tmp_path, stage, algorithm
):
    finished = sharded(stage, algorithm)
    run = back_to_step_2(finished, tmp_path)
    assert "resuming" in launch(tmp_path, f"zero{stage}", *ALGORITHMS[algorithm]).stdout
    assert_same_run(run, finished / "runs" / "small")


def test_one_process_goes_on_from_a_checkpoint_of_two_under_zero(
    sharded, program, write_small, read_metrics, tmp_path
):
    finished = sharded(3, "ppo")
    run = back_to_step_2(finished, tmp_path)
    write_small(tmp_path)
    done = program("train", "small.yaml", *STEPS, *ALGORITHMS["ppo"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, rows = read_metrics(run), read_metrics(finished / "runs" / "small")
    assert ours[:2] == rows[:2]
    assert ours[3]["rollout/tokens"] == rows[3]["rollout/tokens"]
    assert learnt(ours[3]) == pytest.approx(learnt(rows[3]), **CLOSE)


def test_two_processes_under_zero_go_on_from_a_checkpoint_of_one(
    alone, launch, read_metrics, tmp_path
):
    finished = alone("ppo")
    run = back_to_step_2(finished, tmp_path)
    launch(tmp_path, "zero3", *ALGORITHMS["ppo"])
    ours, rows = read_metrics(run), read_metrics(finished / "runs" / "small")
    assert ours[3]["rollout/tokens"] == rows[3]["rollout/tokens"]
    assert learnt(ours[3]) == pytest.approx(learnt(rows[3]), **CLOSE)


@pytest.mark.parametrize(("file", "max_staleness"), [("zero2", 0), ("zero3", 1), ("multinode", 0)])
def test_every_rank_draws_alike_also_ahead_of_time(launch, tmp_path, file, max_staleness):
    ahead = f"rollout.max_staleness={max_staleness}"
    launch(tmp_path, file, ahead, program="tests/integration/overlapping_ranks.py")
    first, second = (json.loads((tmp_path / f"rank-{n}.json").read_text()) for n in (0, 1))
    assert len(first["harvests"]) == 3 and first == second


@pytest.mark.parametrize("stage", [2, 3])
def test_nothing_is_compiled_and_everything_is_said_once(sharded, stage):
    folder = sharded(stage, "grpo")
    assert not (folder / "extensions").exists()
    stdout = (folder / "stdout.txt").read_text(encoding="utf-8")
    assert stdout.count("step 3/3") == 1 and stdout.count("data.train: 60 problems") == 1
    stderr = (folder / "stderr.txt").read_text(encoding="utf-8")
    assert "Warning" not in stderr and "untested optimizer" not in stdout + stderr
