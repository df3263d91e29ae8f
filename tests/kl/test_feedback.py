"""Controllers that answer to what was measured: single updates by hand, and closed loops."""

import math

import pytest

from rl_llm.errors import ConfigError
from rl_llm.kl import Accuracy, PpoPenalty, Target
from rl_llm.seeds import derive_rng


@pytest.mark.parametrize(
    ("nats", "beta"),
    [(0.05, 0.1), (0.055, 0.103), (0.0475, 0.0985), (0.1, 0.106), (9.0, 0.106), (0.0, 0.094)],
)
def test_target_moves_beta_by_the_gain_times_the_error_held_to_a_fifth(nats, beta, facts):
    controller = Target(beta=0.1, gain=0.3, nats_per_token=0.05, total_steps=100)
    assert controller.beta == 0.1
    controller.observe(facts(ref_nats_per_token=nats))
    assert controller.beta == pytest.approx(beta)


def test_target_in_nats_per_response_looks_at_responses(facts):
    controller = Target(beta=0.1, nats_per_response=6.0, total_steps=100)
    controller.observe(facts(ref_nats_per_token=0.0, ref_nats_per_response=6.6))
    assert controller.beta == pytest.approx(0.103)


def test_target_holds_the_kl_that_the_penalty_is_on(facts):
    controller = Target(beta=0.1, nats_per_token=0.05, total_steps=100)
    controller.observe(facts(ref_nats_per_token=0.0, old_nats_per_token=0.055, against="old"))
    assert controller.beta == pytest.approx(0.103)


@pytest.mark.parametrize(
    ("gain", "factor", "updates"),
    # ln 10 / ln 1.06 = 39.5, ln 10 / ln 1.02 = 116.3, and for Ziegler's 64 episodes of a horizon of
    # 10000 ln 2 / ln 1.00128 = 541.9.
    [(0.3, 10, 40), (0.1, 10, 117), (64 / 10000, 2, 542)],
)
def test_how_many_updates_it_takes_to_raise_beta_by_a_factor(gain, factor, updates, facts):
    controller = Target(beta=0.01, gain=gain, nats_per_token=0.05, total_steps=100)
    taken = 0
    while controller.beta < 0.01 * factor:
        controller.observe(facts(ref_nats_per_token=1.0))
        taken += 1
    assert taken == updates


@pytest.mark.parametrize("lag", [1, 5, 20])
@pytest.mark.parametrize("off_by", [10.0, 0.1])
def test_target_finds_the_kl_from_a_beta_10_times_too_high_or_too_low(off_by, lag, facts):
    """The KL nears 1e-3 / beta by a share 1 / lag an update, and is measured with 10 % noise."""
    noise = derive_rng("kl noise", str(off_by), lag).normal(size=400)
    target, kl = 0.05, 1e-3 / (0.02 * off_by)
    controller = Target(beta=0.02 * off_by, gain=0.3, nats_per_token=target, total_steps=400)
    settled, measured = [], []
    for step in range(400):
        kl += (1e-3 / controller.beta - kl) / lag
        settled.append(kl / target)
        measured.append(kl * math.exp(0.1 * noise[step]))
        controller.observe(facts(step + 1, ref_nats_per_token=measured[-1]))
    assert settled[0] == pytest.approx(1 / off_by)
    assert all(0.75 < share < 1.25 for share in settled[200:])
    assert sum(measured[200:]) / 200 == pytest.approx(target, rel=0.25)


@pytest.mark.parametrize(
    ("nats", "beta"),
    [(0.0151, 2.0), (0.0149, 1.0), (0.01, 1.0), (0.0067, 1.0), (0.0066, 0.5), (0.0, 0.5)],
)
def test_ppo_penalty_doubles_above_3_halves_of_the_target_and_halves_below_2_thirds(
    nats, beta, facts
):
    controller = PpoPenalty(beta=1.0, nats_per_token=0.01, total_steps=100)
    controller.observe(facts(old_nats_per_token=nats))
    assert controller.beta == beta


@pytest.mark.parametrize("against", ["ref", "old"])
def test_ppo_penalty_looks_at_the_kl_to_old_alone(against, facts):
    controller = PpoPenalty(beta=1.0, nats_per_token=0.01, total_steps=100)
    controller.observe(facts(ref_nats_per_token=9.0, old_nats_per_token=0.01, against=against))
    assert controller.beta == 1.0
    controller = PpoPenalty(beta=1.0, nats_per_response=0.4, total_steps=100)
    controller.observe(facts(ref_nats_per_response=0.4, old_nats_per_response=1.0, against=against))
    assert controller.beta == 2.0


@pytest.mark.parametrize("controller", [Target, PpoPenalty])
@pytest.mark.parametrize(
    "unmeasured",
    [
        {"trained_tokens": 0},
        {"ref_nats_per_token": math.nan, "old_nats_per_token": math.nan, "trained_tokens": 9},
    ],
)
def test_an_update_that_measured_nothing_leaves_beta_alone(controller, unmeasured, facts):
    made = controller(beta=0.1, nats_per_token=0.05, total_steps=100)
    made.observe(facts(**unmeasured))
    assert made.beta == 0.1


def test_beta_stays_a_number_that_can_be_multiplied(facts):
    controller = PpoPenalty(beta=1.0, nats_per_token=0.01, total_steps=100)
    for nats, next_nats in [(0.0, 1.0), (1.0, 0.0)]:
        for _ in range(2200):
            controller.observe(facts(old_nats_per_token=nats))
        assert 0 < controller.beta < math.inf
        stuck = controller.beta
        controller.observe(facts(old_nats_per_token=next_nats))
        assert controller.beta != stuck


def test_accuracy_raises_beta_from_half_of_it_to_88_percent(facts):
    controller = Accuracy(beta=0.1, total_steps=100)
    assert controller.beta == pytest.approx(0.05)
    found = []
    for accuracy in (1.0, 0.5, 0.0):
        controller.observe(facts(accuracy=accuracy))
        found.append(controller.beta)
    assert found == pytest.approx([0.0880797, 0.0731059, 0.05], abs=1e-7)


def test_accuracy_keeps_the_last_one_where_there_is_none(facts):
    controller = Accuracy(beta=0.1, total_steps=100)
    controller.observe(facts(accuracy=1.0))
    controller.observe(facts(accuracy=math.nan))
    assert controller.beta == pytest.approx(0.0880797, abs=1e-7)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "controller", "options"),
    [
        ("target", Target, {"nats_per_token": 0.05}),
        ("ppo_penalty", PpoPenalty, {"nats_per_token": 0.05}),
        ("accuracy", Accuracy, {}),
    ],
)
def test_a_start_that_no_factor_leads_away_from_is_refused(name, controller, options, beta):
    with pytest.raises(ConfigError) as caught:
        controller(beta=beta, **options, total_steps=100)
    assert str(caught.value) == (
        f"beta={beta}: {name} multiplies beta, and no factor leads away from 0; start above 0, "
        "such as at 0.02, or use the controller constant with beta 0 for no penalty"
    )


@pytest.mark.parametrize("controller", [Target, PpoPenalty])
@pytest.mark.parametrize(
    ("targets", "start"),
    [
        ({}, "(target|ppo_penalty) holds the KL"),
        (
            {"nats_per_token": 0.05, "nats_per_response": 6.0},
            "nats_per_token=0.05 and nats_per_response=6.0: (target|ppo_penalty) holds",
        ),
    ],
)
def test_exactly_one_target_in_one_unit_is_asked_for(controller, targets, start):
    rule = "give exactly one of nats_per_token and nats_per_response, such as nats_per_token: 0.05"
    with pytest.raises(ConfigError, match=f"^{start} .*{rule}$"):
        controller(**targets, total_steps=100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nats_per_token": 0.0}, "nats_per_token=0.0 is no KL to aim at"),
        ({"nats_per_response": -6.0}, "nats_per_response=-6.0 is no KL to aim at"),
        ({"nats_per_token": 0.05, "gain": 0.0}, "gain=0.0: .* less than 5, such as 0.3"),
        ({"nats_per_token": 0.05, "gain": 5.0}, "gain=5.0: .* less than 5, such as 0.3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Target(**options, total_steps=100)
