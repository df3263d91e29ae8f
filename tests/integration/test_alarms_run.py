"""Real runs that go wrong and are told of, and one that does not."""

from pathlib import Path

import pytest

from rl_llm.cli.main import main

pytestmark = pytest.mark.slow

# Correctness is worth nothing, and short completions all: the model learns not to calculate.
HACKED = [
    *("run.steps=20", "eval.every=4", "eval.train_problems=0", "checkpoint.every=8"),
    "data.train.0={use: arithmetic, levels: [2, 3, 4], size: 300, split: train, seed: 1}",
    "data.eval.0={use: arithmetic, levels: [2, 3, 4], size: 90, split: eval, seed: 1}",
    "rewards.0.weight=0.0",
    "rewards.1={use: length_budget, channel: length, limit: 64, cache: 64}",
    "curriculum={sampler: {name: uniform}, gates: []}",
    "rollout={problems_per_step: 8, group_size: 8, max_new_tokens: 64}",
    "kl={controller: {name: constant, beta: 0.0}}",
    "optim={lr: 2.0e-3, tokens_per_micro_batch: 2048}",
    "alarms.watch=[reward]",
]

# Few problems a step, so that much of what it measures is noise.
HEALTHY = [
    *("run.name=healthy", "run.output_dir=runs", "eval.every=4", "tracking=[jsonl]"),
    *("rollout.problems_per_step=12", "data.eval.1.size=98"),
]


def standing(rows):
    return {
        (row["step"], key)
        for row in rows
        for key, value in row.items()
        if key.startswith("alarms/") and value
    }


def test_a_reward_that_is_hacked_ends_the_run_and_the_rest_is_as_if_it_had_not(
    small, capsys, read_metrics, lasting
):
    key = "alarms/reward/length_budget"
    assert main(["train", str(small), *HACKED, "run.name=whole"]) == 0
    whole = read_metrics("runs/whole")
    (first, _), *_ = raised = sorted(standing(whole))
    assert raised == [(step, key) for step in range(first, 21, 4)] and first < 20
    [said] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("alarm")]
    assert said.startswith(f"alarm reward/length_budget: from step 0 to step {first} the held-out")
    assert said.endswith(f"; look at runs/whole/completions/step-{first:06d}.jsonl")
    before, now = whole[0], whole[first]
    assert now["eval/pass_rate"] < 0.1 < 0.9 < before["eval/pass_rate"]
    assert now["eval/reward/length_budget_mean"] > before["eval/reward/length_budget_mean"] + 0.1

    assert main(["train", str(small), *HACKED, "alarms.stop=true"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said.replace('whole', 'small')}. alarms.stop=true: the run")
    assert error.count("\n") == 1
    assert read_metrics("runs/small")[-1]["step"] == first
    assert Path(f"runs/small/checkpoints/step-{first:06d}").is_dir()
    # It still stands, and does not end the run again.
    assert main(["train", str(small), *HACKED, "alarms.stop=true"]) == 0
    assert "alarm" not in capsys.readouterr().out
    assert lasting(read_metrics("runs/small")) == lasting(whole)


def test_a_run_that_learns_raises_none(tmp_path, monkeypatch, repository, capsys, read_metrics):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(repository / "recipes" / "quickstart.yaml"), *HEALTHY]) == 0
    rows = read_metrics("runs/healthy")
    assert rows[-1]["eval/pass_rate"] > rows[0]["eval/pass_rate"] + 0.1
    assert {key for row in rows for key in row if key.startswith("alarms/")} == {
        *("alarms/reward/answer_tags", "alarms/overfit", "alarms/collapse"),
        *("alarms/length", "alarms/truncation", "alarms/one_answer", "alarms/duplicates"),
    }
    assert standing(rows) == set()
    assert not any(line.startswith("alarm") for line in capsys.readouterr().out.splitlines())
