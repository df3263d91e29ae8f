import time
from collections import Counter

import numpy as np
import pytest

from rl_llm.curriculum import Outcomes, PoolIndex, Posterior, Uniform
from rl_llm.errors import ConfigError


def one_bucket(num_problems):
    return PoolIndex(bucket_ids=np.zeros(num_problems, np.int32), bucket_names=("s/level=1",))


def uniform(num_problems, seed=0):
    return Uniform(index=one_bucket(num_problems), seed=seed, group_size=8)


def posterior(*evidence, group_size=2, temperature=1.0, floor=0.0, seed=0, **options):
    """Each (correct, wrong) is the evidence of one problem, on top of Beta(1, 1)."""
    sampler = Posterior(
        index=one_bucket(len(evidence)),
        seed=seed,
        group_size=group_size,
        temperature=temperature,
        floor=floor,
        prior_strength=2.0,
        **options,
    )
    state = sampler.state_dict()
    state["columns"]["belief_correct"][:] = [correct for correct, _ in evidence]
    state["columns"]["belief_wrong"][:] = [wrong for _, wrong in evidence]
    sampler.load_state_dict(state)
    return sampler


def first_draw_shares(sampler, num_draws):
    counts = Counter(int(sampler.plan(step, 1)[0]) for step in range(num_draws))
    return [counts[position] / num_draws for position in range(max(counts) + 1)]


def outcomes(indices, correct, step):
    return Outcomes(
        indices=np.asarray(indices),
        num_correct=np.asarray(correct),
        num_counted=np.full(len(indices), 8),
        step=step,
    )


def test_uniform_visits_every_problem_once_an_epoch():
    sampler = uniform(12)
    for epoch in range(3):
        drawn = np.concatenate([sampler.plan(4 * epoch + step, 3) for step in range(4)])
        assert sorted(drawn) == list(range(12))


def test_uniform_orders_differ_between_epochs_and_seeds():
    sampler = uniform(50)
    first, second = sampler.plan(0, 50), sampler.plan(1, 50)
    assert list(first) != list(second)
    assert list(first) != list(uniform(50, seed=1).plan(0, 50))


def test_uniform_crosses_the_end_of_an_epoch_without_taking_a_problem_twice():
    sampler = uniform(10)
    counts = Counter()
    for step in range(5):
        drawn = sampler.plan(step, 8)
        assert len(set(drawn.tolist())) == 8
        counts.update(drawn.tolist())
    assert set(counts.values()) == {4}  # 5 steps of 8 are 4 epochs of 10


def test_uniform_refill_goes_on_in_the_epoch_and_avoids_what_the_step_has():
    sampler = uniform(10)
    drawn = sampler.plan(0, 6)
    exclude = np.zeros(10, np.bool_)
    exclude[drawn] = True
    more = sampler.plan(0, 8, round=1, exclude=exclude)
    assert sorted([*drawn, *more]) == list(range(10))


def test_uniform_draws_the_same_after_a_restart_within_an_epoch():
    sampler, resumed = uniform(20), uniform(20)
    for step in range(4):
        sampler.plan(step, 7)
    resumed.load_state_dict(sampler.state_dict())
    for step in range(4, 9):
        assert list(resumed.plan(step, 7)) == list(sampler.plan(step, 7))


def test_a_pool_smaller_than_the_step_is_drawn_whole():
    assert sorted(uniform(3).plan(0, 8)) == [0, 1, 2]
    assert sorted(posterior((0, 0), (0, 0), (0, 3)).plan(0, 8)) == [0, 1, 2]


def test_posterior_draws_ordered_pairs_with_their_exact_probabilities():
    # Beta(1,1), Beta(1,4), Beta(1,9) at G = 2: 2ab / ((a+b)(a+b+1)) = 1/3, 8/30, 18/110,
    # which are as 110 : 88 : 54.
    sampler = posterior((0, 0), (0, 3), (0, 8))
    num_draws = 6000
    pairs = Counter(tuple(sampler.plan(step, 2).tolist()) for step in range(num_draws))
    weights = [110, 88, 54]
    for (first, second), count in pairs.items():
        exact = weights[first] / 252 * weights[second] / (252 - weights[first])
        assert count / num_draws == pytest.approx(exact, abs=0.025)
    assert len(pairs) == 6


def test_temperature_one_half_squares_the_scores():
    shares = first_draw_shares(posterior((0, 0), (0, 8), temperature=0.5), 4000)
    assert shares[0] == pytest.approx(110**2 / (110**2 + 54**2), abs=0.025)


def test_the_variance_kernel_multiplies_by_the_expected_variance():
    # E[p(1-p)] is half of the score at G = 2, so the draw is as the squares.
    shares = first_draw_shares(posterior((0, 0), (0, 8), kernel="variance"), 4000)
    assert shares[0] == pytest.approx(110**2 / (110**2 + 54**2), abs=0.025)


def test_the_floor_keeps_drawing_what_is_believed_hopeless():
    hopeless = posterior((0, 0), (0, 0), (0, 0), (0, 1e9), floor=0.1)
    assert first_draw_shares(hopeless, 8000)[3] == pytest.approx(0.1 / 4, abs=0.006)


def test_without_a_floor_the_hopeless_is_not_drawn():
    hopeless = posterior((0, 0), (0, 0), (0, 0), (0, 1e9), floor=0.0)
    assert len(first_draw_shares(hopeless, 2000)) == 3


def test_a_very_low_temperature_takes_the_best_first():
    sampler = posterior((0, 0), (0, 3), (0, 8), temperature=0.001)
    assert sampler.plan(0, 3).tolist() == [0, 1, 2]


def test_with_group_size_one_nothing_is_informative_and_the_draw_is_uniform():
    shares = first_draw_shares(posterior((0, 0), (0, 8), group_size=1), 4000)
    assert shares == pytest.approx([0.5, 0.5], abs=0.03)


def test_a_floor_of_one_is_uniform():
    shares = first_draw_shares(posterior((0, 0), (0, 1e9), floor=1.0), 4000)
    assert shares == pytest.approx([0.5, 0.5], abs=0.03)


def test_the_group_size_decides_what_is_informative():
    # Beta(10, 2) against Beta(6, 6): 40/156 : 72/156 = .56 at G = 2, nearly 1 at G = 64.
    ratios = []
    for group_size in (2, 64):
        lopsided, even = first_draw_shares(posterior((9, 1), (5, 5), group_size=group_size), 3000)
        ratios.append(lopsided / even)
    assert ratios == pytest.approx([0.56, 0.98], abs=0.1)


def test_posterior_never_draws_what_is_excluded():
    sampler = posterior(*[(0, 0)] * 6, floor=0.5)
    exclude = np.array([True, False, True, False, True, False])
    for step in range(50):
        assert sorted(sampler.plan(step, 5, round=1, exclude=exclude)) == [1, 3, 5]
    assert sampler.plan(0, 5, exclude=np.ones(6, np.bool_)).size == 0


def test_posterior_draws_differ_between_steps_rounds_and_seeds():
    sampler = posterior(*[(0, 0)] * 200)
    plans = [
        sampler.plan(0, 20),
        sampler.plan(1, 20),
        sampler.plan(0, 20, round=1),
        posterior(*[(0, 0)] * 200, seed=1).plan(0, 20),
    ]
    assert len({tuple(plan.tolist()) for plan in plans}) == 4


def test_posterior_plans_the_same_after_a_restart():
    def fresh():
        return Posterior(index=one_bucket(30), seed=3, group_size=8)

    sampler, resumed = fresh(), fresh()
    for step in range(5):
        drawn = sampler.plan(step, 6)
        sampler.observe(outcomes(drawn, drawn % 9, step))
    resumed.load_state_dict(sampler.state_dict())
    for step in range(5, 9):
        drawn = sampler.plan(step, 6)
        assert list(resumed.plan(step, 6)) == list(drawn)
        for each in (sampler, resumed):
            each.observe(outcomes(drawn, drawn % 9, step))
    assert list(fresh().plan(5, 6)) != list(resumed.plan(5, 6))


def test_posterior_leaves_what_it_has_seen_mastered():
    sampler = Posterior(index=one_bucket(40), seed=0, group_size=8, floor=0.0)
    mastered = np.arange(20)
    sampler.observe(outcomes([*mastered, *range(20, 40)], [8] * 20 + [4] * 20, 0))
    drawn = np.concatenate([sampler.plan(step, 10) for step in range(1, 21)])
    assert np.mean(drawn >= 20) > 0.9


def test_beliefs_are_means_for_posterior_and_none_for_uniform():
    sampler = posterior((0, 0), (2, 0))
    assert list(sampler.beliefs()) == pytest.approx([0.5, 0.75])
    assert list(sampler.beliefs(np.array([1]))) == pytest.approx([0.75])
    assert uniform(3).beliefs() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 1.5}, "floor=1.5: must be from 0 to 1"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        posterior((0, 0), **options)


@pytest.mark.slow
def test_a_step_over_a_million_problems_is_planned_within_a_second(capsys):
    num_problems = 1_000_000
    index = PoolIndex(
        bucket_ids=(np.arange(num_problems) % 64).astype(np.int32),
        bucket_names=tuple(str(bucket) for bucket in range(64)),
    )
    for kind in (Posterior, Uniform):
        sampler = kind(index=index, seed=0, group_size=8)
        times_s = []
        for step in range(5):
            started = time.perf_counter()
            drawn = sampler.plan(step, 1024)
            times_s.append(time.perf_counter() - started)
            sampler.observe(outcomes(drawn, drawn % 9, step))
        with capsys.disabled():
            # The figure is what this benchmark is for.
            print(f"\n{kind.__name__}: {1e3 * np.median(times_s):.1f} ms a plan of 1,000,000")  # noqa: T201
        assert np.median(times_s) < 1.0
