"""Held-out accuracy reaches the reference that is to be refreshed when it stagnates."""

from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.config import load_recipe
from rl_llm.policy import Ranks
from rl_llm.trainer import RunFolder, Trainer

# The model solves no sum of eight digits: no evaluation behind the first is a new best.
RECIPE = """\
run: {name: small, steps: 2, output_dir: runs}
model: {path: data/models/carry-adder}
lora: {rank: 2, alpha: 4.0}
data:
  train: [{use: arithmetic, levels: [8], size: 8, split: train, seed: 1}]
  eval: [{use: arithmetic, levels: [8], size: 2, split: eval, seed: 1}]
  max_prompt_tokens: 32
rewards: [{use: exact_answer}]
rollout: {problems_per_step: 2, group_size: 2, max_new_tokens: 64}
kl:
  controller: {name: constant, beta: 0.1}
  reference: {mode: snapshot, refresh_on_stagnation: 1}
eval: {every: 1}
tracking: []
"""


class Told(SilentWatcher):
    """Keeps rows and messages."""

    def __init__(self):
        self.rows, self.messages = [], []

    def stepped(self, row):
        self.rows.append(row)

    def said(self, message):
        self.messages.append(message)


def test_an_evaluation_without_a_new_best_refreshes_the_reference_behind_the_next_step(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    recipe, ranks = load_recipe(file), Ranks()
    model = load_model(recipe, ranks)
    data = load_data(recipe, model.encoder)
    folder, watcher = RunFolder(tmp_path / "run"), Told()
    parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=watcher)
    assert Trainer(parts).run()
    # Evaluated before step 1 (the best so far), behind it (none), and behind step 2 (none).
    reference = parts.policy.reference.state_dict()
    assert reference["num_refreshed"] == 1 and reference["is_due"]
    assert [row["kl/reference_refreshes"] for row in watcher.rows] == [0, 1]
    refreshed = [message for message in watcher.messages if "reference refreshed" in message]
    assert refreshed == ["reference refreshed: KL is to the policy of step 2 from now on"]
