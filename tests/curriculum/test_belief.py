import inspect
import json
import math

import numpy as np
import pytest

from rl_llm.config.curriculum import BeliefSection
from rl_llm.curriculum import BetaBelief, Outcomes, PoolBelief, PoolIndex, informative_probability
from rl_llm.errors import ConfigError, InputError


def pool_index(bucket_ids, endless=(), levels=None):
    count = max(bucket_ids) + 1
    return PoolIndex(
        bucket_ids=np.array(bucket_ids, np.int32),
        bucket_names=tuple(f"bucket {k}" for k in range(count)),
        bucket_sources=("s",) * count,
        bucket_levels=tuple(levels or range(count)),
        endless_K=np.isin(np.arange(count), endless),
    )


def pool_belief(bucket_ids, *, endless=(), levels=None, **options):
    index = pool_index(bucket_ids, endless, levels)
    plain = {"prior_strength": 2.0, "visit_decay": 1.0, "bucket_decay": 1.0, "max_drift": 0.0}
    plain |= {"max_gain": 0.0, "coupling": 0.0}
    return PoolBelief(index, **(plain | options))


def observe(belief, step, num_counted=8, **num_correct):
    """`observe(belief, 0, p0=3)`: 3 of 8 completions of problem 0 are correct."""
    belief.observe(
        Outcomes(
            indices=np.array([int(name[1:]) for name in num_correct], np.int64),
            num_correct=np.array(list(num_correct.values()), np.int64),
            num_counted=np.full(len(num_correct), num_counted, np.int64),
            step=step,
        )
    )


def parameters(belief, position):
    beta = belief.beta(np.array([position]))
    return beta.a[0], beta.b[0]


@pytest.mark.parametrize(
    ("a", "b", "group_size", "expected"),
    [
        (1, 1, 8, 7 / 9),  # every number of correct completions, 0 to 8, is equally likely
        (1, 1, 10, 9 / 11),  # more than 8 factors
        (1, 1, 16, 15 / 17),
        (1, 3, 2, 0.3),  # 1 - 1*2/(4*5) - 3*4/(4*5)
        (2.5, 0.5, 1, 0.0),  # one completion never differs from itself
    ],
)
def test_informative_probability_has_the_hand_worked_value(a, b, group_size, expected):
    assert informative_probability(a, b, group_size=group_size) == pytest.approx(expected, 1e-12)


@pytest.mark.parametrize(("p", "expected"), [(0.05, 0.34), (0.1, 0.57), (0.2, 0.83), (0.5, 0.99)])
def test_a_sure_belief_gives_the_known_pass_rate_formula(p, expected):
    found = informative_probability(1e7 * p, 1e7 * (1 - p), group_size=8)
    assert found == pytest.approx(expected, abs=0.005)
    assert found == pytest.approx(1 - p**8 - (1 - p) ** 8, abs=1e-5)


def test_informative_probability_is_elementwise_and_symmetric():
    found = informative_probability(np.array([1.0, 3.0]), np.array([3.0, 1.0]), group_size=2)
    np.testing.assert_allclose(found, [0.3, 0.3], rtol=1e-12)


def test_huge_strengths_and_groups_do_not_overflow():
    assert informative_probability(1e30, 1e30, group_size=64) == pytest.approx(1.0)
    assert informative_probability(1e-300, 1e30, group_size=64) == pytest.approx(0.0)


def test_a_group_that_is_hardly_ever_mixed_keeps_all_its_digits():
    # a = 1, b = x: 1 - 2/((1+x)(2+x)) - x(1+x)/((1+x)(2+x)) = 2x/((1+x)(2+x))
    tiny = 1e-12
    expected = 2 * tiny / ((1 + tiny) * (2 + tiny))
    assert informative_probability(1.0, tiny, group_size=2) == pytest.approx(expected, rel=1e-14)
    assert informative_probability(1e9, 1e-3, group_size=2) == pytest.approx(2e-12, rel=1e-8)


def test_single_precision_stays_single_and_close():
    a, b = np.float32([0.05, 3, 80]), np.float32([60, 3, 0.01])
    found = informative_probability(a, b, group_size=8)
    assert found.dtype == np.float32
    double = informative_probability(a.astype(float), b.astype(float), group_size=8)
    np.testing.assert_allclose(found, double, rtol=2e-6)


def test_impossible_group_sizes_and_parameters_are_refused():
    with pytest.raises(InputError, match="group_size=0"):
        informative_probability(1, 1, group_size=0)
    with pytest.raises(InputError, match=r"b=-1\.0: must be above 0"):
        BetaBelief(np.array([1.0, 2.0]), np.array([3.0, -1.0]))
    with pytest.raises(InputError, match="a=0"):
        BetaBelief(0, 1)


def test_beta_mean_is_a_over_a_plus_b():
    assert BetaBelief(1, 3).mean == 0.25


def test_an_unseen_problem_has_the_prior_one_half():
    assert parameters(pool_belief([0]), 0) == (1.0, 1.0)


def test_one_visit_adds_its_counts_to_the_bucket_prior():
    belief = pool_belief([0, 0, 1])
    observe(belief, 0, p0=3)
    # bucket 0: m = 3.5/9; bucket 1 is unseen
    assert parameters(belief, 0) == pytest.approx((7 / 9 + 3, 11 / 9 + 5))
    assert parameters(belief, 1) == pytest.approx((7 / 9, 11 / 9))
    assert parameters(belief, 2) == pytest.approx((1.0, 1.0))


def test_earlier_visits_fade_by_the_visit_decay():
    belief = pool_belief([0], visit_decay=0.5)
    observe(belief, 0, p0=3)
    observe(belief, 1, p0=8)
    rate = belief.bucket_rates()[0]
    assert parameters(belief, 0) == pytest.approx((2 * rate + 9.5, 2 * (1 - rate) + 2.5), rel=1e-6)


def test_a_visit_of_half_a_group_fades_the_earlier_ones_by_half_as_much():
    belief = pool_belief([0], visit_decay=0.25)
    observe(belief, 0, p0=8)
    observe(belief, 1, num_counted=4, p0=0)
    rate = belief.bucket_rates()[0]
    # a whole visit leaves a quarter of the 8, this one the square root of that: a half
    expected = (2 * rate + 4.0, 2 * (1 - rate) + 4.0)
    assert parameters(belief, 0) == pytest.approx(expected, rel=1e-6)


def test_buckets_fade_once_a_step_however_many_rounds_it_has():
    belief = pool_belief([0, 0, 0], bucket_decay=0.5)
    observe(belief, 0, p0=4)
    observe(belief, 0, p1=8)
    assert belief.bucket_rates()[0] == pytest.approx(12.5 / 17)
    observe(belief, 7, p2=0)
    # 16 earlier completions count half, and the half that m starts with counts in full
    assert belief.bucket_rates()[0] == pytest.approx(12.5 / 17 * 9 / 17)


def test_an_evaluation_of_a_step_before_what_was_generated_ahead_discounts_nothing():
    belief = pool_belief([0, 0, 0], bucket_decay=0.5)
    for step, problem in ((2, "p0"), (1, "p1"), (2, "p2")):
        observe(belief, step, **{problem: 4})
    believed = belief.bucket_beta()
    # Three groups of 8; 8 completions of a problem count for 8 / ((2 + 8) / (2 + 1)) = 2.4.
    assert believed.a[0] + believed.b[0] == pytest.approx(3 * 2.4 + 1)


def test_a_waiting_problem_moves_with_the_odds_of_its_bucket_and_keeps_its_strength():
    belief = pool_belief([0, 0, 0], bucket_decay=0.0, max_drift=10.0)
    observe(belief, 0, p0=4, p1=4)
    assert parameters(belief, 0) == pytest.approx((5.0, 5.0), rel=1e-6)
    observe(belief, 1, p1=8)  # the bucket goes from odds 1 to m = 8.5/9, odds 17
    assert parameters(belief, 0) == pytest.approx((10 * 17 / 18, 10 / 18), rel=1e-6)
    assert parameters(belief, 2) == pytest.approx((2 * 17 / 18, 2 / 18), rel=1e-6)


def test_old_evidence_is_rebased_before_new_counts_are_added():
    belief = pool_belief([0, 0], bucket_decay=0.0, max_drift=10.0)
    observe(belief, 0, p0=4, p1=4)
    observe(belief, 1, p0=0)  # odds 1 -> 1/17: the old (5, 5) becomes (10, 170)/18
    assert parameters(belief, 0) == pytest.approx((10 / 18, 170 / 18 + 8), rel=1e-6)


def test_evidence_drifts_by_no_more_than_the_limit():
    belief = pool_belief([0, 0], bucket_decay=0.0, max_drift=math.log(3))
    observe(belief, 0, p0=4, p1=4)
    observe(belief, 1, p1=8)
    # evidence 4 of 8 and a prior of odds 17/3, all moved by a factor 3: odds 3 (1.7+4)/(.3+4)
    assert belief.beta(np.array([0])).mean[0] == pytest.approx(17.1 / 21.4, rel=1e-6)


def test_a_problem_without_counted_completions_is_left_as_it_was():
    belief = pool_belief([0, 0])
    nothing = np.zeros(1, np.int64)
    belief.observe(
        Outcomes(indices=np.array([1]), num_correct=nothing, num_counted=nothing, step=0)
    )
    assert parameters(belief, 1) == (1.0, 1.0)
    assert belief.bucket_rates()[0] == 0.5


def test_a_bucket_moves_by_how_problems_did_against_what_was_believed_of_them():
    belief = pool_belief([0, 0])
    observe(belief, 0, p0=0, p1=8)
    observe(belief, 1, p0=0, p1=8)  # as believed: 1/2 of both
    assert belief.bucket_rates()[0] == pytest.approx(0.5)
    # Of 18, one is right, so 1/18 is believed of p0, odds 1/17. Now 8 of its completions are wrong,
    # beside 32 earlier ones of the bucket and 1 more at the rate 1/2: the shift d that makes
    # 8 sigmoid(d - log 17) + 33 sigmoid(d) = 0 + 33/2 is -.0513.
    observe(belief, 2, p0=0)
    rate = belief.bucket_rates()[0]
    odds = rate / (1 - rate)
    assert np.log(odds) == pytest.approx(-0.0513, abs=5e-5)
    assert 8 * odds / (17 + odds) + 33 * rate == pytest.approx(16.5, rel=1e-6)


def test_problems_of_an_endless_bucket_have_the_belief_of_the_bucket_alone():
    belief = pool_belief([0, 0], endless=[0])
    observe(belief, 0, p0=3)
    prior = (7 / 9, 11 / 9)
    assert parameters(belief, 0) == parameters(belief, 1) == pytest.approx(prior, rel=1e-6)


def test_a_bucket_that_is_always_solved_stays_finite_and_can_fall_again():
    belief = pool_belief([0], bucket_decay=0.9, visit_decay=0.9)
    for step in range(2000):
        observe(belief, step, p0=8)
    assert 8.0 < belief.bucket_logits[0] <= 10.0
    mastered = belief.beta(slice(None)).mean[0]
    assert 0.999 < mastered < 1.0
    observe(belief, 2000, p0=0)
    assert belief.bucket_logits[0] < 7.0
    assert belief.beta(slice(None)).mean[0] < 0.95


def test_consecutive_scattered_and_repeated_positions_have_the_same_beliefs():
    belief = pool_belief([0, 1, 0, 1, 0], max_drift=2.0)
    observe(belief, 0, p0=3, p1=7, p3=1)
    observe(belief, 1, p2=8)
    everything = belief.beta(slice(None))
    for positions in ([0, 1, 2, 3, 4], [1, 2, 3], [3, 0, 4], [2, 4, 3, 1], [2, 2, 4]):
        beta = belief.beta(np.array(positions))
        np.testing.assert_array_equal(beta.a, everything.a[positions])
        np.testing.assert_array_equal(beta.b, everything.b[positions])


def test_priors_are_own_evidence_and_their_mean_is_the_rate_of_the_bucket():
    belief = pool_belief([0, 0, 0, 1])
    belief.set_priors(np.float32([6, 1, 0, 0]), np.float32([2, 3, 0, 0]))
    # rates 3/4 and 1/4 over 12 completions: m = (6 + .5) / 13 = 1/2
    assert belief.bucket_rates().tolist() == [0.5, 0.5]
    # 12 completions in groups of 8 of problems that differ like a Beta(2, .): worth 12 * 3/10.
    assert belief.bucket_beta().a == pytest.approx([(3.6 + 1) / 2, 0.5])
    assert parameters(belief, 0) == pytest.approx((7.0, 3.0))
    assert parameters(belief, 1) == pytest.approx((2.0, 4.0))
    assert parameters(belief, 2) == parameters(belief, 3) == (1.0, 1.0)


def test_a_prior_moves_with_its_bucket_from_where_that_started():
    belief = pool_belief([0, 0], bucket_decay=0.0, max_drift=10.0)
    belief.set_priors(np.float32([7, 0]), np.float32([1, 0]))
    # m = 7.5/9, so (2 * 7.5/9 + 7, 2 * 1.5/9 + 1) = (26/3, 4/3); then 0 of 8 takes odds 5 to
    # 7.5/9 / 9 = 7.5/81, odds 7.5/73.5: a factor of 1/49
    assert parameters(belief, 0) == pytest.approx((26 / 3, 4 / 3), rel=1e-6)
    observe(belief, 0, p1=0)
    assert parameters(belief, 0) == pytest.approx((10 * 26 / 222, 10 * 196 / 222), rel=1e-6)


def test_the_prior_of_a_bucket_is_worth_no_more_than_64_completions():
    belief = pool_belief([0] * 100)
    belief.set_priors(np.full(100, 2.0, np.float32), np.full(100, 6.0, np.float32))
    # 64 * 3/10 and 1, at the rate of (.25 * 64 + .5) / 65
    assert belief.bucket_beta().a[0] == pytest.approx(20.2 * 16.5 / 65)
    assert belief.bucket_beta().b[0] == pytest.approx(20.2 * 48.5 / 65)


def test_priors_of_endless_problems_are_evidence_of_the_bucket_alone():
    belief = pool_belief([0, 0], endless=[0])
    belief.set_priors(np.float32([7, 0]), np.float32([1, 0]))
    assert parameters(belief, 0) == parameters(belief, 1) == pytest.approx((15 / 9, 3 / 9))


def test_priors_after_an_observation_are_a_mistake():
    belief = pool_belief([0])
    observe(belief, 0, p0=4)
    with pytest.raises(AssertionError, match="before anything is observed"):
        belief.set_priors(np.float32([1]), np.float32([1]))


def test_an_offset_multiplies_the_odds_of_the_prior():
    belief = pool_belief([0, 0, 0])
    belief.set_offsets(np.float32([1, -1, 0]), np.array([math.log(3)]))
    assert parameters(belief, 0) == pytest.approx((1.5, 0.5), rel=1e-6)
    assert parameters(belief, 1) == pytest.approx((0.5, 1.5), rel=1e-6)
    assert parameters(belief, 2) == (1.0, 1.0)
    observe(belief, 0, p0=8, p1=0)  # believed 1/2 together, and so it is: m stays
    assert belief.bucket_rates()[0] == pytest.approx(0.5)
    assert parameters(belief, 0) == pytest.approx((9.5, 0.5), rel=1e-6)


def test_an_offset_is_the_slope_of_its_bucket_and_at_most_10_logits():
    belief = pool_belief([0, 0, 1, 1])
    belief.set_offsets(np.float32([1, -1, 1, -60]), np.array([0.5, -2.0]))
    offsets = [belief.prior_offset(position) for position in range(4)]
    assert offsets == pytest.approx([0.5, -0.5, -2.0, 10.0])


def test_a_later_change_of_offsets_moves_the_prior_and_no_evidence():
    belief = pool_belief([0, 0], max_drift=10.0)
    observe(belief, 0, p0=4, p1=4)
    belief.set_offsets(np.float32([1, -1]), np.array([math.log(4)]))
    # the prior (1, 1) becomes (1.6, .4); the 4 correct and 4 wrong completions stay
    assert parameters(belief, 0) == pytest.approx((5.6, 4.4), rel=1e-6)
    assert parameters(belief, 1) == pytest.approx((4.4, 5.6), rel=1e-6)


def test_state_brings_back_beliefs_with_priors_and_offsets_to_the_bit():
    first, second = (pool_belief([0, 0, 1, 1], visit_decay=0.9, max_drift=2.0) for _ in range(2))
    offsets = (np.float32([0.3, -0.3, 0.1, -0.1]), np.array([1.0, 2.0]))
    first.set_offsets(*offsets)
    first.set_priors(np.float32([5, 0, 1, 0]), np.float32([1, 0, 2, 0]))
    observe(first, 0, p0=3, p2=8)
    second.set_offsets(*offsets)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), default=np.ndarray.tolist)))
    for step, belief in ((1, first), (1, second)):
        observe(belief, step, p1=2, p2=1)
    beta, again = first.beta(slice(None)), second.beta(slice(None))
    np.testing.assert_array_equal(beta.a, again.a)
    np.testing.assert_array_equal(beta.b, again.b)


@pytest.mark.parametrize("into", [1, 2], ids=["another_level", "a_new_level"])
def test_a_problem_of_another_level_keeps_its_own_evidence_and_its_own_drift(into):
    before = pool_belief([0, 0, 1, 1], max_drift=2.0)
    observe(before, 0, p0=4, p2=0, p3=1)
    visit_logit = before.bucket_logits[0]
    observe(before, 1, p1=8)
    drift = before.bucket_logits[0] - visit_logit
    assert drift > 0.1
    after = pool_belief([into, 0, 1, 1, 2], max_drift=2.0)
    state = before.state_dict()  # A fifth problem has joined.
    state["columns"] = {name: np.append(own, own[:1] * 0) for name, own in state["columns"].items()}
    after.load_state_dict(state)
    # At the visit the level was lower by the drift; of kappa = 2 these are correct, beside 4 of 8.
    at_visit = 2.0 / (1.0 + math.exp(drift - after.bucket_logits[into]))
    odds = (at_visit + 4.0) / (2.0 - at_visit + 4.0) * math.exp(drift)
    expected = (10.0 * odds / (1.0 + odds), 10.0 / (1.0 + odds))
    assert parameters(after, 0) == pytest.approx(expected, rel=1e-5)


def learnt_gain(belief, *, rise, steps=40):
    """Show problems of which the even ones are learnt from and rise by so many logits each time."""
    rates = np.full(40, 0.2)
    for step in range(steps):
        chosen = np.arange(step % 4, 40, 4)
        observe(belief, step, num_counted=1000, **{f"p{i}": round(1000 * rates[i]) for i in chosen})
        learnt = chosen[chosen % 2 == 0]
        belief.learn_from(learnt)
        rates[learnt] = 1 / (1 + (1 - rates[learnt]) / rates[learnt] * np.exp(-rise))


def test_the_gain_is_by_how_much_problems_rise_from_being_learnt_from():
    belief = pool_belief([0] * 40, group_size=1000, max_gain=2.0, max_drift=2.0, bucket_decay=0.9)
    learnt_gain(belief, rise=0.3)
    assert belief.gain == pytest.approx(0.3, abs=0.03)


def test_what_is_known_of_the_gain_fades_with_every_step_that_shows_what_was_learnt_from():
    belief = pool_belief([0] * 40, group_size=1000, max_gain=2.0, max_drift=2.0, bucket_decay=0.9)
    learnt_gain(belief, rise=0.0, steps=400)
    # Every other step shows 10 problems at .2 that were learnt from, 1,000 completions each; .97
    # remain of what was known, so that comes to what 1 / .03 such steps tell.
    information = belief.state_dict()["rest"]["gain"][1]
    assert information == pytest.approx(10 * 1000 * 0.2 * 0.8 / 0.03, rel=0.02)


@pytest.mark.parametrize(("rise", "most", "found"), [(0.3, 0.1, 0.1), (-0.3, 2.0, 0.0)])
def test_the_gain_stays_between_nothing_and_the_limit(rise, most, found):
    belief = pool_belief([0] * 40, group_size=1000, max_gain=most, max_drift=2.0, bucket_decay=0.9)
    learnt_gain(belief, rise=rise)
    assert belief.gain == found


def with_gain(**options):
    """Return a belief whose gain is log 3, with 1 and 3 just seen half correct, 1 learnt from."""
    belief = pool_belief([0, 0, 0, 0], max_gain=2.0, **options)
    observe(belief, 0, p0=4, p1=4, p2=4, p3=4)
    state = belief.state_dict()
    state["rest"]["gain"] = [math.log(3) + 0.1, 1e12, 0]  # A tenth of a logit is left out.
    belief.load_state_dict(state)
    belief.learn_from(np.array([1]))
    return belief


def test_a_belief_rises_by_the_gain_once_learnt_from_and_keeps_its_strength():
    belief = with_gain()
    # Beta(1 + 4, 1 + 4): odds 1 times 3, strength 10.
    assert parameters(belief, 1) == pytest.approx((7.5, 2.5), rel=1e-6)
    assert parameters(belief, 3) == pytest.approx((5.0, 5.0), rel=1e-6)


def test_what_was_gained_is_kept_at_the_next_visit_which_is_not_learnt_from_yet():
    belief = with_gain()
    observe(belief, 1, p1=6)  # 6 of 8, as believed
    assert belief.bucket_rates()[0] == pytest.approx(0.5, abs=1e-6)
    assert parameters(belief, 1) == pytest.approx((7.5 + 6, 2.5 + 2), rel=1e-5)


@pytest.mark.parametrize(("rate", "num_problems"), [(0.3, 40), (0.6, 40), (0.6, 252)])
def test_a_model_that_stands_still_is_believed_to_stand_still(rate, num_problems):
    """Every mixed group is learnt from, and nothing comes of it, for 300 steps."""
    found = []
    for seed in range(5):
        belief, rng = PoolBelief(pool_index([0] * num_problems)), np.random.default_rng(seed)
        for step in range(300):
            drawn = rng.permutation(num_problems)[:8]
            correct = rng.binomial(8, rate, 8)
            belief.observe(
                Outcomes(indices=drawn, num_correct=correct, num_counted=np.full(8, 8), step=step)
            )
            belief.learn_from(drawn[(correct > 0) & (correct < 8)])
        found.append((belief.bucket_rates()[0], belief.gain))
    assert np.mean(found, axis=0) == pytest.approx([rate, 0.0], abs=0.03)


def test_a_loss_of_problems_that_were_learnt_from_is_told_from_their_bucket():
    alone, gaining = (pool_belief([0] * 8, max_gain=most, max_drift=2.0) for most in (0.0, 2.0))
    for belief in (alone, gaining):
        for step in range(4):
            observe(belief, step, **{f"p{i}": 5 for i in range(8)})
            belief.learn_from(np.arange(8))
        observe(belief, 4, **{f"p{i}": 1 for i in range(8)})
    assert gaining.bucket_rates() == pytest.approx(alone.bucket_rates(), abs=0.01)


def test_a_resume_without_the_gain_forgets_who_was_learnt_from():
    first, second = with_gain(), pool_belief([0, 0, 0, 0])
    second.load_state_dict(first.state_dict())
    assert second.gain == 0.0
    assert not second.state_dict()["columns"]["belief_learnt"].any()


def test_the_recipes_defaults_are_those_of_the_class():
    parameters = inspect.signature(PoolBelief).parameters
    section = BeliefSection().model_dump()
    assert section == {name: parameters[name].default for name in section}


def test_without_the_option_nothing_is_gained():
    belief = pool_belief([0, 0], max_drift=2.0)
    learnt = pool_belief([0, 0], max_drift=2.0)
    for step in range(6):
        for each in (belief, learnt):
            observe(each, step, p0=2 + step, p1=4)
        learnt.learn_from(np.array([0]))
    assert learnt.gain == 0.0
    assert parameters(learnt, 0) == parameters(belief, 0)


def test_problems_of_an_endless_bucket_gain_nothing_of_their_own():
    belief = pool_belief([0, 0], endless=[0], max_gain=2.0)
    observe(belief, 0, p0=4)
    belief.learn_from(np.array([0]))
    assert not belief.state_dict()["columns"]["belief_learnt"].any()


def test_state_brings_back_the_gain_and_a_state_without_one_is_taken():
    first, second = with_gain(), pool_belief([0] * 4, max_gain=2.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), default=np.ndarray.tolist)))
    assert second.gain == first.gain
    assert parameters(second, 1) == parameters(first, 1)
    older = first.state_dict()
    del older["rest"]["gain"], older["columns"]["belief_learnt"]
    third = pool_belief([0] * 4, max_gain=2.0)
    third.load_state_dict(older)
    assert third.gain == 0.0
    assert parameters(third, 1) == parameters(first, 3)


def level_left_behind(**options):
    """Return the rates of three levels of which the middle one is seen once, and never solved,
    while its neighbours rise from .2 to .8."""
    belief = pool_belief([0, 1, 2], bucket_decay=0.8, max_drift=2.0, **options)
    observe(belief, 0, p0=2, p1=0, p2=2)
    for step in range(1, 60):
        right = 2 + round(5 * min(step / 30, 1))
        observe(belief, step, p0=right, p2=right)
    return belief.bucket_rates()


def test_a_level_that_nobody_sees_follows_its_neighbours_if_they_are_coupled():
    alone, coupled = level_left_behind(), level_left_behind(coupling=10.0)
    assert alone[1] < 0.1
    assert coupled[1] > 0.5
    assert coupled[[0, 2]] == pytest.approx(alone[[0, 2]], abs=0.07)


def test_levels_that_nothing_is_known_of_are_not_bound_to_each_other():
    """All right in one level and all wrong in the next: both are believed nearly as if alone."""
    alone, coupled = (pool_belief([0, 1], coupling=coupling) for coupling in (0.0, 10.0))
    for belief in (alone, coupled):
        observe(belief, 0, p0=8, p1=0)
    assert coupled.bucket_rates() == pytest.approx(alone.bucket_rates(), abs=0.06)
    # Once much is known of both, they move together: one more failure of one lowers the other.
    for step in range(1, 20):
        observe(coupled, step, p0=8, p1=0)
    before = coupled.bucket_rates()[0]
    observe(coupled, 20, p1=0)
    assert coupled.bucket_rates()[0] < before


def test_levels_that_are_names_are_no_neighbours():
    named = level_left_behind(coupling=10.0, levels=("easy", "hard", "harder"))
    assert named == pytest.approx(level_left_behind())


def test_of_neighbours_what_is_known_of_those_that_wait_is_forgotten_too():
    belief = pool_belief([0, 1, 2], bucket_decay=0.5, coupling=10.0)
    observe(belief, 0, p0=4, p1=4, p2=4)
    observe(belief, 1, p0=4)
    # 8 completions each; a third of the buckets is shown, so the others keep .5 ** (1/3).
    counted = [facts[1] for facts in belief.state_dict()["rest"]["buckets"].values()]
    assert counted == pytest.approx([8 * 0.5 + 8, 8 * 0.5 ** (1 / 3), 8 * 0.5 ** (1 / 3)])


def test_levels_without_a_neighbour_forget_nothing_while_they_wait():
    belief = pool_belief([0, 1, 2], levels=(1, 2, "easy"), bucket_decay=0.5, coupling=10.0)
    observe(belief, 0, p0=4, p1=4, p2=4)
    observe(belief, 1, p0=4)
    # Of the two neighbours one is shown: the other keeps .5 ** (1/2).
    counted = [facts[1] for facts in belief.state_dict()["rest"]["buckets"].values()]
    assert counted == pytest.approx([8 * 0.5 + 8, 8 * 0.5**0.5, 8])


def test_a_learner_that_improves_is_tracked_better_with_drift_than_without():
    """200 problems of one bucket whose logits rise from -2 to 2: the stale-easy bias."""

    def final_bias(max_drift):
        belief = pool_belief([0] * 200, bucket_decay=0.9, visit_decay=0.9, max_drift=max_drift)
        rng = np.random.default_rng(0)
        offsets = rng.normal(0.0, 0.5, 200)
        for step, level in enumerate(np.linspace(-2.0, 2.0, 60)):
            rates = 1 / (1 + np.exp(-(level + offsets)))
            drawn = rng.choice(200, 16, replace=False)
            observe(belief, step, **{f"p{i}": rng.binomial(8, rates[i]) for i in drawn})
        return np.mean(belief.beta(slice(None)).mean - rates)

    assert final_bias(0.0) < -0.15
    assert abs(final_bias(2.0)) < 0.08


def test_a_belief_remembers_13_bytes_of_a_problem():
    columns = pool_belief([0] * 1000).state_dict()["columns"]
    del columns["belief_bucket_logit"]  # Made for the state.
    assert sum(column.nbytes for column in columns.values()) == 13 * 1000


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("prior_strength", 0.0),
        ("visit_decay", 1.1),
        ("bucket_decay", -0.1),
        ("max_drift", -1.0),
        ("max_gain", -1.0),
        ("coupling", -1.0),
        ("coupling", 1e7),
    ],
)
def test_options_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=f"{option}={value}: must be"):
        pool_belief([0], **{option: value})


def test_own_counts_are_the_evidence_without_the_prior_and_whatever_its_offset():
    belief = pool_belief([0, 0, 1])
    belief.set_priors(np.array([6.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0]))
    belief.set_offsets(np.float32([1, -1, 0]), np.log([3.0, 1.0]))
    correct, wrong = belief.own_counts(np.array([1, 0]))
    np.testing.assert_allclose(correct, [0.0, 6.0], atol=1e-6)
    np.testing.assert_allclose(wrong, [0.0, 2.0], atol=1e-6)
    assert belief.has_evidence_N.tolist() == [True, False, False]
    assert belief.prior_offset(1) == pytest.approx(-math.log(3))


def test_own_counts_move_with_the_bucket_as_the_belief_does():
    belief = pool_belief([0], max_drift=2.0)
    belief.set_priors(np.array([4.0]), np.array([4.0]))
    state = belief.state_dict()
    state["rest"]["buckets"]["bucket 0"] = (math.log(3), 8.0, 1)
    state["columns"]["belief_bucket_logit"] = np.float32([math.log(3)])
    belief.load_state_dict(state)
    # Beta(5, 5) at odds 3 is Beta(7.5, 2.5), of which the bucket's 3/4 is worth 1.5 and 0.5.
    assert parameters(belief, 0) == pytest.approx((7.5, 2.5), rel=1e-6)
    correct, wrong = belief.own_counts(slice(None))
    assert (correct[0], wrong[0]) == pytest.approx((6.0, 2.0), rel=1e-6)
    assert belief.prior_offset(0) == 0.0


def test_own_counts_are_never_below_nought():
    belief = pool_belief([0], max_drift=2.0)
    belief.set_priors(np.array([0.0]), np.array([8.0]))
    state = belief.state_dict()
    state["rest"]["buckets"]["bucket 0"] = (-4.5, 8.0, 1)
    belief.load_state_dict(state)
    correct, wrong = belief.own_counts(slice(None))
    # All wrong, and its bucket worse since: a is below kappa times the bucket's rate.
    assert parameters(belief, 0)[0] < 2.0 * belief.bucket_rates()[0]
    assert correct[0] == 0.0 and wrong[0] == pytest.approx(8.0, rel=1e-2)
