"""Schedules against their equations."""

import pytest

from rl_llm.errors import ConfigError
from rl_llm.kl import Cosine, GrpoD, GrpoDRising, Linear


@pytest.fixture
def beta_after(facts):
    def after(controller, step):
        controller.observe(facts(step))
        return controller.beta

    return after


@pytest.mark.parametrize(
    ("low", "high", "start", "bottom", "end"),
    [(0.04, 0.10, 0.07, 0.04, 0.10), (0.0, 0.02, 0.01, 0.0, 0.02)],
)
def test_grpo_d_falls_from_the_middle_to_min_at_30_percent_and_rises_to_max(
    low, high, start, bottom, end, beta_after
):
    controller = GrpoD(min=low, max=high, valley=0.3, total_steps=100)
    assert controller.beta == pytest.approx(start)
    assert beta_after(controller, 15) == pytest.approx((start + bottom) / 2)
    assert beta_after(controller, 30) == pytest.approx(bottom)
    assert beta_after(controller, 65) == pytest.approx((bottom + end) / 2)
    assert beta_after(controller, 100) == pytest.approx(end)


def test_grpo_d_never_passes_max(beta_after):
    assert beta_after(GrpoD(min=0.0, max=0.02, valley=0.3, total_steps=100), 130) == 0.02


def test_grpo_d_rising_goes_straight_from_min_to_max(beta_after):
    controller = GrpoDRising(min=0.04, max=0.10, total_steps=100)
    assert controller.beta == pytest.approx(0.04)
    assert beta_after(controller, 30) == pytest.approx(0.058)
    assert beta_after(controller, 50) == pytest.approx(0.07)
    assert beta_after(controller, 100) == pytest.approx(0.10)
    assert beta_after(controller, 130) == pytest.approx(0.10)


def test_linear_goes_straight_over_the_run_or_over_fewer_steps_and_stays(beta_after):
    whole = Linear(start=0.1, end=0.02, total_steps=100)
    assert whole.beta == pytest.approx(0.1)
    assert beta_after(whole, 25) == pytest.approx(0.08)
    assert beta_after(whole, 100) == pytest.approx(0.02)
    short = Linear(start=0.1, end=0.02, over=50, total_steps=100)
    assert beta_after(short, 25) == pytest.approx(0.06)
    assert beta_after(short, 50) == beta_after(short, 80) == pytest.approx(0.02)


def test_cosine_is_half_way_in_the_middle_and_slow_at_both_ends(beta_after):
    # At a third, 1 - cos(60 degrees) = 1/2 of 2: a quarter of the way; at two thirds, 3 quarters.
    cosine = Cosine(start=0.1, end=0.02, over=60, total_steps=100)
    assert cosine.beta == pytest.approx(0.1)
    assert beta_after(cosine, 20) == pytest.approx(0.08)
    assert beta_after(cosine, 30) == pytest.approx(0.06)
    assert beta_after(cosine, 40) == pytest.approx(0.04)
    assert beta_after(cosine, 60) == beta_after(cosine, 90) == pytest.approx(0.02)
    assert beta_after(Cosine(start=0.0, end=0.1, total_steps=100), 50) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GrpoD(min=0.1, max=0.1, total_steps=1), "min < max"),
        (lambda: GrpoDRising(min=-0.1, max=0.1, total_steps=1), "min=-0.1 and max=0.1"),
        (
            lambda: GrpoD(valley=1.0, total_steps=1),
            r"valley=1\.0 .* lowest; use more than 0 and less than 1, such as 0\.3$",
        ),
        (lambda: Linear(start=-1.0, end=0.1, total_steps=1), "start=-1.0 rewards divergence"),
        (lambda: Cosine(start=0.1, end=float("inf"), total_steps=1), "end=inf is no coefficient"),
        (lambda: Cosine(start=0.1, end=0.0, over=0, total_steps=9), "over=0 steps is no length"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
