"""Runs with a reward that hangs and one that crashes: they train on, and leave nothing behind."""

import json
import math

import psutil
import pytest

pytestmark = pytest.mark.slow

# On every problem whose answer ends with 0 to 4, its first completion hangs and another crashes.
HOSTILE = """
import os, time

def hostile(completion, answer):
    if answer[-1] in "012":
        time.sleep(1000)
    if answer[-1] in "345":
        os._exit(1)
    return 1.0
"""
SHORT = ["run.steps=2", "eval={every: 5, train_problems: 0}", "curriculum.refill.max_rounds=0"]


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_run_trains_on_with_a_reward_that_hangs_and_crashes(
    small, program, read_metrics, tmp_path, max_staleness
):
    (tmp_path / "hostile.py").write_text(HOSTILE, encoding="utf-8")
    rewards = [
        "{use: exact_answer}",
        "{use: hostile.py:hostile, channel: style, weight: 0.1, timeout_s: 0.2, on_error: zero}",
    ]
    marked = {"RL_LLM_TEST_MARK": str(tmp_path)}
    done = program(
        *("train", "small.yaml", *SHORT, f"rewards=[{', '.join(rewards)}]"),
        *("data.eval=[]", f"rollout.max_staleness={max_staleness}", "scoring.workers=3"),
        folder=tmp_path,
        **marked,
    )
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "runs" / "small")
    assert [row["step"] for row in rows] == [0, 1, 2][-len(rows) :]
    for row in rows[-2:]:
        failed = {key: row[key] for key in row if key.startswith("reward/hostile_failures/")}
        assert set(failed) <= {f"reward/hostile_failures/{kind}" for kind in ("timeout", "killed")}
        assert all(number % 4 == 0 for number in failed.values())  # All of a group, which is 4.
        assert row["train/completions_masked"] == 0
        assert math.isfinite(row["loss/policy"])
    said = "took longer than timeout_s=0.2, in hostile.py line 6, hostile"
    assert done.stderr.count(said) == 1
    left = [p for p in psutil.process_iter() if _environment(p).items() >= marked.items()]
    assert left == []


def _environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_the_same_run_inline_and_in_workers_has_the_same_numbers(
    small, program, read_metrics, tmp_path
):
    def numbers(name, inline):
        rewards = f"[{{use: exact_answer, inline: {inline}}}, {{use: answer_tags, weight: 0.1, "
        rewards += f"channel: format, inline: {inline}}}]"
        done = program(
            *("train", "small.yaml", *SHORT, f"run.name={name}", f"rewards={rewards}"),
            folder=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        rows = read_metrics(tmp_path / "runs" / name)
        timed = ("step_s", "time/")
        return [
            {k: v for k, v in row.items() if not k.startswith(timed) and not k.endswith("_per_s")}
            for row in rows
        ]

    inline = numbers("inline", "true")
    assert len(inline) == 3
    assert json.dumps(numbers("workers", "false")) == json.dumps(inline)
