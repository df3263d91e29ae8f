"""Every algorithm through the loop with a real model: what it learns from, and what it leaves."""

import json
import math

import pytest

from rl_llm.algorithms import ALGORITHMS
from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.config import load_recipe
from rl_llm.policy import Ranks
from rl_llm.policy.adapters import CRITIC, POLICY, adapter_parameters
from rl_llm.trainer import RunFolder, Trainer

# The model solves about half of the sums of five digits.
RECIPE = """\
run: {name: small, steps: 2, output_dir: runs}
model: {path: data/models/carry-adder}
lora: {rank: 2, alpha: 4.0}
data:
  train: [{use: arithmetic, levels: [5], size: 24, split: train, seed: 1}]
  max_prompt_tokens: 32
rewards: [{use: exact_answer}]
curriculum: {sampler: {name: uniform}}
rollout: {problems_per_step: 3, group_size: 4, max_new_tokens: 64}
optim: {lr: 1.0e-3, tokens_per_micro_batch: 1024}
tracking: []
"""

# Worth the same whatever is answered: all rewards of a group are equal, those of a step are not.
PARITY = """\
def parity(completion: str, answer: str) -> float:
    return float(int(answer) % 2)
"""

WITH_CRITIC = ("a2c", "ppo")
WITH_GROUP_BASELINE = [name for name, build in ALGORITHMS.items() if build().has_group_baseline]
WITHOUT_GROUP_BASELINE = [name for name in ALGORITHMS if name not in WITH_GROUP_BASELINE]

EQUAL_GROUPS = ["rewards=[{use: parity.py:parity}]", "run.steps=1", "rollout.group_size=2"]


class Rows(SilentWatcher):
    """Keeps the row of every step."""

    def __init__(self):
        self.rows = []

    def stepped(self, row):
        self.rows.append(row)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return `(name, *overrides) -> (rows, adapters that moved)` of a run of an algorithm."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "parity.py").write_text(PARITY, encoding="utf-8")

    def run(name, *overrides, warmup_steps=0):
        warmup = f", critic_warmup_steps: {warmup_steps}" if name in WITH_CRITIC else ""
        algorithm = f"algorithm={{name: {name}{warmup}}}"
        recipe = load_recipe(tmp_path / "small.yaml", [algorithm, *overrides])
        ranks = Ranks()
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        folder, watcher = RunFolder(tmp_path / name), Rows()
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=watcher)
        before = weights_of(parts)
        assert Trainer(parts).run()
        after = weights_of(parts)
        return watcher.rows, {
            adapter
            for adapter in after
            if any((after[adapter][key] != value).any() for key, value in before[adapter].items())
        }

    return run


def weights_of(parts):
    """Return the weights of both adapters, by adapter and by name; the critic's may be none."""
    return {
        adapter: {
            key: parameter.detach().clone()
            for key, parameter in adapter_parameters(parts.policy._model, adapter).items()
        }
        for adapter in (POLICY, CRITIC)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_for_two_steps(train, name):
    # A critic's adapter moves from its second update on: a head of zeros lets no gradient through.
    rows, moved = train(name, warmup_steps=1)
    assert moved == ({POLICY, CRITIC} if name in WITH_CRITIC else {POLICY})
    assert [row["train/trained_tokens"] > 0 for row in rows] == [True, True]
    assert [row["optim/grad_norm"] > 0 for row in rows] == [name not in WITH_CRITIC, True]
    assert all(math.isfinite(row["loss/policy"]) for row in rows)
    assert rows[-1]["optim/skipped_updates"] == 0
    assert ("critic/explained_variance" in rows[0]) is (name in WITH_CRITIC)


@pytest.mark.parametrize("name", WITHOUT_GROUP_BASELINE)
def test_without_a_group_baseline_no_gate_stands_by_default_and_equal_rewards_teach(train, name):
    (row,), moved = train(name, *EQUAL_GROUPS)
    assert row["train/informative_share"] == 0 and 0 < row["train/reward_mean"] < 1
    assert row["train/groups_admitted"] == 3
    assert row["train/trained_tokens"] > 0 and row["optim/grad_norm"] > 0
    assert POLICY in moved


@pytest.mark.parametrize("name", WITH_GROUP_BASELINE)
def test_with_a_group_baseline_equal_rewards_are_dropped_and_without_the_gate_they_teach_nothing(
    train, name
):
    for gates, num_admitted in ((), 0), (["curriculum.gates=[]"], 3):
        (row,), moved = train(name, *EQUAL_GROUPS, *gates)
        assert row["train/groups_admitted"] == num_admitted
        assert row["train/trained_tokens"] == row["optim/grad_norm"] == 0
        assert moved == set()


def test_gates_that_are_asked_for_stand_whatever_the_algorithm(train):
    gates = "curriculum.gates=[{name: informative, of: correct}]"
    (row,), moved = train("ppo", *EQUAL_GROUPS, gates)
    assert row["train/groups_admitted"] == row["train/trained_tokens"] == 0
    assert moved == set()


@pytest.mark.slow
def test_a_critic_whose_advice_is_worse_than_none_is_told_of(train, monkeypatch):
    """A learning rate that is far too high: from the second step on its values are nowhere near."""
    heard = []
    monkeypatch.setattr(Rows, "said", lambda self, message: heard.append(message))
    rows, _ = train("ppo", "run.steps=6", "algorithm.critic_lr=0.5")
    assert sum(row["critic/explained_variance"] < 0 for row in rows) >= 4
    assert sum("explained variance has been below 0" in message for message in heard) == 1


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_samples_give_a_completion_one_advantage_only_without_a_critic(train, tmp_path, name):
    train(name, "run.steps=1")
    lines = (tmp_path / name / "completions").glob("*.jsonl")
    rows = [json.loads(line) for file in lines for line in file.read_text().splitlines()]
    given = [row["advantage"] for row in rows if row["split"] == "train"]
    assert given and {each is None for each in given} == {name == "ppo"}
