"""What a user gets wrong ends with code 2 and one message that names the thing."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from rl_llm.cli.main import main

MISSPELT_REWARD = """\
def misspelt(compleation, answer):
    return 1.0
"""


@pytest.fixture
def refused(small, capfd):
    """Run a command in process; return its message after checking the form of the refusal."""

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        message = capfd.readouterr().err
        assert code == 2, message
        assert message.startswith("error: ")
        assert message.count("error: ") == 1
        assert "Traceback" not in message
        return message.removeprefix("error: ").rstrip("\n")

    return run


def assert_names(message, *words):
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.group_sise=8", ["rollout.group_sise", "unknown key", "group_size"]),
        ("rollout.group_size=1", ["rollout.group_size=1", "grpo", "at least 2"]),
        ("rollout.temperature=0.0", ["rollout.temperature=0", "same completion"]),
        (
            "optim.tokens_per_micro_batch=100",
            ["optim.tokens_per_micro_batch=100", "max_prompt_tokens=32", "at least 128"],
        ),
        (
            "optim.updates_per_batch=5",
            ["optim.updates_per_batch=5", "rollout.problems_per_step=4", "at most 4"],
        ),
        (
            "rollout.problems_per_step=61",
            ["rollout.problems_per_step=61 with 60 problems in data.train", "at most 60"],
        ),
        (
            "eval.train_problems=61",
            ["eval.train_problems=61 with 60 problems in data.train", "at most 60"],
        ),
        (
            "curriculum={probe: {completions: 2, problems: 61}}",
            ["curriculum.probe.problems=61 with 60 problems in data.train", "at most 60"],
        ),
        ("rollout.max_new_tokens=250", ["max_new_tokens=250", "256 positions", "at most 240"]),
        ("kl.estimator=k1", ["kl.estimator='k1'", "use k2"]),
        ("rewards.0.use=exact_anser", ["'exact_anser'", "did you mean 'exact_answer'"]),
        ("rewards.0.strict=true", ["rewards.0.strict", "unknown option"]),
        ("rewards.0.use=gone.py:gone", ["gone.py:gone", "there is no file"]),
        ("data.train.0.use=arithmetics", ["'arithmetics'", "did you mean 'arithmetic'"]),
        ("data.train.0.sise=5", ["data.train.0.sise", "unknown option", "size"]),
        ("data.train.0.split=eval", ["data.train", "data.eval", "in both"]),
        ("curriculum.sampler.name=postrior", ["curriculum.sampler.name='postrior'", "posterior"]),
        ("curriculum.sampler.flor=0.1", ["curriculum.sampler.flor", "unknown option", "floor"]),
        ("curriculum.sampler.floor=2.0", ["curriculum.sampler", "floor=2.0"]),
        ("curriculum.gates.0.name=informativ", ["curriculum.gates.0.name", "informative"]),
        ("curriculum.gates.0.off=total", ["curriculum.gates.0.off", "unknown option", "of"]),
        ("curriculum.gates.0.of=totals", ["curriculum.gates.0.of", "totals", "'total'"]),
        ("kl.controller.name=grpod", ["kl.controller.name='grpod'", "grpo_d"]),
        ("kl.controller.vally=0.3", ["kl.controller.vally", "unknown option", "valley"]),
        ("kl.controller.max=-1.0", ["kl.controller", "max=-1.0", "min < max"]),
        ("algorithm.name=gpro", ["algorithm.name='gpro'", "grpo"]),
        ("algorithm.clip_hihg=0.3", ["algorithm.clip_hihg", "unknown option", "clip_high"]),
        ("algorithm.clip_high=.inf", ["algorithm.clip_high=inf", "must be a finite number"]),
        ("algorithm.clip_high=.nan", ["algorithm.clip_high=nan", "must be a finite number"]),
        ("algorithm.scale=groups", ["algorithm.scale", "groups", "'group'"]),
        ("lora.targets=q_proj", ["is a pattern over whole names", "write [q_proj]"]),
        ("lora.targets=q_prok", ["lora.targets='q_prok' does not fit", "not found"]),
        ("lora.targets=[q_prok]", ["lora.targets", "q_prok", "did you mean 'q_proj'", "up_proj"]),
        ("lora.targets=[q_proj, nope]", ["lora.targets", "no module 'nope'", "known: down_proj"]),
        ("model.path=no/such/model", ["model.path='no/such/model'", "is not a folder"]),
        ("run.steps=many", ["run.steps='many'", "integer"]),
    ],
)
def test_a_fault_in_the_recipe_is_one_message_that_names_it(refused, small, override, words):
    message = refused("train", small, override)
    assert_names(message, *words)
    assert refused("validate", small, override) == message
    assert not (small.parent / "runs").exists()


def test_a_folder_that_cannot_be_made_is_named(refused, small):
    message = refused("train", small, "run.output_dir=small.yaml")
    assert_names(message, "run.output_dir='small.yaml'", "'small.yaml/small'", "cannot be made")
    assert refused("validate", small, "run.output_dir=small.yaml") == message


@pytest.mark.parametrize("command", ["train", "validate"])
def test_a_folder_that_cannot_be_written_to_is_named(refused, small, command):
    message = refused(command, small, "run.output_dir=/sys")  # Not even by root.
    assert_names(message, "run.output_dir='/sys'", "'/sys/small'", "cannot be made")


@pytest.mark.parametrize("command", ["train", "validate"])
def test_a_recipe_that_is_not_there_is_named(refused, command):
    assert_names(refused(command, "recipes/mine.yaml"), "there is no recipe 'recipes/mine.yaml'")


def test_several_faults_are_told_at_once(refused, small):
    message = refused("train", small, "optim.updates_per_batch=5", "kl.estimator=k1")
    assert_names(message, "optim.updates_per_batch=5", "kl.estimator='k1'")


def test_a_key_that_stands_twice_is_named(refused, small):
    small.write_text(small.read_text(encoding="utf-8") + "eval: {every: 3}\n", encoding="utf-8")
    assert_names(refused("train", small), str(small), "'eval' stands twice")


def test_a_reward_that_asks_for_an_unknown_parameter_is_named_with_the_nearest(refused, small):
    small.with_name("misspelt.py").write_text(MISSPELT_REWARD, encoding="utf-8")
    message = refused("train", small, "rewards.0.use=misspelt.py:misspelt")
    assert_names(message, "'misspelt'", "asks for 'compleation'", "did you mean 'completion'")


def test_a_data_file_that_is_not_there_is_named(refused, small):
    message = refused("train", small, "data.train=[{use: jsonl, path: problems.jsonl}]")
    assert_names(message, "there is no file 'problems.jsonl'")


def test_malformed_json_is_named_by_its_line(refused, small):
    lines = [json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}) for n in range(5)]
    lines[3] = '{"prompt": "3+1=", "answer": '
    small.with_name("problems.jsonl").write_text("\n".join(lines), encoding="utf-8")
    message = refused("train", small, "data.train=[{use: jsonl, path: problems.jsonl}]")
    assert_names(message, "data.train.0", "problems.jsonl line 4", "not valid JSON")


@pytest.fixture
def copied_model(small, repository):
    """A copy of the shipped model beside the recipe."""
    return shutil.copytree(repository / "data" / "models" / "carry-adder", small.parent / "model")


def test_a_model_folder_without_tokenizer_is_named(refused, small, copied_model):
    for file in copied_model.glob("tokenizer*"):
        file.unlink()
    message = refused("train", small, f"model.path={copied_model}")
    assert_names(message, f"model.path='{copied_model}'", "has no tokenizer")


def test_a_model_folder_without_weights_is_named(refused, small, copied_model):
    (copied_model / "model.safetensors").unlink()
    message = refused("train", small, f"model.path={copied_model}")
    assert_names(message, f"model.path='{copied_model}'", "model.safetensors")


def change_one_weight(model):
    """Add a little to the very last weight of the model's head."""
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"][-1, -1] += 0.01
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(refused, small, copied_model):
    recipe = [small, f"model.path={copied_model}", "run.steps=1"]
    assert main(["train", *map(str, recipe)]) == 0
    change_one_weight(copied_model)
    message = refused("train", *recipe)
    assert_names(message, "step-000001", "another model", str(copied_model), "run.name")


@pytest.fixture
def run_dir(finished, small):
    """A copy of the finished run, in the place where the recipe would write."""
    return shutil.copytree(finished / "runs" / "small", small.parent / "runs" / "small")


@pytest.mark.slow
def test_the_folder_of_another_recipe_is_refused_with_the_difference(refused, small, run_dir):
    written = (run_dir / "resolved.yaml").read_bytes()
    message = refused("train", small, "optim.lr=0.01", "rewards.1.weight=0.2")
    assert_names(message, "runs/small/checkpoints/step-000005", "belongs to another recipe")
    assert_names(message, "optim.lr: 0.001 in the checkpoint, 0.01 in the recipe")
    assert_names(message, "rewards.1.weight: 0.1 in the checkpoint, 0.2 in the recipe", "run.name")
    assert (run_dir / "resolved.yaml").read_bytes() == written


@pytest.mark.slow
def test_another_number_of_steps_is_refused_where_beta_is_scheduled_over_them(
    refused, small, run_dir
):
    message = refused("train", small, "run.steps=6")
    assert_names(message, "run.steps: 5 in the checkpoint, 6 in the recipe")


@pytest.mark.slow
def test_resume_never_keeps_an_existing_run(refused, small, run_dir):
    message = refused("train", small, "--resume", "never")
    assert_names(message, "runs/small holds a run already", "--resume never", "run.name")


def test_resume_from_what_is_no_checkpoint_is_refused(refused, small):
    message = refused("train", small, "--resume", "runs/elsewhere/step-000050")
    assert_names(message, "--resume runs/elsewhere/step-000050", "no such folder", "runs/NAME")


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["adapter/adapter_model.safetensors", "trainer/policy.pt", "curriculum.parquet"]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_that_is_asked_for_is_refused(refused, small, run_dir, file, damage):
    damaged = run_dir / "checkpoints" / "step-000005" / file
    damaged.write_bytes(damaged.read_bytes()[:100])
    if damage == "gone":
        damaged.unlink()
    named = "runs/small/checkpoints/step-000005"
    how = "is missing" if damage == "gone" else "is truncated: 100 of "
    assert_names(refused("train", small, "--resume", named), f"{named} is damaged: {file} {how}")


def test_evaluating_what_is_no_run_asks_for_a_recipe(refused, tmp_path):
    (tmp_path / "notes").mkdir()
    assert_names(refused("evaluate", "notes"), "'notes' is not a run's folder", "--recipe")


def test_a_report_on_what_is_no_run_names_the_folder(refused, tmp_path):
    (tmp_path / "notes").mkdir()
    assert_names(refused("report", "notes"), "notes", "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "small.yaml", "rollout.group_sise=8"], ["rollout.group_sise"]),
        (["train", "small.yaml", "algorithm.name=gpro"], ["algorithm.name='gpro'"]),
        (["validate", "small.yaml", "model.path=gone"], ["model.path='gone'"]),
        (["evaluate", "runs/gone"], ["'runs/gone' is no folder here"]),
    ],
)
def test_the_process_prints_the_message_alone_and_exits_with_2(program, small, arguments, words):
    done = program(*arguments, folder=small.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert_names(done.stderr, *words)
    assert not (small.parent / "runs").exists()
