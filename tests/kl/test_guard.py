"""The guard around a controller: bounds, what it hands to it, and spikes."""

import math

import pytest

from rl_llm.errors import ConfigError
from rl_llm.kl import Constant, Guarded, Linear, Target


class Recorder:
    """A controller that remembers the facts it was given."""

    beta, needs_reference = 0.05, True

    def __init__(self):
        self.seen = []

    def observe(self, facts):
        self.seen.append(facts)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def target(beta):
    return Target(beta=beta, gain=0.3, nats_per_token=0.05, total_steps=100)


def feed(controller, facts, *nats):
    for each in nats:
        controller.observe(facts(ref_nats_per_token=each))
    return controller.beta


def test_beta_is_held_between_the_bounds(facts):
    guarded = Guarded(Linear(start=0.1, end=0.0, total_steps=100), floor=0.02, ceiling=0.06)
    found = []
    for step in (10, 50, 90):
        guarded.observe(facts(step))
        found.append(guarded.beta)
    assert found == pytest.approx([0.06, 0.05, 0.02])


def test_without_bounds_a_controller_is_itself(facts):
    guarded, bare = Guarded(target(0.1)), target(0.1)
    assert feed(guarded, facts, 0.06, 0.02, 0.0, 9.0) == feed(bare, facts, 0.06, 0.02, 0.0, 9.0)
    assert guarded.beta != 0.1


def test_a_multiplicative_controller_leaves_the_floor_at_once(facts):
    guarded, bare = Guarded(target(0.1), floor=0.01), target(0.1)
    low = [0.0] * 100
    assert feed(guarded, facts, *low) == 0.01
    assert feed(guarded, facts, 0.1) == pytest.approx(0.0106)
    assert feed(bare, facts, *low, 0.1) < 0.001


def test_a_multiplicative_controller_leaves_the_ceiling_at_once(facts):
    guarded = Guarded(target(0.1), ceiling=0.2)
    assert feed(guarded, facts, *[1.0] * 100) == 0.2
    assert feed(guarded, facts, 0.0) == pytest.approx(0.188)


def test_a_start_outside_the_bounds_begins_at_them(facts):
    guarded = Guarded(target(0.5), ceiling=0.2)
    assert guarded.beta == 0.2
    assert feed(guarded, facts, 0.0) == pytest.approx(0.188)


def test_a_resumed_run_under_a_lower_ceiling_keeps_to_it(facts):
    first, second = Guarded(target(0.1)), Guarded(target(0.1), ceiling=0.05)
    feed(first, facts, 1.0)
    second.load_state_dict(first.state_dict())
    assert second.beta == 0.05
    assert feed(second, facts, 0.0) == pytest.approx(0.047)


def test_a_spike_shows_as_so_many_times_the_running_median(facts):
    inner = Recorder()
    feed(Guarded(inner, spike=3.0), facts, *[0.01] * 8, *[0.03] * 8, 5.0, 0.05)
    # The median of 8 values of .01 and 8 of .03 is .02; the spike counts as one of the next 16.
    assert inner.seen[16].ref_nats_per_token == pytest.approx(0.06)
    assert inner.seen[17].ref_nats_per_token == 0.05


def test_every_divergence_is_held_by_its_own_median_and_nothing_else_is_touched(facts):
    inner = Recorder()
    guarded = Guarded(inner, spike=2.0)
    usual = {
        "ref_nats_per_token": 0.1,
        "ref_nats_per_response": 1.0,
        "old_nats_per_token": 0.01,
        "old_nats_per_response": 0.2,
    }
    for _ in range(16):
        guarded.observe(facts(**usual))
    guarded.observe(facts(7, **{name: 50 * nats for name, nats in usual.items()}, accuracy=0.9))
    assert inner.seen[-1] == facts(
        7,
        ref_nats_per_token=0.2,
        ref_nats_per_response=2.0,
        old_nats_per_token=0.02,
        old_nats_per_response=0.4,
        accuracy=0.9,
    )


def test_a_rise_that_lasts_passes_from_its_9th_update_on(facts):
    inner = Recorder()
    feed(Guarded(inner, spike=3.0), facts, *[0.01] * 16, *[1.0] * 9)
    assert [each.ref_nats_per_token for each in inner.seen[16:]] == [0.03] * 8 + [1.0]


def test_below_2_it_passes_from_its_10th(facts):
    inner = Recorder()
    feed(Guarded(inner, spike=1.5), facts, *[1.0] * 16, *[10.0] * 10)
    # Behind 8 of them the median lies half way: 1.5 * (1 + 10) / 2.
    assert [each.ref_nats_per_token for each in inner.seen[16:]] == [1.5] * 8 + [8.25, 10.0]


def test_the_growth_of_the_first_16_updates_passes(facts):
    inner = Recorder()
    growth = [0.0, *(1e-6 * 3.0**step for step in range(15))]
    feed(Guarded(inner, spike=2.0), facts, *growth)
    assert [each.ref_nats_per_token for each in inner.seen] == growth


def test_so_does_the_growth_after_a_refresh_of_the_reference_and_a_resume_behind_it(facts):
    inner, resumed = Recorder(), Recorder()
    first, second = Guarded(inner, spike=3.0), Guarded(resumed, spike=3.0)
    for _ in range(16):
        first.observe(facts(ref_nats_per_token=0.01))
    first.observe(facts(ref_nats_per_token=0.01, reference_refreshed=True))
    second.load_state_dict(first.state_dict())
    for guarded in (first, second):
        feed(guarded, facts, *[1e-5] * 15, 5.0)
    assert inner.seen[-1].ref_nats_per_token == resumed.seen[-1].ref_nats_per_token == 5.0


def test_a_refresh_of_the_reference_is_no_start_for_the_kl_to_old(facts):
    inner = Recorder()
    guarded = Guarded(inner, spike=3.0)
    for _ in range(16):
        guarded.observe(facts(old_nats_per_token=0.01))
    guarded.observe(facts(old_nats_per_token=0.01, reference_refreshed=True))
    guarded.observe(facts(old_nats_per_token=5.0))
    assert inner.seen[-1].old_nats_per_token == pytest.approx(0.03)


def test_a_median_of_0_holds_nothing_down(facts):
    inner = Recorder()
    feed(Guarded(inner, spike=3.0), facts, *[0.0] * 16, 0.01)
    assert inner.seen[-1].ref_nats_per_token == 0.01


def test_updates_that_trained_nothing_or_were_infinite_are_not_remembered(facts):
    inner = Recorder()
    guarded = Guarded(inner, spike=3.0)
    feed(guarded, facts, *[0.01] * 16)
    for _ in range(16):
        guarded.observe(facts(ref_nats_per_token=0.0, trained_tokens=0))
        guarded.observe(facts(ref_nats_per_token=math.inf))
    assert inner.seen[-1].ref_nats_per_token == pytest.approx(0.03)


def test_a_guard_without_spike_passes_everything(facts):
    inner = Recorder()
    feed(Guarded(inner), facts, *[0.01] * 16, 5.0)
    assert inner.seen[-1].ref_nats_per_token == 5.0


def test_no_reference_is_needed_where_the_controller_needs_none():
    assert not Guarded(Constant(beta=0.0, total_steps=1), ceiling=0.1).needs_reference
    assert Guarded(Constant(beta=0.1, total_steps=1)).needs_reference


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"floor": -0.1}, "floor=-0.1"),
        ({"floor": 0.2, "ceiling": 0.1}, "0 <= floor <= ceiling"),
        ({"ceiling": 0.0}, "a ceiling above 0"),
        ({"spike": 1.0}, "spike=1.0 holds ordinary steps down"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Guarded(target(0.1), **options)


def test_a_floor_under_a_beta_that_is_0_for_ever_is_refused():
    with pytest.raises(ConfigError, match=r"floor=0.01 .* constant with beta 0.01"):
        Guarded(Constant(beta=0.0, total_steps=1), floor=0.01)
