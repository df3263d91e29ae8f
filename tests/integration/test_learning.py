"""The quickstart and PPO's recipe, shortened, teach the model."""

from dataclasses import replace
from functools import wraps

import pytest
import torch

from rl_llm.algorithms import ALGORITHMS
from rl_llm.cli.main import main
from rl_llm.plugins import load_module

SHORTER = [
    "run.steps=10",
    "data.eval.1.size=292",
    "eval.every=10",
    "checkpoint.every=10",
    "tracking=[jsonl]",
]


@pytest.fixture
def script(repository):
    """What judges the whole quickstart judges the short one too."""
    return load_module(repository / "scripts" / "measure_quickstart.py")


@pytest.fixture
def train_and_measure(script, repository, tmp_path, monkeypatch, read_metrics):
    def train(recipe="quickstart", name="quickstart", overrides=SHORTER):
        monkeypatch.chdir(tmp_path)
        assert main(["train", str(repository / "recipes" / f"{recipe}.yaml"), *overrides]) == 0
        return script.measure(read_metrics(f"runs/{name}"))

    return train


@pytest.mark.slow
def test_the_quickstart_gains_a_quarter_and_solves_a_level_that_it_could_not(
    script, train_and_measure
):
    result = train_and_measure()
    assert script.faults(result) == []
    assert result["gain"] >= 0.25
    # Seven digits: 0.05 before, 0.95 after.
    assert result["levels_before"]["7"] < 0.1
    assert result["levels_after"]["7"] > 0.5


@pytest.mark.slow
def test_ppo_gains_what_is_asked_of_an_algorithm_in_a_quarter_of_its_recipes_budget(
    train_and_measure,
):
    # 14 steps of 24 problems, for 24 of 64; the first 4 teach the critic alone.
    overrides = ["run.steps=14", "rollout.problems_per_step=24", "data.eval.1.size=140"]
    overrides += ["eval.every=14", "checkpoint.every=14"]
    result = train_and_measure("carry-adder/ppo-arithmetic", "ppo-arithmetic", overrides)
    assert result["gain"] >= 0.15


@pytest.mark.slow
def test_the_quickstart_with_zero_advantages_learns_nothing(script, train_and_measure, monkeypatch):
    grpo = ALGORITHMS["grpo"]

    @wraps(grpo)
    def blind(**options):
        return replace(
            grpo(**options), advantages=lambda scored: torch.zeros_like(scored.rewards_PG)
        )

    monkeypatch.setitem(ALGORITHMS, "grpo", blind)
    result = train_and_measure()
    assert len(script.faults(result)) == 2
    assert result["gain"] == 0.0


def test_a_gain_of_less_than_a_quarter_is_a_fault(script):
    result = {"gain": 0.24, "levels_before": {"8": 0.05}, "levels_after": {"8": 0.6}}
    assert script.faults(result) == ["the pass rate gained 0.240, less than 0.25"]
    assert script.faults(result | {"gain": 0.25}) == []


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.9), (0.0, 0.5)])
def test_a_level_counts_from_below_a_tenth_to_above_a_half(script, before, after):
    result = {"gain": 0.3, "levels_before": {"8": before}, "levels_after": {"8": after}}
    assert script.faults(result) == ["no level that starts below 0.1 ends above 0.5"]


def test_the_measured_time_is_of_steps_evaluations_and_checkpoints(script):
    rows = [
        {"step": 0, "eval/pass_rate": 0.5, "eval/pass_rate/level=8": 0.0, "time/eval_s": 2.0},
        {"step": 1, "step_s": 3.0, "time/update_s": 1.0, "rollout/completions": 64},
        {
            "step": 2,
            "step_s": 3.0,
            "rollout/completions": 128,
            "eval/pass_rate": 0.75,
            "eval/pass_rate/level=8": 0.625,
            "time/eval_s": 2.0,
            "time/checkpoint_s": 0.5,
        },
    ]
    assert script.measure(rows) == {
        "before": 0.5,
        "after": 0.75,
        "gain": 0.25,
        "levels_before": {"8": 0.0},
        "levels_after": {"8": 0.625},
        "training_s": 10.5,
        "completions": 128,
    }
