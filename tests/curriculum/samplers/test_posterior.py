from collections import Counter

import numpy as np
import pytest

from rl_llm.curriculum import PoolBelief, Posterior
from rl_llm.errors import ConfigError


@pytest.fixture
def posterior(make_index):
    """Each (correct, wrong) is the evidence of one problem, on top of Beta(1, 1)."""

    def make(*evidence, group_size=2, kernel="flat", temperature=1.0, floor=0.0, seed=0, **options):
        index = make_index(len(evidence))
        belief = PoolBelief(index, prior_strength=2.0)
        state = belief.state_dict()
        state["columns"]["belief_correct"][:] = [correct for correct, _ in evidence]
        state["columns"]["belief_wrong"][:] = [wrong for _, wrong in evidence]
        belief.load_state_dict(state)
        return Posterior(
            index=index,
            seed=seed,
            group_size=group_size,
            belief=belief,
            kernel=kernel,
            temperature=temperature,
            floor=floor,
            **options,
        )

    return make


def test_a_pool_smaller_than_the_step_is_drawn_whole(posterior):
    assert sorted(posterior((0, 0), (0, 0), (0, 3)).plan(0, 8)) == [0, 1, 2]


def test_ordered_pairs_are_drawn_with_their_exact_probabilities(posterior):
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


def test_temperature_one_half_squares_the_scores(posterior, first_draw_shares):
    shares = first_draw_shares(posterior((0, 0), (0, 8), temperature=0.5), 4000)
    assert shares[0] == pytest.approx(110**2 / (110**2 + 54**2), abs=0.025)


def test_the_variance_kernel_multiplies_by_the_expected_variance(posterior, first_draw_shares):
    # E[p(1-p)] is half of the score at G = 2, so the draw is as the squares.
    shares = first_draw_shares(posterior((0, 0), (0, 8), kernel="variance"), 4000)
    assert shares[0] == pytest.approx(110**2 / (110**2 + 54**2), abs=0.025)


def test_the_headroom_kernel_multiplies_by_the_root_of_what_is_left_to_learn(
    posterior, first_draw_shares
):
    # At G = 2, 2ab / (s (s + 1)): 1/3 and 9/55 for Beta(1, 1) and Beta(9, 1), which expect to
    # fail in .5 and .1.
    shares = first_draw_shares(posterior((0, 0), (8, 0), kernel="headroom"), 4000)
    hard, easy = 0.5**0.5 / 3, 0.1**0.5 * 9 / 55
    assert shares[0] == pytest.approx(hard / (hard + easy), abs=0.025)


@pytest.mark.parametrize(("divides_by_group", "kernel"), [(True, "headroom"), (False, "variance")])
def test_without_a_kernel_the_algorithm_decides(posterior, divides_by_group, kernel):
    beliefs = [(0, k) for k in range(16)]
    named, other = (posterior(*beliefs, kernel=name) for name in ("headroom", "variance"))
    left_out = posterior(*beliefs, kernel=None, divides_by_group=divides_by_group)
    plans, headroom, variance = (
        [sampler.plan(step, 4).tolist() for step in range(20)]
        for sampler in (left_out, named, other)
    )
    assert headroom != variance
    assert plans == {"headroom": headroom, "variance": variance}[kernel]


def test_the_floor_keeps_drawing_what_is_believed_hopeless(posterior, first_draw_shares):
    # (1 - floor) * 0 + floor / N = .1 / 4; three binomial standard errors of 8000 draws are .0052.
    hopeless = posterior((0, 0), (0, 0), (0, 0), (0, 1e9), floor=0.1)
    assert first_draw_shares(hopeless, 8000)[3] == pytest.approx(0.1 / 4, abs=0.0052)


def test_without_a_floor_the_hopeless_is_not_drawn(posterior, first_draw_shares):
    hopeless = posterior((0, 0), (0, 0), (0, 0), (0, 1e9), floor=0.0)
    assert len(first_draw_shares(hopeless, 2000)) == 3


def test_a_very_low_temperature_takes_the_best_first(posterior):
    sampler = posterior((0, 0), (0, 3), (0, 8), temperature=0.001)
    assert sampler.plan(0, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [{"kernel": None}, {"kernel": None, "divides_by_group": False}, {"kernel": "variance"}],
)
def test_with_group_size_one_the_expected_variance_alone_decides(
    posterior, first_draw_shares, options
):
    # E[p(1-p)] = ab / ((a+b)(a+b+1)): of Beta(1,1) 1/6, of Beta(1,9) 9/110; as 55 : 27.
    shares = first_draw_shares(posterior((0, 0), (0, 8), group_size=1, **options), 4000)
    assert shares[0] == pytest.approx(55 / 82, abs=0.025)


def test_with_group_size_one_the_explanation_speaks_of_the_expected_variance(posterior):
    sampler = posterior((0, 0), (0, 8), group_size=1, kernel=None)
    said = sampler.explain(0, exclude=np.zeros(2, bool))
    assert said == (
        "the expected p(1-p) of its pass rate is 0.167; the first draw takes it "
        "with probability 0.6707, rank 1 of 2 (an even share is 0.5000)"
    )


@pytest.mark.parametrize("kernel", ["flat", "headroom"])
def test_other_kernels_with_group_size_one_are_errors(posterior, kernel):
    with pytest.raises(
        ConfigError, match=rf"kernel={kernel} with rollout\.group_size=1: .* uniform"
    ):
        posterior((0, 0), group_size=1, kernel=kernel)


def test_a_floor_of_one_is_uniform(posterior, first_draw_shares):
    shares = first_draw_shares(posterior((0, 0), (0, 1e9), floor=1.0), 4000)
    assert shares == pytest.approx([0.5, 0.5], abs=0.03)


def test_the_group_size_decides_what_is_informative(posterior, first_draw_shares):
    # Beta(10, 2) against Beta(6, 6): 40/156 : 72/156 = .56 at G = 2, nearly 1 at G = 64.
    ratios = []
    for group_size in (2, 64):
        sampler = posterior((9, 1), (5, 5), group_size=group_size)
        lopsided, even = first_draw_shares(sampler, 3000)
        ratios.append(lopsided / even)
    assert ratios == pytest.approx([0.56, 0.98], abs=0.1)


def test_draws_differ_between_steps_rounds_and_seeds(posterior):
    sampler = posterior(*[(0, 0)] * 200)
    plans = [
        sampler.plan(0, 20),
        sampler.plan(1, 20),
        sampler.plan(0, 20, round=1),
        posterior(*[(0, 0)] * 200, seed=1).plan(0, 20),
    ]
    assert len({tuple(plan.tolist()) for plan in plans}) == 4


def test_what_was_seen_mastered_is_left(make_index, outcomes):
    index = make_index(40)
    belief = PoolBelief(index)
    sampler = Posterior(index=index, seed=0, group_size=8, belief=belief, floor=0.0)
    belief.observe(outcomes(range(40), [8] * 20 + [4] * 20))
    drawn = np.concatenate([sampler.plan(step, 10) for step in range(1, 21)])
    assert np.mean(drawn >= 20) > 0.9


def test_explain_says_how_likely_a_problem_is_to_be_next(posterior):
    sampler = posterior((0, 0), (0, 3), (0, 8))
    said = sampler.explain(1, exclude=np.array([False, False, True]))
    assert "mixed with probability 0.27" in said  # 8/30
    assert "probability 0.4444, rank 2 of 2" in said  # 88 of 110 + 88


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 1.5}, "floor=1.5: must be from 0 to 1"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(posterior, options, message):
    with pytest.raises(ConfigError, match=message):
        posterior((0, 0), **options)
