"""Groups of equal rewards beside a KL penalty: no gradient of their own, and no part in any
denominator."""

import copy
from pathlib import Path

import pytest
import torch

from rl_llm.algorithms import ALGORITHMS
from rl_llm.plugins import load_module
from rl_llm.policy import score_batch, train_groups
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key

engines = load_module(Path(__file__).with_name("engines.py"))

WITH_A_GROUP_BASELINE = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"]
IN_LOSS, IN_REWARD = {"placement": "loss"}, {"placement": "reward"}


def scored(seed, rewards):
    """Return a group of random tokens, 3 to 7 of them in a completion."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return tuple(torch.randint(2, 23, (count,), generator=generator).tolist())

    completions = tuple(
        Completion(
            token_ids=ids(length),
            logprobs=(-1.0,) * length,
            text="",
            finish_reason="stop",
            policy_version=0,
        )
        for length in torch.randint(3, 8, (len(rewards),), generator=generator).tolist()
    )
    prompt = str(seed)
    problem = Problem(key=content_key(prompt, "a"), prompt=prompt, answer="a")
    return ScoredGroup(
        group=Group(problem=problem, prompt_ids=ids(4), completions=completions),
        scores=tuple(Score(total=r, parts={"right": r}, correct=r == 1.0) for r in rewards),
    )


MIXED = [scored(1, [1.0, 0.0, 0.0]), scored(2, [0.0, 1.0, 1.0, 0.3])]
# The mean of six times 0.7 is not 0.7 in binary, nor that of seven times 0.1 0.1.
EQUAL = [scored(3, [0.7] * 6), scored(4, [0.0] * 3), scored(5, [0.1] * 7)]


def gradient_of(base, groups, name, kl, monkeypatch):
    """Return the whole gradient of an update with beta .5, before clipping, by parameter."""
    algorithm = ALGORITHMS[name]()
    engine = engines.engine_for(copy.deepcopy(base), algorithm=algorithm, kl=kl)
    advantages_PG = algorithm.advantages(score_batch(groups, max_response_tokens=16))
    caught = {}

    def catch(*_):
        named = engine._model.named_parameters()
        caught.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        return torch.tensor(1.0)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", catch)
        kept = train_groups(groups, advantages_PG, algorithm)
        facts = engines.update(engine, kept, beta=0.5, lr=0.0)
    return caught, facts


@pytest.mark.parametrize("kl", [IN_LOSS, IN_REWARD], ids=["loss", "reward"])
@pytest.mark.parametrize("name", WITH_A_GROUP_BASELINE)
def test_a_batch_with_groups_of_equal_rewards_has_the_gradient_of_the_batch_without_them(
    tiny_llama, monkeypatch, name, kl
):
    without, facts = gradient_of(tiny_llama, MIXED, name, kl, monkeypatch)
    together = [EQUAL[0], MIXED[0], EQUAL[1], MIXED[1], EQUAL[2]]
    among, facts_among = gradient_of(tiny_llama, together, name, kl, monkeypatch)
    assert len(without) == 28 and any(gradient.any() for gradient in without.values())
    assert without.keys() == among.keys()
    for key, gradient in without.items():
        assert torch.equal(gradient, among[key]), key
    assert facts.ref_nats_per_token > 0
    assert facts == facts_among  # the same tokens, the same loss, the same divergence


@pytest.mark.parametrize("kl", [IN_LOSS, IN_REWARD], ids=["loss", "reward"])
def test_groups_of_equal_rewards_alone_are_no_pull_towards_the_reference(
    tiny_llama, monkeypatch, kl
):
    gradient, facts = gradient_of(tiny_llama, EQUAL, "grpo", kl, monkeypatch)
    assert gradient == {}
    assert facts.trained_tokens == 0


@pytest.mark.parametrize("name", ["reinforce", "reinforce_pp", "a2c", "ppo"])
def test_without_a_group_baseline_they_are_learnt_from(tiny_llama, monkeypatch, name):
    _, facts = gradient_of(tiny_llama, EQUAL, name, IN_LOSS, monkeypatch)
    assert facts.trained_tokens == sum(
        len(completion.token_ids) for group in EQUAL for completion in group.group.completions
    )


def test_the_two_kinds_are_all_the_algorithms_that_there_are():
    kinds = {name: build().has_group_baseline for name, build in ALGORITHMS.items()}
    assert sorted(name for name, compares in kinds.items() if compares) == sorted(
        WITH_A_GROUP_BASELINE
    )
    assert sorted(name for name, compares in kinds.items() if not compares) == [
        *("a2c", "ppo", "reinforce", "reinforce_pp"),
    ]
