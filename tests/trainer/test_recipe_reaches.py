"""Through the loop with a real model: what the recipe says reaches algorithms and controllers."""

from dataclasses import replace

import pytest

from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.config import load_recipe
from rl_llm.policy import Ranks
from rl_llm.trainer import RunFolder, Trainer

RECIPE = """\
run: {name: small, steps: 1, output_dir: runs}
model: {path: data/models/carry-adder}
lora: {rank: 2, alpha: 4.0}
data:
  train: [{use: arithmetic, levels: [5], size: 24, split: train, seed: 1}]
  max_prompt_tokens: 32
rewards:
  - {use: exact_answer}
  - {use: answer_tags, weight: 0.5, channel: format}
curriculum: {sampler: {name: uniform}, gates: []}
rollout: {problems_per_step: 2, group_size: 4, max_new_tokens: 64}
optim: {lr: 1.0e-3, tokens_per_micro_batch: 1024, epochs: 2}
tracking: []
"""


class Listening:
    """Stands in front of a controller and keeps the facts."""

    def __init__(self, controller):
        self._controller = controller
        self.seen = []

    def __getattr__(self, name):
        return getattr(self._controller, name)

    def observe(self, facts):
        self.seen.append(facts)
        self._controller.observe(facts)


@pytest.fixture
def train(tmp_path):
    """Return `(*overrides) -> (the batch that was scored, its advantages, the facts of the KL)` of
    a step."""
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")

    def run(*overrides):
        recipe = load_recipe(file, overrides)
        ranks = Ranks()
        model = load_model(recipe, ranks)
        data = load_data(recipe, model.encoder)
        folder = RunFolder(tmp_path / "run")
        parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
        heard = []

        def advantages(scored):
            heard.append((scored, parts.algorithm.advantages(scored)))
            return heard[-1][1]

        algorithm = replace(parts.algorithm, advantages=advantages)
        listening = Listening(parts.kl)
        Trainer(replace(parts, algorithm=algorithm, kl=listening)).take_one_step()
        ((scored, found_PG),) = heard
        (facts,) = listening.seen
        return scored, found_PG, facts

    return run


@pytest.mark.parametrize("against", ["ref", "old"])
def test_a_controller_is_told_what_the_penalty_is_against(train, against):
    kl = f"kl={{against: {against}, controller: {{name: constant, beta: 0.1}}}}"
    _, _, facts = train(kl)
    assert facts.against == against
    assert facts.nats_per_token == getattr(facts, f"{against}_nats_per_token")


def test_normalise_then_sum_is_told_the_rewards_of_the_recipe_and_their_weights(train):
    scored, _, _ = train("algorithm={name: grpo, combine: normalise_then_sum}")
    assert scored.weights_R.tolist() == [1.0, 0.5]
    assert scored.parts_PGR.shape == (2, 4, 2)
    assert scored.parts_PGR.sum(2).tolist() == scored.rewards_PG.tolist()
    assert scored.parts_PGR[:, :, 1].max() == 0.5


def test_dapo_takes_the_length_limit_from_the_recipe_though_no_completion_ran_into_it(train):
    # Sums of one digit take few tokens; a fifth of 64 would cost nothing below 52.
    short = "data.train=[{use: arithmetic, levels: [1], size: 24, split: train, seed: 1}]"
    cache = "algorithm={name: dapo, overlong_cache: 64}"
    scored, found_PG, _ = train(short, cache)
    assert scored.max_response_tokens == 64 > scored.lengths_PG.max()
    assert scored.rewards_PG.min() == scored.rewards_PG.max()
    # All are right, so that only lengths could tell them apart, from the first token on.
    lengths_PG = scored.lengths_PG
    differ_P = lengths_PG.amax(1) > lengths_PG.amin(1)
    assert ((found_PG != 0).any(1) == differ_P).all()
