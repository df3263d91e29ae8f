"""Controllers against their equations."""

import pytest

from rl_llm.errors import ConfigError
from rl_llm.kl import Constant, GrpoD, KLFacts


def facts(step, total_steps=100):
    return KLFacts(
        ref_nats_per_token=0.0,
        ref_nats_per_response=0.0,
        old_nats_per_token=0.0,
        accuracy=0.5,
        step=step,
        total_steps=total_steps,
    )


def beta_after(controller, step):
    controller.observe(facts(step))
    return controller.beta


@pytest.mark.parametrize(
    ("low", "high", "start", "bottom", "end"),
    [(0.04, 0.10, 0.07, 0.04, 0.10), (0.0, 0.02, 0.01, 0.0, 0.02)],
)
def test_grpo_d_falls_from_the_middle_to_min_at_30_percent_and_rises_to_max(
    low, high, start, bottom, end
):
    controller = GrpoD(min=low, max=high, valley=0.3, total_steps=100)
    assert controller.beta == pytest.approx(start)
    assert beta_after(controller, 15) == pytest.approx((start + bottom) / 2)
    assert beta_after(controller, 30) == pytest.approx(bottom)
    assert beta_after(controller, 65) == pytest.approx((bottom + end) / 2)
    assert beta_after(controller, 100) == pytest.approx(end)


def test_grpo_d_never_passes_max():
    assert beta_after(GrpoD(min=0.0, max=0.02, valley=0.3, total_steps=100), 130) == 0.02


def test_a_resumed_grpo_d_has_the_same_beta():
    first = GrpoD(total_steps=100)
    first.observe(facts(42))
    second = GrpoD(total_steps=100)
    second.load_state_dict(first.state_dict())
    assert second.beta == first.beta != GrpoD(total_steps=100).beta


def test_constant_zero_needs_no_reference_and_another_constant_does():
    assert not Constant(beta=0.0, total_steps=1).needs_reference
    assert Constant(beta=0.1, total_steps=1).needs_reference
    assert beta_after(Constant(beta=0.1, total_steps=1), 1) == 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(beta=-0.1, total_steps=1), "beta=-0.1"),
        (lambda: GrpoD(min=0.1, max=0.1, total_steps=1), "min < max"),
        (lambda: GrpoD(valley=1.0, total_steps=1), "valley=1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
