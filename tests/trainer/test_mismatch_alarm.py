"""When a person hears that what draws the tokens is far from what learns from them."""

import math
from dataclasses import fields

import pytest

from rl_llm.policy import UpdateFacts
from rl_llm.trainer.metrics import update_row
from rl_llm.trainer.mismatch_alarm import MismatchAlarm


def step(mean=math.nan, *, share=1.0, tokens=100):
    """Return the facts of a step; without a mean it was one of stale rows alone."""
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    given = {
        "mismatch_mean_nats": mean,
        "effective_sample_share": share,
        "trained_tokens": tokens,
        "critic": None,
    }
    return UpdateFacts(**(blank | given))


def heard(*steps, threshold=0.1):
    """Return in which of some steps, counted from 1, something is said."""
    alarm = MismatchAlarm(threshold)
    said = [alarm(facts, dtype="float32", engine="vllm") for facts in steps]
    assert all(len(messages) <= 1 for messages in said)
    return [number for number, messages in enumerate(said, 1) if messages]


def said(facts, *, dtype="float32", engine="vllm", threshold=0.1):
    (message,) = MismatchAlarm(threshold)(facts, dtype=dtype, engine=engine)
    return message


def test_it_speaks_once_and_again_only_after_it_was_below():
    assert heard(*map(step, (0.1, 0.11, 0.5, 0.2, 0.09, 0.3, 0.3))) == [2, 6]


def test_without_a_threshold_it_never_speaks():
    assert heard(step(5.0), step(share=0.01), threshold=None) == []


def test_a_step_that_trained_nothing_counts_for_nothing():
    nothing = step(math.nan, share=math.nan, tokens=0)
    assert heard(nothing, step(0.5), nothing, step(0.5)) == [2]


def test_of_stale_rows_alone_it_watches_the_effective_share():
    thin = step(share=0.49)
    assert heard(step(share=0.5), thin, thin, step(share=0.6), thin) == [2, 5]
    assert heard(step(0.01, share=0.2)) == []  # Some rows are fresh, and agree.


def test_a_step_of_stale_rows_does_not_end_a_mismatch():
    assert heard(step(0.5), step(share=0.9), step(0.5)) == [1]


def test_the_message_names_the_value_the_threshold_and_the_engine():
    assert said(step(0.3141), threshold=0.25).startswith(
        "engine mismatch: the mean of |log old - log mu| over the step's tokens is 0.314 nats, "
        "above rollout.mismatch_alarm_nats=0.25: the engine vllm and the trainer disagree about "
        "the same weights. Usual causes: "
    )


@pytest.mark.parametrize(
    ("dtype", "engine", "named"),
    [
        ("float32", "transformers", set()),
        ("bfloat16", "transformers", {"rounding"}),
        ("float32", "vllm", {"vllm.publish"}),
        ("bfloat16", "vllm", {"rounding", "vllm.publish"}),
        ("bfloat16", "vllm_server", {"rounding", "--dtype bfloat16", "processed_logprobs"}),
    ],
)
def test_the_causes_are_those_that_the_engine_and_the_precision_can_have(dtype, engine, named):
    message = said(step(0.5), dtype=dtype, engine=engine)
    hints = ("rounding", "vllm.publish", "--dtype bfloat16", "processed_logprobs")
    assert {hint for hint in hints if hint in message} == named
    assert "stale weights, or another adapter" in message and "temperature" in message


def test_of_stale_rows_the_ways_out_are_fresher_weights_and_smaller_steps():
    assert said(step(share=0.21)) == (
        "effective share of the step's tokens: 0.21, below 0.5: the policy has moved far from the "
        "older weights that drew them, so a few tokens outweigh the rest; lower "
        "rollout.max_staleness or optim.lr"
    )


@pytest.mark.parametrize(("share", "written"), [(None, {}), (0.25, {"rollout/corrected_share"})])
def test_the_corrected_share_is_written_where_a_correction_is_on(share, written):
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    given = {"critic": None, "corrected_share": share, "effective_sample_share": 0.5}
    row = update_row(UpdateFacts(**(blank | given)), beta=0.0, lr=0.0, num_skipped=0)
    assert row["rollout/effective_sample_share"] == 0.5
    assert {key for key in row if key == "rollout/corrected_share"} == set(written)
    assert row.get("rollout/corrected_share") == share
