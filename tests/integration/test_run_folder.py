"""What a finished run leaves in its folder."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_llm.config import load_recipe
from rl_llm.records import Problem, Request, Sampling, content_key
from rl_llm.rollout.hf_engine import TransformersEngine
from rl_llm.rollout.prompts import PromptEncoder

pytestmark = pytest.mark.slow

PROMPTS = ["123+456=", "80706+50403=", "1234567+7654321=", "9999999+1="]


@pytest.fixture(scope="module")
def run_dir(finished):
    return finished / "runs" / "small"


@pytest.fixture(scope="module")
def rows(run_dir, read_metrics):
    return read_metrics(run_dir)


@pytest.fixture(scope="module")
def critic_rows(once, program, write_small, read_metrics):
    """The rows of a short run with a critic."""

    def make(folder):
        write_small(folder)
        short = ["run.steps=1", "data.eval=[]", "eval.train_problems=0"]
        ppo = "algorithm={name: ppo, critic_warmup_steps: 0}"
        done = program("train", "small.yaml", *short, ppo, folder=folder)
        assert done.returncode == 0, done.stderr

    return read_metrics(once("run-with-a-critic", make) / "runs" / "small")


@pytest.fixture(scope="module")
def documented(repository):
    """Return the text of docs/metrics.md on metrics, and that on sample completions."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    metrics, _, samples = text.partition("## Sample completions")
    return metrics, samples


def first_cells(text):
    """Return the code in the first cell of every row of the tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_a_finished_run_holds_these_files_and_no_others(run_dir):
    found = {
        str(path.relative_to(run_dir)).replace("000004", "N").replace("000005", "N")
        for path in run_dir.rglob("*")
        if path.is_file() and path.parent.name not in ("tensorboard", "completions")
    }
    assert found == {
        "recipe.yaml",
        "resolved.yaml",
        "metrics.jsonl",
        "draws.jsonl",
        "evaluations.jsonl",
        "report.html",
        "checkpoints/step-N/manifest.json",
        "checkpoints/step-N/state.json",
        "checkpoints/step-N/curriculum.parquet",
        "checkpoints/step-N/trainer/policy.pt",
        "checkpoints/step-N/adapter/adapter_config.json",
        "checkpoints/step-N/adapter/adapter_model.safetensors",
        "checkpoints/step-N/adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
        "adapter/README.md",
    }


def test_the_newest_two_checkpoints_stay_whole_and_nothing_half_written(run_dir):
    folders = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert folders == ["step-000004", "step-000005"]
    steps = [
        json.loads((run_dir / "checkpoints" / name / "state.json").read_text())["counters"]["step"]
        for name in folders
    ]
    assert steps == [4, 5]


def test_there_is_one_row_a_step_and_an_evaluation_before_between_and_after(rows):
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "eval/pass_rate" in row] == [0, 2, 4, 5]
    assert all("loss/policy" in row for row in rows[1:])


def test_samples_are_kept_at_every_evaluation(run_dir):
    names = sorted(path.name for path in (run_dir / "completions").iterdir())
    assert names == [f"step-00000{step}.jsonl" for step in (0, 2, 4, 5)]


def test_every_key_of_a_row_is_documented_and_every_documented_key_is_written(
    rows, critic_rows, documented
):
    patterns = {
        name: re.sub("<[a-z]+>", ".+", re.escape(name)) for name in first_cells(documented[0])
    }
    written = {key for row in (*rows, *critic_rows) for key in row}
    unknown = {key for key in written if not any(re.fullmatch(p, key) for p in patterns.values())}
    absent = {
        name for name, p in patterns.items() if not any(re.fullmatch(p, key) for key in written)
    }
    # Neither run has probes, a reference that moves, a correction or a reward that fails, or
    # generates ahead.
    elsewhere = {"curriculum/probes_waiting", "kl/reference_refreshes"}
    # An evaluation here draws one sample of each problem.
    elsewhere |= {"eval/pass_at_<k>", "eval/pass_at_<k>_se"}
    elsewhere |= {"rollout/corrected_share", "time/wait_s", "reward/<name>_failures/<kind>"}
    assert (unknown, absent) == (set(), elsewhere)


def test_every_field_of_a_sample_is_documented(run_dir, documented):
    lines = (run_dir / "completions" / "step-000005.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    table = documented[1].partition("##")[0]
    assert {name for sample in samples for name in sample} == set(first_cells(table))
    assert {sample["split"] for sample in samples} == {"train", "eval"}


def test_every_held_out_problem_has_a_row_at_every_evaluation(run_dir, rows, repository):
    lines = (run_dir / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line) for line in lines]
    assert [row["step"] for row in results] == [0] * 12 + [2] * 12 + [4] * 12 + [5] * 12
    assert len({row["key"] for row in results}) == 12
    for step in (0, 5):
        correct = [row["correct"] for row in results if row["step"] == step]
        assert sum(correct) / 12 == pytest.approx(rows[step]["eval/pass_rate"])
    page = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = page.partition("## Results of single problems")[2].partition("\n## ")[0]
    assert {name for row in results for name in row} | {"majority"} == set(first_cells(table))


def test_the_recipe_is_kept_as_written_and_as_run(finished, run_dir):
    assert (run_dir / "recipe.yaml").read_bytes() == (finished / "small.yaml").read_bytes()
    resolved = (run_dir / "resolved.yaml").read_text(encoding="utf-8")
    assert "engine: transformers, processes: 1, ZeRO stage: none" in resolved
    assert "max_batch_rows: 512" in resolved
    settled = load_recipe(finished / "small.yaml", ["rollout.engine=transformers"])
    assert load_recipe(run_dir / "resolved.yaml") == settled


def test_tensorboard_holds_the_numbers_of_the_metrics(run_dir, rows):
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    scalars = events.Scalars("train/reward_mean")
    assert [event.step for event in scalars] == [1, 2, 3, 4, 5]
    assert [event.value for event in scalars] == pytest.approx(
        [row["train/reward_mean"] for row in rows[1:]]
    )


def greedy_texts(model, tokenizer):
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        drawn = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=96,
        )
        texts.append(tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def test_peft_finds_the_base_of_the_adapter_from_any_folder(run_dir, tmp_path, monkeypatch):
    adapter = run_dir.absolute() / "adapter"
    monkeypatch.chdir(tmp_path)
    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    assert Path(model.peft_config["default"].base_model_name_or_path).name == "carry-adder"


def test_peft_loads_the_adapter_and_completes_as_the_engine_does(run_dir, repository):
    folder = repository / "data" / "models" / "carry-adder"
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "adapter")
    base = AutoModelForCausalLM.from_pretrained(folder)
    engine = TransformersEngine(base, PromptEncoder(tokenizer), stop_ids=[1], max_batch_rows=16)
    engine.load_weights(run_dir / "adapter", version=5)
    requests = [
        Request(
            problem=Problem(
                key=content_key(prompt, ""), prompt=prompt, answer="", level=0, source="test"
            ),
            num_completions=1,
            sampling=Sampling(temperature=0.0, max_new_tokens=96),
            stream_key=0,
        )
        for prompt in PROMPTS
    ]
    ours = {group.problem.prompt: group.completions[0].text for group in engine.complete(requests)}
    without_adapter = greedy_texts(base, tokenizer)
    adapted = greedy_texts(PeftModel.from_pretrained(base, str(run_dir / "adapter")), tokenizer)
    assert [ours[prompt] for prompt in PROMPTS] == adapted
    assert adapted != without_adapter


def test_the_snippet_of_the_card_runs_with_the_folder_in_its_place(run_dir, repository, python):
    card = (run_dir / "adapter" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert '"path/to/this/folder"' in code
    code = code.replace("path/to/this/folder", str(run_dir / "adapter"))
    done = python("-c", f"{code}\nprint(complete('123+456='))", folder=repository)
    assert done.returncode == 0 and "579" in done.stdout, done.stderr


def test_the_card_names_the_base_and_what_was_gained(run_dir, rows):
    card = (run_dir / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "| base model | `data/models/carry-adder`, float32 |" in card
    for row in (rows[0], rows[-1]):
        assert f"| {row['step']} | {row['eval/pass_rate']:.3f} |" in card


def test_the_next_commands_work(finished, tmp_path, program):
    printed = (finished / "printed.txt").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in printed.partition("next:")[2].strip().splitlines()]
    assert [words[:2] for words in commands] == [
        ["rl-llm", "evaluate"],
        ["rl-llm", "data"],
        ["rl-llm", "train"],
        ["rl-llm", "compare"],
    ]
    folder = shutil.copytree(finished, tmp_path / "copy")
    for words in commands:
        done = program(*words[1:], folder=folder)
        assert done.returncode == 0, done.stderr
    assert "name: uniform" in (folder / "runs" / "small-uniform" / "resolved.yaml").read_text()
