"""The benchmark of all algorithms: its explained variances by hand, and what it reports."""

import importlib
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rl_llm.algorithms import ALGORITHMS
from rl_llm.cli.parts import build_algorithm
from rl_llm.policy.pack import TrainGroup, TrainRow, collate

SCRIPTS = Path(__file__).parents[2] / "scripts"

CHILD = """
import json, pathlib, sys
spec, out = json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
after = 0.6 if spec["arm"] == "gspo" else 0.9
curve = {"step": [0, 8, 24], "pass_rate": [0.5, 0.7, after]}
if spec["arm"] in ("ppo", "a2c"):
    critic = 0.4 if spec["arm"] == "ppo" else 0.1
    curve |= {"critic": [0.0, 0.2, critic + 0.2 * spec["seed"]], "prompt_mean": [0.5] * 3}
row = {**spec, "settings": "x", "curve": curve, "completions": 6144, "wall_s": 2.0}
out.write_text(json.dumps(row))
"""


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        modules = {
            name: importlib.import_module(f"parts.algorithms.{name}") for name in ("arms", "run")
        }
        modules["checkout"] = importlib.import_module("parts.shared.checkout")
        yield SimpleNamespace(main=importlib.import_module("bench_algorithms"), **modules)


@pytest.fixture
def sandbox(scripts, tmp_path, monkeypatch):
    """The driver with a child that takes no time, and documents of its own."""
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    document = tmp_path / "benchmarks.md"
    document.write_text("head\n<!-- algorithms:begin -->\nold\n<!-- algorithms:end -->\ntail\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(scripts.main, "CHILD", child.stem)
    monkeypatch.setattr(scripts.main, "RESULT", tmp_path / "algorithms.json")
    monkeypatch.setattr(scripts.main, "DOCUMENT", document)
    monkeypatch.setattr(scripts.arms.Spec, "settings", "x")
    runs = tmp_path / "runs"
    return SimpleNamespace(
        document=document,
        result=tmp_path / "algorithms.json",
        call=lambda *words: scripts.main.main([*words, "--runs", str(runs)]),
    )


def batch(*groups):
    """One micro-batch; a row is (its total, its number of tokens)."""
    return collate(
        [
            TrainGroup(
                prompt_ids=(1, 2),
                rows=tuple(
                    TrainRow(
                        token_ids=(3,) * length, engine_logprobs=(0.0,) * length, advantage=total
                    )
                    for total, length in rows
                ),
            )
            for rows in groups
        ],
        pad_id=0,
        device=torch.device("cpu"),
    )


def test_every_algorithm_is_run_in_the_quickstarts_budget(scripts):
    assert list(scripts.arms.ALGORITHMS) == list(ALGORITHMS)
    for name in ALGORITHMS:
        recipe = scripts.arms.Spec(arm=name, seed=2).recipe()
        algorithm = build_algorithm(recipe)
        assert algorithm.name == name
        assert (algorithm.critic is not None) == (name in scripts.arms.WITH_CRITIC)
        assert (recipe.run.steps, recipe.rollout.problems_per_step) == (24, 32)
        assert (recipe.rollout.group_size, recipe.run.seed) == (8, 2)
        assert recipe.eval.samples_per_problem == recipe.rollout.group_size


def test_the_mean_of_the_others_leaves_each_row_out_of_its_own(scripts):
    totals_B = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    means_B = scripts.run.mean_of_others(totals_B, torch.tensor([3, 2]))
    assert means_B.tolist() == [0.25, 0.75, 0.5, 0.0, 1.0]


def test_variances_are_explained_over_tokens_not_over_responses(scripts):
    # Returns 1, 1, 1 of the first response and 0 of the second: mean 3/4, variance 3/16. Errors of
    # the critic: .5, 0, 0 and 0: mean 1/8, variance 1/16 - 1/64 = 3/64. So 1 - 1/4.
    judged = batch([(1.0, 3), (0.0, 1)])
    values_BT = torch.tensor([[0.5, 1.0, 1.0], [0.0, 7.0, 7.0]])
    found = scripts.run.explained_variances([(judged, values_BT)])
    assert found.critic == pytest.approx(0.75)
    # The other's reward is 0 for three tokens and 1 for one: errors 1, 1, 1, -1, variance 3/4.
    assert found.prompt_mean == pytest.approx(1 - (3 / 4) / (3 / 16))


def test_variances_are_those_of_all_batches_together(scripts):
    # Returns 1, 1 and 0, 0, one token each; the prompt mean is right everywhere, the critic says
    # the same everywhere. Within either batch alone, nothing varies.
    batches = [batch([(1.0, 1), (1.0, 1)]), batch([(0.0, 1), (0.0, 1)])]
    found = scripts.run.explained_variances((each, torch.full((2, 1), 0.3)) for each in batches)
    assert found.prompt_mean == pytest.approx(1.0)
    assert found.critic == pytest.approx(0.0)


def test_a_prediction_that_is_worse_than_a_constant_explains_less_than_nothing(scripts):
    # Returns 1 and 0, values 0 and 1: errors 1 and -1, four times the variance.
    found = scripts.run.explained_variances(
        [(batch([(1.0, 1), (0.0, 1)]), torch.tensor([[0.0], [1.0]]))]
    )
    assert found.critic == pytest.approx(-3.0)


def test_equal_returns_are_explained_by_nothing(scripts):
    found = scripts.run.explained_variances(
        [(batch([(1.0, 2), (1.0, 2)]), torch.tensor([[0.0, 1.0], [2.0, 3.0]]))]
    )
    assert (found.critic, found.prompt_mean) == (0.0, 0.0)


def test_rewards_of_single_tokens_count_from_where_they_are_still_to_come(scripts):
    # Rewards .5 and then the rest of 1 on the last token: 1 is to come before the first token, .5
    # before the second; the other response earns nothing, with 2 tokens. These values are exact.
    rows = [((0.5, 0.0), 1.0), ((0.0, 0.0), 0.0)]
    group = TrainGroup(
        prompt_ids=(1,),
        rows=tuple(
            TrainRow(
                token_ids=(3, 3), engine_logprobs=(0.0, 0.0), advantage=total, token_rewards=rewards
            )
            for rewards, total in rows
        ),
    )
    judged = collate([group], pad_id=0, device=torch.device("cpu"))
    values_BT = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    assert scripts.run.explained_variances([(judged, values_BT)]).critic == pytest.approx(1.0)


def test_gains_and_critics_are_judged_by_their_means_over_seeds(sandbox, scripts):
    # The critic of ppo is at .2, and then at .4 and .6, so .5; gspo gains .1, which is too little.
    words = ("--seeds", "0", "1", "--arms", "ppo", "gspo", "grpo", "a2c")
    assert sandbox.call(*words) == 1
    tree = json.loads(sandbox.result.read_text())
    met = {arm: entry["met"] for arm, entry in tree["arms"].items()}
    assert met == {"grpo": True, "gspo": False, "a2c": True, "ppo": True}
    assert [point["critic"] for point in tree["arms"]["ppo"]["explained"]] == [0.2, 0.5]
    text = sandbox.document.read_text()
    assert text.startswith("head\n") and text.endswith("\ntail\n") and "old" not in text
    assert "| `gspo` | 2 | 0.500 | 0.600 | +0.100 ± 0.000 | 0.15 | no |" in text
    assert "| `ppo` | 24 | 0.900 | 0.40, 0.60 | 0.50 | 0.50 | 0.3 |" in text
    assert "| `a2c` | 8 | 0.700 | 0.20, 0.20 | 0.20 | 0.50 | - |" in text


def test_a_critic_is_judged_where_it_explains_most_and_not_before_the_first_step(scripts):
    row = {"arm": "ppo", "before": 0.5, "after": 0.9, "gain": 0.4, "wall_s": 1.0}
    for critics, met in (([0.9, 0.3, 0.1], False), ([0.0, 0.31, 0.1], True)):
        curve = {"step": [0, 8, 24], "critic": critics}
        curve |= {"pass_rate": [0.5, 0.7, 0.9], "prompt_mean": [0.6] * 3}
        assert scripts.main.arm_figures([row | {"curve": curve}])["ppo"]["met"] is met


def test_all_targets_met_is_an_exit_code_of_zero(sandbox):
    assert sandbox.call("--seeds", "0", "--arms", "grpo", "ppo") == 0
    assert sandbox.call("--table") == 0


@pytest.mark.slow
def test_a_run_of_ppo_says_what_its_critic_explains_of_held_out_rewards(scripts, tmp_path):
    small = scripts.arms.Spec(arm="ppo", seed=0, steps=1)
    out = tmp_path / "row.json"
    words = ["run", json.dumps(asdict(small)), str(out)]
    command = [*scripts.checkout.program("parts.algorithms.run"), *words]
    done = subprocess.run(
        command,
        env=scripts.checkout.environment(),
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text(encoding="utf-8"))
    curve = row["curve"]
    assert curve["step"] == [0, 1] and row["completions"] == 32 * 8
    assert curve["critic"][0] == 0.0  # A new critic says 0 everywhere.
    assert curve["critic"][1] != 0.0
    # Levels of 1 to 8 digits: what others of a prompt are worth tells much before any training.
    assert curve["prompt_mean"][0] > 0.3
    # The step is warm-up: the policy, and with it what it earns, stays as it is.
    assert curve["pass_rate"][0] == curve["pass_rate"][1]
