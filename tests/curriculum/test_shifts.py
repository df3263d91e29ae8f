"""The shifts of a round, against the posterior written out."""

import numpy as np
import pytest
from scipy.optimize import minimize

from rl_llm.curriculum import PoolIndex
from rl_llm.curriculum.shifts import Gain, Neighbours, Seen, Shifts, find_shifts

IDS = np.array([0, 0, 1, 3, 3, 3])
LEARNT = np.array([True, False, True, False, True, True])
SEEN = Seen(
    logits=np.array([-1.0, 0.5, 2.0, -2.0, 0.0, 1.0]),
    counted=np.array([8, 8, 4, 8, 8, 8]),
    correct=np.array([3, 6, 2, 0, 7, 8]),
)
KNOWN = Seen(
    logits=np.array([0.3, 1.5, -3.0, -0.4]),
    counted=np.array([9.0, 1.0, 5.0, 30.0]),
    correct=np.array([9.0, 1.0, 5.0, 30.0]) / (1 + np.exp(-np.array([0.3, 1.5, -3.0, -0.4]))),
)
INFORMATION, UNUSED = 8.0, 0.1
# Of a bucket that the round shows, the inverse of c m (1 - m): how little was known of it. Bucket 2
# is not shown.
VARIANCE = [1 / (9 * 0.24446), 1 / 0.14915, 0.0, 1 / (30 * 0.24026)]


def neighbours(*, coupling, sources="aaab", levels=(3, 1, 2, 4)):
    index = PoolIndex(
        bucket_ids=np.arange(4, dtype=np.int32),
        bucket_names=tuple("wxyz"),
        bucket_sources=tuple(sources),
        bucket_levels=levels,
        endless_K=np.zeros(4, np.bool_),
    )
    return Neighbours(index, coupling=coupling)


def gain_of(*, logits, most=2.0):
    """A gain that believes `logits`, of which a tenth more was found."""
    gain = Gain(most=most)
    gain.take([logits + UNUSED, INFORMATION, 0])
    return gain


def log_posterior(found, pairs, coupling):
    """Bernoulli trials at the moved rates, and the priors of neighbours and of the gain."""
    shift_K, gain = found[:4], found[4]
    total = -0.5 * INFORMATION * (gain - UNUSED) ** 2
    for low, high in pairs:
        apart = 1 / coupling + VARIANCE[low] + VARIANCE[high]
        total -= 0.5 * (shift_K[low] - shift_K[high]) ** 2 / apart
    moved = [
        (SEEN, SEEN.logits + shift_K[IDS] + gain * LEARNT),
        (KNOWN, KNOWN.logits + shift_K),
    ]
    for each, logits in moved:
        total += np.sum(each.correct * logits - each.counted * np.logaddexp(0.0, logits))
    return total


@pytest.mark.parametrize(
    ("coupling", "sources", "levels", "pairs"),
    [
        (0.0, "aaaa", (3, 1, 2, 4), []),
        (5.0, "aaaa", (3, 1, 2, 4), [(1, 2), (2, 0), (0, 3)]),  # levels 1, 2, 3, 4
        (5.0, "aaab", (3, 1, 2, 4), [(1, 2), (2, 0)]),
        (5.0, "aaaa", (3, 1, "hard", "harder"), [(1, 0)]),
    ],
    ids=["alone", "one source", "two sources", "names"],
)
def test_shifts_are_where_the_posterior_is_highest(coupling, sources, levels, pairs):
    found = find_shifts(
        SEEN,
        IDS,
        LEARNT,
        known=KNOWN,
        neighbours=neighbours(coupling=coupling, sources=sources, levels=levels),
        gain=gain_of(logits=0.2),
    )

    def best(function, size):
        return minimize(function, np.zeros(size), method="BFGS", tol=1e-10).x

    # The gain is free beside the shifts; the shifts are those without more of it.
    assert found.gain == pytest.approx(
        best(lambda x: -log_posterior(x, pairs, coupling), 5)[4], abs=1e-4
    )
    assert found.bucket_K == pytest.approx(
        best(lambda x: -log_posterior(np.append(x, 0.0), pairs, coupling), 4), abs=1e-4
    )


def test_the_information_is_that_of_the_problems_that_were_learnt_from():
    gain = gain_of(logits=0.2)
    gain.information = 1e12  # So sure that the round changes nothing.
    found = find_shifts(
        SEEN, IDS, LEARNT, known=KNOWN, neighbours=neighbours(coupling=0.0), gain=gain
    )
    assert found.gain == pytest.approx(UNUSED, abs=1e-9)
    shift_K = minimize(
        lambda x: -log_posterior(np.append(x, UNUSED), [], 0.0),
        np.zeros(4),
        method="BFGS",
        tol=1e-10,
    ).x
    logits = (SEEN.logits + shift_K[IDS] + UNUSED)[LEARNT]
    rates = 1 / (1 + np.exp(-logits))
    expected = np.sum(SEEN.counted[LEARNT] * rates * (1 - rates))
    assert found.information == pytest.approx(expected, rel=1e-4)


def test_a_round_without_problems_that_were_learnt_from_tells_nothing_of_the_gain():
    gain = gain_of(logits=0.2)
    nobody = np.zeros(6, bool)
    found = find_shifts(
        SEEN, IDS, nobody, known=KNOWN, neighbours=neighbours(coupling=0.0), gain=gain
    )
    gain.learn(found)
    assert gain.logits == pytest.approx(0.2)
    assert (gain.information, gain.unused) == pytest.approx((INFORMATION, UNUSED))


def test_a_tenth_of_a_logit_is_left_out_of_the_gain_and_it_stays_within_its_bounds():
    gain, seen = gain_of(logits=0.0, most=1.0), []
    for shift in (-0.5, 0.05, 0.1, 0.3, 5.0, -0.2):
        gain.learn(Shifts(bucket_K=np.zeros(0), gain=shift, information=1.0))
        seen.append(gain.logits)
    # Found: 0, .05, .1, .3, then 1.1 at most, and .8; each shift counts from what is believed.
    assert seen == pytest.approx([0.0, 0.0, 0.0, 0.2, 1.0, 0.7])


def test_what_is_known_of_the_gain_fades_by_three_hundredths_a_step_to_what_it_began_with():
    gain = Gain(most=2.0)
    gain.learn(Shifts(bucket_K=np.zeros(1), gain=0.5, information=92.0))
    for step, information in ((1, 97.0), (1, 97.0), (2, 94.09)):  # Of 8 + 92.
        gain.begin(step)
        assert gain.information == pytest.approx(information)
    for step in range(3, 200):
        gain.begin(step)
    assert gain.information == 8.0
