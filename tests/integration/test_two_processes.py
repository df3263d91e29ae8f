"""`accelerate launch scripts/train.py` is the same program, on one process and on two."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STEPS = ["run.steps=3", "eval.every=3", "checkpoint.every=3"]


@pytest.fixture
def accelerate(python, repository):
    """Run a program under accelerate, on two processes."""

    def run(*arguments, folder):
        return python(
            "-m",
            "accelerate.commands.launch",
            f"--config_file={repository / 'recipes' / 'accelerate' / 'cpu.yaml'}",
            "--main_process_port=0",
            *arguments,
            folder=folder,
        )

    return run


@pytest.fixture
def launch(accelerate, repository, write_small):
    """Run scripts/train.py on the small recipe under accelerate."""

    def run(folder, *options):
        write_small(folder)
        script = repository / "scripts" / "train.py"
        return accelerate(*options, script, "small.yaml", *STEPS, folder=folder)

    return run


@pytest.fixture
def alone(once, program, write_small):
    """The run of `rl-llm train` itself."""

    def make(folder):
        write_small(folder)
        done = program("train", "small.yaml", *STEPS, folder=folder)
        assert done.returncode == 0, done.stderr

    return once("run-on-one-process", make) / "runs" / "small"


def test_accelerate_launch_with_one_process_is_rl_llm_train(
    launch, alone, tmp_path, read_metrics, lasting
):
    done = launch(tmp_path, "--num_processes=1")
    assert done.returncode == 0, done.stderr
    assert lasting(read_metrics(tmp_path / "runs" / "small")) == lasting(read_metrics(alone))


def test_two_processes_write_one_row_a_step_and_take_the_same_first_step(
    launch, alone, tmp_path, read_metrics
):
    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    ours, rows = read_metrics(tmp_path / "runs" / "small"), read_metrics(alone)
    assert [row["step"] for row in ours] == [0, 1, 2, 3]
    resolved = (tmp_path / "runs" / "small" / "resolved.yaml").read_text(encoding="utf-8")
    assert "processes: 2" in resolved
    exact = ["train/pass_rate", "train/groups_admitted", "train/trained_tokens", "rollout/tokens"]
    assert [ours[1][key] for key in exact] == [rows[1][key] for key in exact]
    close = ["optim/grad_norm", "kl/ref_nats_per_token", "entropy_nats_per_token"]
    assert [ours[1][key] for key in close] == pytest.approx([rows[1][key] for key in close], 1e-4)
    assert ours[0]["eval/pass_rate"] == rows[0]["eval/pass_rate"]


def test_two_processes_say_everything_once(launch, tmp_path):
    printed = launch(tmp_path).stdout
    assert printed.count("processes: 2 (gloo, cpu)\n") == 1
    assert printed.count("data.train: 60 problems") == 1
    assert printed.count("step 3/3") == 1
    assert printed.count("next:") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["train", "small.yaml"],
        ["evaluate", "data/models/carry-adder", "--recipe", "small.yaml"],
        ["data", "measure", "small.yaml", "--out", "measured.parquet"],
    ],
    ids=["train", "evaluate", "measure"],
)
def test_processes_that_come_to_different_engines_are_refused(
    accelerate, write_small, tmp_path, command
):
    """Else the gradient would be a mixture, and corrected as what one engine drew."""
    write_small(tmp_path)
    program = Path(__file__).with_name("two_engines.py")
    done = accelerate(program, *command, folder=tmp_path)
    assert done.returncode != 0
    (said,) = [line for line in done.stderr.splitlines() if "rollout.engine=auto" in line]
    assert "error: rollout.engine=auto comes to different engines, transformers on rank 0" in said
    assert "; and vllm on rank 1 (" in said and said.endswith("such as rollout.engine=transformers")
