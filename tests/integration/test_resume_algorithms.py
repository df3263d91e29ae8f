"""Critics, references and controllers go on exactly where a run was stopped."""

from itertools import pairwise

import pytest
import torch

from rl_llm.cli.main import main

pytestmark = pytest.mark.slow

TINY = [
    "run.steps=5",
    "data.train.0.levels=[5, 6]",
    "data.eval.0.levels=[5, 6]",
    "data.eval.0.size=6",
    "curriculum={sampler: {name: stopping.py:Posterior}}",
    "rollout={problems_per_step: 3, group_size: 4, max_new_tokens: 80}",
    "eval={every: 5}",
    "checkpoint={every: 5}",
    "tracking=[jsonl]",
]

# Stopped while the critic learns alone, which it does for 3 steps.
PPO = [
    "algorithm={name: ppo, critic_warmup_steps: 3}",
    "kl={placement: reward, controller: {name: target, beta: 0.05, nats_per_token: 0.01}}",
    "optim={lr: 1.0e-3, tokens_per_micro_batch: 1024, epochs: 2}",
]

AGAINST_OLD = [
    "algorithm={name: grpo}",
    "kl={against: old, stop_at_old: 7.0e-4, controller: {name: ppo_penalty, nats_per_token: 2e-4}}",
    "rollout.problems_per_step=6",
    "optim={lr: 2.0e-3, tokens_per_micro_batch: 1024, updates_per_batch: 2}",
]

# Every evaluation without a new best is followed by a refresh, one step later.
SNAPSHOT = [
    "algorithm={name: dapo}",
    "kl.reference={mode: snapshot, refresh_on_stagnation: 1}",
    "kl.controller={name: target, beta: 0.05, nats_per_token: 0.001}",
    "kl.spike=2",
    "optim={lr: 1.0e-3, tokens_per_micro_batch: 1024}",
    "eval.every=2",
]

AVERAGE = [
    "algorithm={name: grpo}",
    "kl={controller: {name: constant, beta: 0.1}, reference: {mode: ema, decay: 0.8}}",
    "optim={lr: 1.0e-3, tokens_per_micro_batch: 1024}",
]


@pytest.fixture
def whole_and_resumed(tmp_path, prepare, monkeypatch, assert_same_run, read_metrics):
    """Return `(recipe, stop) -> (rows, state)`: compare a run that was stopped in step `stop` with
    one that was not; return the latter's rows, and the policy's state at its end."""

    def compare(recipe, *, stop):
        for name in ("whole", "stopped"):
            monkeypatch.chdir(prepare(tmp_path / name))
            if name == "stopped":
                monkeypatch.setenv("STOP", f"{stop} SIGTERM")
                assert main(["train", "small.yaml", *TINY, *recipe]) == 143
                monkeypatch.delenv("STOP")
            assert main(["train", "small.yaml", *TINY, *recipe]) == 0
        whole = tmp_path / "whole" / "runs" / "small"
        assert_same_run(tmp_path / "stopped" / "runs" / "small", whole)
        return read_metrics(whole)[1:], torch.load(
            whole / "checkpoints" / "step-000005" / "trainer" / "policy.pt"
        )

    return compare


def column(rows, key):
    return [row[key] for row in rows]


def test_ppo_resumes_within_the_critics_warm_up(whole_and_resumed):
    rows, state = whole_and_resumed(PPO, stop=2)
    moved = [norm > 0 for norm in column(rows, "optim/grad_norm")]
    assert moved == [False, False, False, True, True]
    assert all(norm > 0 for norm in column(rows, "critic/grad_norm"))
    assert len(set(column(rows, "critic/explained_variance"))) == 5
    assert column(rows, "kl/old_nats_per_token")[3] > 0  # the second epoch of the first move
    # While the policy stands still, a KL of 0 is no reason to loosen beta.
    assert column(rows, "kl/beta") == pytest.approx([0.05] * 4 + [0.05 * 0.94])
    assert state["critic"]["head"]["weight"].any()


def test_a_penalty_against_old_and_early_stops_resume(whole_and_resumed):
    rows, _ = whole_and_resumed(AGAINST_OLD, stop=2)
    left_out = column(rows, "kl/updates_left_out")
    assert sum(left_out[2:]) > 0 and sum(left_out) < 5
    for row, later in pairwise(rows):
        if row["kl/updates_left_out"]:  # the policy went too far: it is held more, not less
            assert later["kl/beta"] == 2 * row["kl/beta"]
    assert column(rows, "kl/ref_nats_per_token") == [None] * 5  # nothing asks for the reference


def test_a_snapshot_that_stagnation_refreshes_resumes(whole_and_resumed):
    """The pass rate after step 2 is no new best, that after step 4 is, that after step 5 is not:
    the run stops with a refresh due, which happens behind step 3, and ends with another due."""
    rows, state = whole_and_resumed(SNAPSHOT, stop=2)
    assert [rate > 0.5 for rate in (rows[1]["eval/pass_rate"], rows[3]["eval/pass_rate"])] == [
        False,
        True,
    ]
    assert state["reference"]["num_refreshed"] == 1 and state["reference"]["is_due"]
    assert {moments["step"].item() for moments in state["optimizer"]["state"].values()} == {2}
    divergences = column(rows, "kl/ref_nats_per_token")
    assert divergences[2] > 0 == divergences[3] < divergences[4]


def test_a_moving_average_resumes(whole_and_resumed):
    rows, state = whole_and_resumed(AVERAGE, stop=3)
    divergences = column(rows, "kl/ref_nats_per_token")
    assert divergences[0] == 0 and all(nats > 0 for nats in divergences[1:])
    up = [value for name, value in state["reference"]["adapter"].items() if "lora_B" in name]
    assert up and all(value.any() for value in up)
