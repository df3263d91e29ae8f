"""The cumulative sum by hand: under Beta(2, 2), 16 completions have mean 8 and deviation 4."""

import json

import numpy as np
import pytest

from rl_llm.curriculum.belief import BetaBelief, PoolBelief
from rl_llm.curriculum.pool import Outcomes, PoolIndex
from rl_llm.curriculum.regression import Regression, RegressionDetector
from rl_llm.errors import ConfigError


def pool(num_buckets, problems_each=1):
    return PoolIndex(
        bucket_ids=np.repeat(np.arange(num_buckets, dtype=np.int32), problems_each),
        bucket_names=tuple(f"s/level={k}" for k in range(num_buckets)),
        bucket_sources=("s",) * num_buckets,
        bucket_levels=tuple(range(num_buckets)),
        endless_K=np.zeros(num_buckets, np.bool_),
    )


def outcomes(correct, step, *, counted=16, positions=None):
    correct = np.asarray(correct)
    return Outcomes(
        indices=np.arange(len(correct)) if positions is None else np.array(positions),
        num_correct=correct,
        num_counted=np.full(len(correct), counted),
        step=step,
    )


def even(count=1):
    return BetaBelief(np.full(count, 2.0), np.full(count, 2.0))


def feed(detector, *correct, first_step=1):
    """Give one problem's counts, a round a step; return all that is found."""
    found = []
    for step, count in enumerate(correct, start=first_step):
        found += detector.observe(outcomes([count], step), even())
    return found


def pile(detector):
    """Return S of the first bucket."""
    return detector.state_dict()["rest"]["piles"].get("s/level=0", [0.0])[0]


def test_the_sum_is_that_of_page_with_beta_binomial_deviations():
    detector = RegressionDetector(pool(1))
    feed(detector, 4)  # z = (4 - 8) / sqrt(16 / 4 * 20 / 5) = -1
    assert pile(detector) == pytest.approx(0.5)
    feed(detector, 2)  # z = -1.5
    assert pile(detector) == pytest.approx(1.5)
    feed(detector, 10)  # z = .5
    assert pile(detector) == pytest.approx(0.5)
    feed(detector, 9)  # z = .25
    assert pile(detector) == 0.0


def test_means_and_variances_add_up_over_the_problems_of_a_bucket():
    detector = RegressionDetector(pool(1, problems_each=4))
    detector.observe(outcomes([4, 4, 4, 4], 1), even(4))  # z = -16 / sqrt(4 * 16) = -2
    assert pile(detector) == pytest.approx(1.5)


def test_a_regression_is_reported_above_the_threshold_with_the_rates_since_it_began():
    detector = RegressionDetector(pool(1))
    assert feed(detector, 2, 16, 16) == []  # piled up, and gone again
    assert feed(detector, 2, 2, 2, 2, 2, first_step=4) == []  # S = 5
    (found,) = feed(detector, 2, first_step=9)
    assert found == Regression(
        bucket_id=0,
        bucket_name="s/level=0",
        expected_rate=0.5,
        observed_rate=0.125,
        num_completions=96,
        step=9,
    )


def test_after_a_regression_the_sum_starts_again():
    detector = RegressionDetector(pool(1))
    found = feed(detector, *[2] * 13)
    assert [(regression.step, regression.num_completions) for regression in found] == [
        (6, 96),
        (12, 96),
    ]
    assert pile(detector) == pytest.approx(1.0)


def test_doing_better_than_expected_is_no_regression():
    assert feed(RegressionDetector(pool(1)), *[16] * 50) == []


def test_one_round_counts_as_at_most_two_deviations():
    detector = RegressionDetector(pool(1))
    sure = BetaBelief(np.array([1e9]), np.array([1e9]))
    detector.observe(outcomes([0], 1), sure)  # z = -8 / 2 = -4
    assert pile(detector) == pytest.approx(1.5)


def test_buckets_are_watched_apart_and_one_without_outcomes_stays_as_it_was():
    detector = RegressionDetector(pool(3))
    for step in range(1, 7):
        found = detector.observe(outcomes([8, 2], step, positions=[0, 2]), even(2))
    assert [(r.bucket_id, r.bucket_name) for r in found] == [(2, "s/level=2")]
    feed(detector, 4)
    detector.observe(outcomes([8], 8, positions=[1]), even())
    assert pile(detector) == pytest.approx(0.5)


def test_problems_without_counted_completions_say_nothing():
    detector = RegressionDetector(pool(1))
    feed(detector, 4)
    assert detector.observe(outcomes([0], 2, counted=0), even()) == []
    assert pile(detector) == pytest.approx(0.5)


def test_slack_and_threshold_are_options():
    detector = RegressionDetector(pool(1), slack=0.25, threshold=1.0)
    assert [found.step for found in feed(detector, 4, 4)] == [2]  # .75 + .75


@pytest.mark.parametrize(("option", "value"), [("slack", -0.1), ("slack", 1.5), ("threshold", 0.0)])
def test_options_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=f"{option}={value}: must be"):
        RegressionDetector(pool(1), **{option: value})


def test_the_message_names_the_bucket_both_rates_and_what_is_done():
    found = Regression(
        bucket_id=4,
        bucket_name="arithmetic/level=3",
        expected_rate=0.93,
        observed_rate=0.61,
        num_completions=256,
        step=40,
    )
    assert found.message == (
        "arithmetic/level=3: 61 % of 256 completions correct where 93 % were expected: the model "
        "is losing what it had; what has retired of it is reviewed more often"
    )


def test_a_detector_restored_in_the_middle_finds_the_same():
    whole, before = RegressionDetector(pool(2)), RegressionDetector(pool(2))
    feed(before, 2, 2, 2)
    state = json.loads(json.dumps(before.state_dict()))
    assert state["rest"]["piles"] == {"s/level=0": [3.0, 24.0, 6.0, 48.0]}
    after = RegressionDetector(pool(2))
    feed(after, 4)  # forgotten
    after.load_state_dict(state)
    assert after.state_dict() == before.state_dict()
    expected = feed(whole, *[2] * 6)
    assert feed(after, 2, 2, 2, first_step=4) == expected != []


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("problems_each", [1, 8])
def test_calibrated_outcomes_raise_fewer_than_one_false_alarm_in_500_steps(rate, problems_each):
    num_buckets, num_steps, strength = 20, 2000, 10.0
    detector = RegressionDetector(pool(num_buckets, problems_each))
    rng = np.random.default_rng(0)
    a = np.full(num_buckets * problems_each, strength * rate)
    b = strength - a
    num_alarms = 0
    for step in range(1, num_steps + 1):
        correct = rng.binomial(8, rng.beta(a, b))
        num_alarms += len(detector.observe(outcomes(correct, step, counted=8), BetaBelief(a, b)))
    assert num_alarms < num_buckets * num_steps / 500


def test_a_fall_from_nine_tenths_to_six_is_found_within_six_steps_of_64_completions():
    """Beliefs that learn all the while, over 20 buckets of 50 problems, 8 of each drawn a step."""
    index = pool(20, problems_each=50)
    belief, detector = PoolBelief(index), RegressionDetector(index)
    rng = np.random.default_rng(0)
    found_in = {}
    for step in range(1, 57):
        drawn = [50 * k + rng.permutation(50)[:8] for k in range(20)]
        positions = np.concatenate(drawn)
        rate = 0.9 if step <= 50 else 0.6
        seen = outcomes(rng.binomial(8, rate, 160), step, counted=8, positions=positions)
        for regression in detector.observe(seen, belief.beta(positions)):
            found_in.setdefault(regression.bucket_id, regression.step)
        belief.observe(seen)
    assert len(found_in) == 20
    assert min(found_in.values()) > 50
