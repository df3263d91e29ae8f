"""Scores of beliefs as forecasts, by hand."""

import json

import numpy as np
import pytest

from rl_llm.curriculum.calibration import Calibration
from rl_llm.curriculum.pool import Outcomes
from rl_llm.errors import ConfigError
from rl_llm.seeds import derive_rng


def outcomes(correct, counted, *, step=1):
    return Outcomes(
        indices=np.arange(len(correct)),
        num_correct=np.array(correct),
        num_counted=np.array(counted),
        step=step,
    )


def observed(predicted, mixed, correct, counted, *, window_decay=1.0):
    calibration = Calibration(window_decay=window_decay)
    calibration.observe(np.array(predicted), np.array(mixed), outcomes(correct, counted))
    return calibration


def test_nothing_is_said_before_the_first_observation():
    assert Calibration().metrics() == {}
    assert observed([0.5], [0.9], [0], [0]).metrics() == {}


def test_brier_is_the_mean_squared_error_of_a_completion():
    # 3 of 4 at p = .5: each completion .25. 1 of 6 at p = .2: .64 + 5 * .04 = .84. 1.84 over 10.
    metrics = observed([0.5, 0.2], [0.9, 0.7], [3, 1], [4, 6]).metrics()
    assert metrics["curriculum/brier"] == pytest.approx(0.184)


def test_skill_is_nought_for_the_observed_mean_and_less_for_worse():
    # The mean is .4, so saying .4 everywhere scores .24; 1.84 / 10 is a skill of 1 - .184 / .24.
    said_mean = observed([0.4, 0.4], [0.9, 0.9], [3, 1], [4, 6]).metrics()
    assert said_mean["curriculum/brier_skill"] == pytest.approx(0.0)
    better = observed([0.5, 0.2], [0.9, 0.9], [3, 1], [4, 6]).metrics()
    assert better["curriculum/brier_skill"] == pytest.approx(1 - 0.184 / 0.24)
    worse = observed([0.9, 0.9], [0.9, 0.9], [3, 1], [4, 6]).metrics()
    assert worse["curriculum/brier_skill"] < 0


@pytest.mark.parametrize("correct", [0, 4])
def test_there_is_no_skill_where_all_completions_are_alike(correct):
    metrics = observed([0.5], [0.9], [correct], [4]).metrics()
    assert "curriculum/brier_skill" not in metrics
    assert metrics["curriculum/brier"] == 0.25


def test_calibration_error_weighs_the_gap_of_each_bin_by_its_completions():
    # Bin .2-.3: 8 completions predicted .22 and .26, 4 correct: |.24 - .5|. Bin .9-1: 2 of 2 at 1.
    calibration = observed([0.22, 0.26, 1.0], [0.5] * 3, [3, 1, 2], [4, 4, 2])
    metrics = calibration.metrics()
    assert metrics["curriculum/calibration_error"] == pytest.approx(0.8 * 0.26)
    bins = metrics["curriculum/calibration_bins"]
    assert len(bins) == 10
    assert bins[2] == pytest.approx([8.0, 0.24, 0.5])
    assert bins[9] == [2.0, 1.0, 1.0]
    assert bins[0] == [0.0, 0.0, 0.0]


def test_errors_within_a_bin_cancel_and_errors_of_two_bins_do_not():
    same_bin = observed([0.51, 0.59], [0.5] * 2, [51, 59], [100, 100]).metrics()
    swapped = observed([0.59, 0.51], [0.5] * 2, [51, 59], [100, 100]).metrics()
    assert same_bin["curriculum/calibration_error"] == pytest.approx(0.0)
    assert swapped["curriculum/calibration_error"] == pytest.approx(0.0)
    apart = observed([0.65, 0.45], [0.5] * 2, [45, 65], [100, 100]).metrics()
    assert apart["curriculum/calibration_error"] == pytest.approx(0.2)


def test_a_group_is_mixed_with_a_correct_and_a_wrong_completion():
    # Mixed, all correct, all wrong: (1 - .7)^2 + .5^2 + .1^2 = .35 over 3 groups.
    metrics = observed([0.5] * 3, [0.7, 0.5, 0.1], [1, 4, 0], [4, 4, 4]).metrics()
    assert metrics["curriculum/informative_brier"] == pytest.approx(0.35 / 3)


def test_groups_whose_rewards_all_failed_count_nowhere():
    with_failed = observed([0.5, 0.9], [0.7, 0.9], [3, 0], [4, 0])
    assert with_failed.metrics() == observed([0.5], [0.7], [3], [4]).metrics()


def test_the_window_fades_once_a_step_and_not_once_a_round():
    calibration = Calibration(window_decay=0.5)
    calibration.observe(np.array([0.0]), np.array([0.0]), outcomes([4], [4], step=1))
    calibration.observe(np.array([1.0]), np.array([0.0]), outcomes([2], [2], step=2))
    calibration.observe(np.array([1.0]), np.array([0.0]), outcomes([2], [2], step=2))
    # Step 1 counts half: 2 completions with error 1, beside 4 of step 2 with error 0.
    metrics = calibration.metrics()
    assert metrics["curriculum/brier"] == pytest.approx(2 / 6)
    assert metrics["curriculum/calibration_bins"][0] == [2.0, 0.0, 1.0]
    assert metrics["curriculum/calibration_bins"][9] == [4.0, 1.0, 1.0]


def test_true_chances_score_their_own_variance_and_no_calibration_error():
    rng = derive_rng("calibration")
    rate = rng.random(20_000)
    calibration = observed(rate, np.zeros(20_000), rng.binomial(8, rate), [8] * 20_000)
    metrics = calibration.metrics()
    assert metrics["curriculum/brier"] == pytest.approx(1 / 6, abs=0.003)  # mean of p (1 - p)
    assert metrics["curriculum/brier_skill"] == pytest.approx(1 / 3, abs=0.01)
    assert metrics["curriculum/calibration_error"] < 0.01


def test_a_window_that_was_saved_as_json_goes_on_exactly():
    first = Calibration(window_decay=0.9)
    for step in (1, 2):
        first.observe(
            np.array([0.3, 0.7]), np.array([0.8, 0.6]), outcomes([2, 5], [7, 7], step=step)
        )
    state = first.state_dict()
    second = Calibration(window_decay=0.9)
    second.load_state_dict({"columns": {}, "rest": json.loads(json.dumps(state["rest"]))})
    assert second.state_dict() == state
    for each in (first, second):
        each.observe(np.array([0.1]), np.array([0.2]), outcomes([1], [7], step=2))
        each.observe(np.array([0.9]), np.array([0.2]), outcomes([3], [7], step=3))
    assert second.metrics() == first.metrics()
    assert second.state_dict() == first.state_dict()


def test_a_window_that_grows_is_refused():
    with pytest.raises(ConfigError, match=r"window_decay=1\.5: must be from 0 to 1"):
        Calibration(window_decay=1.5)


def test_what_was_compared_fades_by_a_twentieth_a_step():
    calibration = Calibration()
    for step, correct in ((1, 4), (2, 0)):
        calibration.observe(np.array([0.5]), np.array([0.9]), outcomes([correct], [4], step=step))
    # 4 of 4 at half in the first step, worth .95 in the second, which has 0 of 4.
    expected = abs(0.95 * 4 / (4 + 0.95 * 4) - 0.5)
    assert calibration.metrics()["curriculum/calibration_error"] == pytest.approx(expected)
