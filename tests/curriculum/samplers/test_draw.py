"""Draws without replacement: the first arrivals, at -log(uniform) / p each, and no others."""

import numpy as np
import pytest

from rl_llm.curriculum.samplers.draw import draw_without_replacement
from rl_llm.seeds import derive_rng


class Noise:
    """Gives the exponentials that a test names."""

    def __init__(self, *noise):
        self.noise = np.array(noise, float)

    def standard_exponential(self, count):
        assert count == len(self.noise)
        return self.noise


def draw(probabilities, count, *noise):
    return draw_without_replacement(np.array(probabilities), count, rng=Noise(*noise)).tolist()


def test_the_smallest_exponentials_over_probabilities_come_first():
    # Arrivals: 2/.5 = 4, .9/.3 = 3, 1/.2 = 5.
    assert draw([0.5, 0.3, 0.2], 2, 2.0, 0.9, 1.0) == [1, 0]
    assert draw([0.5, 0.3, 0.2], 9, 2.0, 0.9, 1.0) == [1, 0, 2]


def test_what_has_probability_zero_is_never_drawn_even_by_an_exponential_of_zero():
    assert draw([0.0, 1.0, 0.0], 3, 0.0, 5.0, 1.0) == [1]
    assert draw([0.0, 0.0], 1, 1.0, 0.0) == []


def test_what_arrives_too_late_for_a_float_is_still_drawn_when_nothing_else_is_left():
    assert draw([1e-310, 1.0, 0.0], 3, 1.0, 1.0, 1.0) == [1, 0]


def test_nothing_is_drawn_of_nothing_and_when_none_are_asked_for():
    assert draw([], 3) == []
    assert draw([0.5, 0.5], 0, 1.0, 1.0) == []


def test_equal_arrivals_are_drawn_in_the_order_of_the_pool():
    assert draw([0.25] * 4, 3, 1.0, 1.0, 0.5, 1.0) == [2, 0, 1]
    assert draw([0.001] * 5_000, 40, *[1.0] * 5_000) == list(range(40))


@pytest.mark.parametrize("count", [1, 60, 1_000, 19_999])
@pytest.mark.parametrize("layout", ["even", "in_turns", "sorted", "one_part", "very_uneven"])
def test_a_large_pool_gives_just_what_sorting_all_of_it_gives(layout, count):
    num_N = 20_000
    position_N = np.arange(num_N)
    weight_N = {
        "even": np.ones(num_N),
        "in_turns": np.where(position_N % 61 == 0, 1e-9, 1.0),  # The sample sees the rare alone.
        "sorted": np.exp(-position_N / 500),
        "one_part": np.where(position_N < 30, 1.0, 0.0),
        "very_uneven": np.where(position_N % 977 == 0, 1.0, 1e-200),
    }[layout]
    probability_N = weight_N / weight_N.sum()
    arrival_N = derive_rng("noise", count).standard_exponential(num_N)
    with np.errstate(divide="ignore"):
        in_order = np.argsort(arrival_N / probability_N, kind="stable")
    expected = in_order[: min(count, np.count_nonzero(weight_N))]
    drawn = draw_without_replacement(probability_N, count, rng=derive_rng("noise", count))
    assert drawn.tolist() == expected.tolist()
