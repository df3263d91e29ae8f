import json

import numpy as np
import pytest

from rl_llm.curriculum import Outcomes, PoolBelief, PoolIndex, Posterior, Uniform
from rl_llm.curriculum.difficulty import DifficultySlopes
from rl_llm.records import Problem, content_key


def pool_index(bucket_ids, *, sources=("s",), endless=()):
    count = len(sources)
    return PoolIndex(
        bucket_ids=np.array(bucket_ids, np.int32),
        bucket_names=tuple(f"{source}/level={k}" for k, source in enumerate(sources)),
        bucket_sources=tuple(sources),
        bucket_levels=tuple(range(count)),
        endless_K=np.isin(np.arange(count), endless),
    )


def problem(text, difficulty):
    meta = {} if difficulty is None else {"difficulty": difficulty}
    return Problem(key=content_key(text, ""), prompt=text, answer="", source="s", meta=meta)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def offsets_at_slope_1(slopes):
    slopes.load_state_dict({"columns": {}, "rest": {"slopes": {"s": (1.0, 1.0), "t": (1.0, 1.0)}}})
    # With a slope of 1 everywhere, the offset of a problem is its z.
    assert (slopes.slope_K == 1.0).all()
    return slopes.z_N


class Simulated:
    """Two levels of 250 problems with logits 1 and -1, and `slope` a deviation of difficulty."""

    def __init__(self, slope):
        rng = np.random.default_rng(0)
        self.index = pool_index([0] * 250 + [1] * 250, sources=("s", "s"))
        difficulty_N = rng.normal(50.0, 20.0, 500)
        level_N = np.repeat([1.0, -1.0], 250)
        z_N = np.concatenate([part - part.mean() for part in np.split(difficulty_N, 2)])
        self.rates_N = sigmoid(level_N + slope * z_N / difficulty_N.std())
        self.belief = PoolBelief(self.index)
        self.slopes = DifficultySlopes(self.index, difficulty_N.astype(np.float32))
        self.drawn_N = np.zeros(500, bool)

    def learn(self, num_steps, *, uses_slopes=True):
        """Draw 25 of 200 problems of the pool a step, 8 completions of each."""
        rng = np.random.default_rng(1)
        allowed = np.concatenate([np.arange(100), np.arange(250, 350)])
        for step in range(num_steps):
            drawn = rng.choice(allowed, 25, replace=False)
            correct = rng.binomial(8, self.rates_N[drawn])
            outcomes = Outcomes(
                indices=drawn, num_correct=correct, num_counted=np.full(25, 8), step=step
            )
            first = outcomes.where(~self.drawn_N[drawn])
            self.drawn_N[drawn] = True
            self.belief.observe(outcomes)
            self.slopes.observe(first, bucket_logits_K=self.belief.bucket_logits)
            if uses_slopes:
                self.belief.set_offsets(self.slopes.z_N, self.slopes.slope_K)
        return self

    def error_where_never_drawn(self):
        believed_N = np.asarray(self.belief.beta(slice(None)).mean)
        return np.sqrt(np.mean((believed_N - self.rates_N)[~self.drawn_N] ** 2))


@pytest.mark.parametrize("slope", [-1.5, -0.7, 0.0, 0.8])
def test_the_slope_is_recovered_within_a_fifth_after_2000_completions(slope):
    assert Simulated(slope).learn(10).slopes.slope_K[0] == pytest.approx(slope, abs=0.2)


def test_a_slope_of_zero_stays_near_zero_over_a_long_run():
    simulated = Simulated(0.0)
    for _ in range(5):
        simulated.learn(20)
        assert abs(simulated.slopes.slope_K[0]) < 0.15


def test_problems_that_were_never_drawn_are_believed_closer_to_the_truth():
    without = Simulated(-1.5).learn(10, uses_slopes=False).error_where_never_drawn()
    assert without > 0.2
    assert Simulated(-1.5).learn(10).error_where_never_drawn() < 0.25 * without


def test_the_first_round_gives_the_hand_worked_slope():
    """One bucket at logit 0, z = 1 and -1, 8 completions of each: 6 and 2 are correct.

    Eight completions of one problem count as 8 * 4 / 11, so the slope solves
    -b + ((6 - 8 p) - (2 - 8 (1 - p))) * 4 / 11 = 0 with p = sigmoid(b), b = (12 - 16 p) * 4 / 11;
    the precision there is 1 + 16 p (1 - p) * 4 / 11.
    """
    slopes = DifficultySlopes(pool_index([0, 0]), np.float32([3, 1]))
    slopes.observe(
        Outcomes(
            indices=np.array([0, 1]),
            num_correct=np.array([6, 2]),
            num_counted=np.array([8, 8]),
            step=0,
        ),
        bucket_logits_K=np.zeros(1),
    )
    found, precision = slopes.state_dict()["rest"]["slopes"]["s"]
    rate = sigmoid(found)
    assert found == pytest.approx((12 - 16 * rate) * 4 / 11, rel=1e-9)
    assert 0.58 < found < 0.62
    assert precision == pytest.approx(1 + 16 * rate * (1 - rate) * 4 / 11, rel=1e-6)
    assert slopes.slope_K.tolist() == [found]
    assert slopes.z_N.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("sampler_class", [Uniform, Posterior])
def test_the_slope_is_where_it_says_to_be_whatever_is_drawn(sampler_class):
    """Four buckets with a slope of -1.5 in problems that differ by a logit beside it: over those
    that is -1.5 / sqrt(1 + .346) = -1.29, the logit of a logistic-normal mean.

    A posterior that draws near one half, learnt from whole, ends 5 to 10 deviations off.
    """
    deviations_off = [_deviations_off(sampler_class, seed) for seed in range(6)]
    assert np.sqrt(np.mean(np.square(deviations_off))) < 2.0


def _deviations_off(sampler_class, seed, *, num_steps=60):
    rng = np.random.default_rng(seed)
    index = pool_index(np.repeat(np.arange(4), 200), sources=("s",) * 4)
    z_N = rng.standard_normal(800)
    logits_N = np.repeat([2.0, 0.7, -0.7, -2.0], 200) - 1.5 * z_N + rng.standard_normal(800)
    belief = PoolBelief(index)
    slopes = DifficultySlopes(index, z_N.astype(np.float32))
    given = {"index": index, "seed": seed}
    if sampler_class is Posterior:
        given |= {"group_size": 8, "belief": belief}
    sampler = sampler_class(**given)
    for step in range(num_steps):
        drawn = sampler.plan(step, 32)
        correct = rng.binomial(8, sigmoid(logits_N[drawn]))
        outcomes = Outcomes(
            indices=drawn, num_correct=correct, num_counted=np.full(32, 8), step=step
        )
        first = outcomes.where(~belief.has_evidence(drawn))
        belief.observe(outcomes)
        sampler.observe(outcomes)
        slopes.observe(first, bucket_logits_K=belief.bucket_logits)
        belief.set_offsets(slopes.z_N, slopes.slope_K)
    found, precision = slopes.state_dict()["rest"]["slopes"]["s"]
    return (found + 1.5 / np.sqrt(1.346)) * np.sqrt(precision)


def test_difficulty_is_standardised_in_its_source_and_centred_in_its_bucket():
    index = pool_index([0, 0, 1, 1, 2, 2], sources=("s", "s", "t"))
    slopes = DifficultySlopes(index, np.float32([0, 2, 4, 6, 1000, 3000]))
    deviation = np.sqrt(5.0)  # of 0, 2, 4, 6
    expected = np.array([-1, 1, -1, 1, 0, 0]) / deviation + [0, 0, 0, 0, -1, 1]
    np.testing.assert_allclose(offsets_at_slope_1(slopes), expected, rtol=1e-6)


def test_problems_without_difficulty_and_of_endless_buckets_have_no_offset():
    index = pool_index([0, 0, 0, 1, 1], sources=("s", "t"), endless=[1])
    slopes = DifficultySlopes(index, np.float32([1, 3, np.nan, 5, 9]))
    np.testing.assert_allclose(offsets_at_slope_1(slopes), [-1, 1, 0, 0, 0])


def test_one_difficulty_for_a_whole_source_gives_no_offsets():
    slopes = DifficultySlopes(pool_index([0] * 3), np.float32([0.1, 0.1, 0.1]))
    np.testing.assert_array_equal(offsets_at_slope_1(slopes), np.zeros(3))


def test_only_numbers_are_difficulties_and_without_any_nothing_is_kept():
    index = pool_index([0] * 5)
    words = [problem(f"q{i}", d) for i, d in enumerate(["hard", None, True, {"a": 1}, "3"])]
    assert DifficultySlopes.of(index, words, prior_strength=3.0) is None
    some = [*words[:3], problem("q3", 1), problem("q4", 2.0)]
    slopes = DifficultySlopes.of(index, some, prior_strength=3.0)
    np.testing.assert_allclose(offsets_at_slope_1(slopes), [0, 0, 0, -1, 1])


def test_a_round_that_does_not_show_a_source_leaves_its_slope():
    index = pool_index([0, 0, 1, 1], sources=("s", "t"))
    slopes = DifficultySlopes(index, np.float32([1, 3, 1, 3]))
    outcomes = Outcomes(
        indices=np.array([0, 1]), num_correct=np.array([1, 7]), num_counted=np.array([8, 8]), step=0
    )
    slopes.observe(outcomes, bucket_logits_K=np.zeros(2))
    assert slopes.slope_K[0] > 0.5
    assert slopes.state_dict()["rest"]["slopes"]["t"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("decay", "before", "after"),
    [
        # .98 of the evidence, and .02 of the prior, which is for a slope of 0 with a weight of 1.
        ({}, (1.0, 1.0), (0.98, 1.0)),
        ({}, (1.0, 51.0), (49.98 / 50, 50.0)),
        # Half of 3 at slope 1, and half of 1 at slope 0.
        ({"decay": 0.5}, (1.0, 3.0), (0.75, 2.0)),
        ({"decay": 1.0}, (1.0, 3.0), (1.0, 3.0)),
    ],
)
def test_a_round_that_says_nothing_new_takes_the_slope_a_step_back_to_its_prior(
    decay, before, after
):
    slopes = DifficultySlopes(pool_index([0, 0]), np.float32([3, 1]), **decay)
    slopes.load_state_dict({"columns": {}, "rest": {"slopes": {"s": before}}})
    # A bucket at logit 50 is solved whatever the slope: all correct is no surprise.
    solved = Outcomes(
        indices=np.arange(2), num_correct=np.full(2, 8), num_counted=np.full(2, 8), step=1
    )
    slopes.observe(solved, bucket_logits_K=np.array([50.0]))
    assert slopes.state_dict()["rest"]["slopes"]["s"] == pytest.approx(after)


def test_state_brings_the_offsets_back_to_the_bit():
    first = Simulated(-1.0).learn(3)
    second = Simulated(-1.0)
    second.slopes.load_state_dict(json.loads(json.dumps(first.slopes.state_dict())))
    np.testing.assert_array_equal(second.slopes.slope_K, first.slopes.slope_K)
