"""How near the belief is to the truth, for a learner whose pass rates are known.

Every figure is over all 800 problems of 8 buckets, although a step draws 32 that the posterior
sampler prefers. Errors of single runs are averaged over seeds: what is bounded is the bias.
"""

from pathlib import Path

import numpy as np
import pytest

from rl_llm.curriculum import PoolBelief, Posterior, Uniform
from rl_llm.plugins import load_module

simulator = load_module(Path(__file__).with_name("simulator.py"))

BURN_IN, NUM_STEPS, SHIFT_STEP, SHIFTED = 50, 150, 75, 1
SEEDS = range(5)
DRIFT = 0.0075  # Buckets that start at .65, .28 and .07 end at about .94, .89 and .22.


def run(*, learning_rate, seed, regression=0.0, uniform=False):
    """Return by step the errors of a bucket's mean belief over all problems (steps x K) and over
    those never drawn (NaN below 20 of them), calibration errors, and the shares of mixed groups."""
    learner = simulator.SimulatedLearner(
        bucket_logits=np.linspace(4.0, -8.0, 8), learning_rate=learning_rate, seed=seed
    )
    belief = PoolBelief(learner.index)
    if uniform:
        sampler = Uniform(index=learner.index, seed=seed)
    else:
        sampler = Posterior(index=learner.index, seed=seed, group_size=8, belief=belief)
    errors, undrawn_errors, calibration = [], [], []
    undrawn_N = np.ones(learner.index.num_problems, np.bool_)

    def compare(step, indices):
        undrawn_N[indices] = False
        if step == SHIFT_STEP and regression:
            learner.shift(SHIFTED, regression)
        predicted_N = np.asarray(belief.beta(slice(None)).mean, np.float64)
        error_N = predicted_N - learner.rates_N
        errors.append(learner.mean_K(error_N))
        num_K = np.bincount(learner.index.bucket_ids[undrawn_N], minlength=8)
        sum_K = np.bincount(learner.index.bucket_ids[undrawn_N], error_N[undrawn_N], minlength=8)
        undrawn_errors.append(np.where(num_K < 20, np.nan, sum_K / np.maximum(num_K, 1)))
        calibration.append(simulator.expected_calibration_error(predicted_N, learner.rates_N))

    informative = simulator.simulate(
        learner, sampler, belief, num_steps=NUM_STEPS, after_step=compare
    )
    return tuple(map(np.array, (errors, undrawn_errors, calibration, informative)))


def runs(**options):
    return [
        np.array(of_all) for of_all in zip(*(run(seed=s, **options) for s in SEEDS), strict=True)
    ]


@pytest.mark.parametrize("learning_rate", [0.0, DRIFT], ids=["no drift", "upwards drift"])
def test_the_belief_is_calibrated_over_all_problems_and_over_those_never_drawn(learning_rate):
    errors, undrawn_errors, calibration, _ = runs(learning_rate=learning_rate)
    assert np.abs(errors[:, BURN_IN:].mean(axis=(0, 1))).max() < 0.05
    undrawn = undrawn_errors[:, BURN_IN:].reshape(-1, 8)
    held_K = np.isfinite(undrawn).any(axis=0)
    assert held_K.sum() >= 4
    assert np.abs(np.nanmean(undrawn[:, held_K], axis=0)).max() < 0.05
    assert calibration[:, BURN_IN:].max() < 0.05


def test_the_belief_recovers_from_a_sudden_regression_within_30_steps():
    errors, _, calibration, _ = runs(learning_rate=DRIFT, regression=-4.0)
    of_shifted = errors[:, :, SHIFTED].mean(axis=0)
    assert of_shifted[SHIFT_STEP] > 0.6
    assert abs(of_shifted[SHIFT_STEP + 20 : SHIFT_STEP + 31].mean()) < 0.05
    assert calibration[:, SHIFT_STEP + 30 :].max() < 0.05


@pytest.mark.parametrize("learning_rate", [0.0, DRIFT], ids=["no drift", "upwards drift"])
def test_the_posterior_draws_at_least_twice_as_many_mixed_groups_as_uniform(learning_rate):
    *_, posterior = runs(learning_rate=learning_rate)
    *_, uniform = runs(learning_rate=learning_rate, uniform=True)
    assert 0.3 < uniform.mean() < 0.5
    assert posterior.mean() > 2.0 * uniform.mean()


def test_a_group_with_equal_answers_teaches_the_simulated_learner_nothing():
    learner = simulator.SimulatedLearner(
        bucket_logits=[0.0, 0.0, 0.0, 0.0],
        problems_per_bucket=1,
        spread=0.0,
        learning_rate=0.8,
        neighbour_share=0.5,
    )
    found = learner.answer(np.array([1, 3]), step=0)
    learner.learn(type(found)(**(vars(found) | {"num_correct": np.array([4, 8])})))
    # .8 * .5 * .5 = .2 for bucket 1 and half of it for its neighbours; the logits were 0.
    np.testing.assert_allclose(
        np.log(learner.rates_N / (1 - learner.rates_N)), [0.1, 0.2, 0.1, 0.0], atol=1e-12
    )
