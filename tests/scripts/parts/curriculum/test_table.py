"""The arithmetic of the curriculum benchmark, on curves worked by hand."""

import importlib
from pathlib import Path

import pytest

from rl_llm.errors import InputError

SCRIPTS = Path(__file__).parents[4] / "scripts"


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("parts.curriculum.table")


def run(arm, seed, rates, *, task="pool", settings="x", lr=1e-3, shares=None, each=100):
    """A run with an evaluation every `each` completions of 10 tokens."""
    completions = [each * i for i in range(len(rates))]
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "settings": settings,
        "commit": "abc",
        "lr": lr,
        "budget": completions[-1],
        "steps": len(rates) - 1,
        "wall_s": 1.0,
        "pool": {"histogram": [1], "informative": 0.5},
        "curve": {
            "completions": completions,
            "tokens": [10 * count for count in completions],
            "pass_rate": rates,
            "informative_share": [None, *(shares or [0.5] * (len(rates) - 1))],
            "level=9": [0.0] * len(rates),
            "level=10": [0.25] * len(rates),
        },
    }


def row(arm, seed, rollouts, *, censored=False, task="pool"):
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "rollouts_to_target": rollouts,
        "tokens_to_target": 50 * rollouts,
        "rollouts_to_easier": rollouts / 2,
        "censored": censored,
    }


def test_a_curve_is_smoothed_over_three_neighbours_and_over_two_at_its_ends(table):
    assert table.smoothed([0.0, 3.0, 6.0, 9.0, 0.0]).tolist() == [1.5, 3.0, 6.0, 5.0, 4.5]


def test_a_crossing_lies_between_evaluations_where_the_smoothed_curve_does(table):
    # Smoothed: .15, .3, .6, .75. From .3 to .6, .45 is half way; from .6 to .75, .7 two thirds.
    curve = {
        "completions": [0, 100, 200, 300],
        "tokens": [0, 1000, 3000, 4000],
        "pass_rate": [0.0, 0.3, 0.6, 0.9],
    }
    found = table.crossing(curve, 0.45)
    assert (found.completions, found.tokens) == (pytest.approx(150), pytest.approx(2000))
    assert table.crossing(curve, 0.7).completions == pytest.approx(200 + 200 / 3)


def test_the_first_crossing_counts_even_if_the_curve_falls_again(table):
    # Smoothed: 0, .3, .3, .3, 0: it is at .15 half way to the second evaluation.
    curve = run("a", 0, [0.0, 0.0, 0.9, 0.0, 0.0])["curve"]
    assert table.crossing(curve, 0.15).completions == pytest.approx(50)


def test_one_lucky_evaluation_is_no_crossing(table):
    curve = run("a", 0, [0.0, 0.0, 0.6, 0.0, 0.0])["curve"]
    assert table.crossing(curve, 0.3) is None


def test_a_curve_that_starts_at_the_target_is_refused(table):
    with pytest.raises(InputError, match=r"starts at 0\.500, which the target 0\.400"):
        table.crossing(run("a", 0, [0.5, 0.5, 0.5])["curve"], 0.4)


def test_the_target_is_the_mean_over_seeds_of_the_last_fifth_of_uniforms_runs(table):
    # Of 10 evaluations after the start, those past 80 % of the budget are the last two.
    first = run("uniform", 0, [0.0] * 9 + [0.6, 0.8])
    second = run("uniform", 1, [0.0] * 9 + [0.5, 0.7])
    other = run("posterior", 0, [0.0] * 9 + [1.0, 1.0])
    assert table.targets([first, second, other]) == {"pool": pytest.approx(0.65)}


def test_the_informative_share_is_one_of_completions_not_of_evaluations(table):
    uneven = run("a", 0, [0.0, 0.0, 0.0], shares=[0.5, 1.0])
    uneven["curve"]["completions"] = [0, 100, 400]
    assert table.informative_share(uneven) == pytest.approx((0.5 * 100 + 1.0 * 300) / 400)


def test_an_informative_share_can_be_that_of_a_half(table):
    halves = run("a", 0, [0.0] * 5, shares=[0.2, 0.4, 0.6, 1.0])
    assert table.informative_share(halves, until=0.5) == pytest.approx(0.3)
    assert table.informative_share(halves, after=0.5) == pytest.approx(0.8)


def test_a_run_that_never_reaches_the_target_is_censored_at_what_it_spent(table):
    (found,) = table.rows_of([run("ladder", 3, [0.0, 0.1, 0.2])], {"pool": 0.5})
    assert found["censored"]
    assert (found["rollouts_to_target"], found["tokens_to_target"]) == (200, 2000)
    assert found["commit"] == "abc"
    assert found["above"] == 0.25  # Level 10 lies above level 9.


def test_a_task_without_a_target_has_no_rows(table):
    assert table.rows_of([run("ladder", 0, [0.0, 1.0], task="stream")], {"pool": 0.5}) == []


def test_ratios_are_geometric_means_over_seeds_that_both_arms_have(table):
    rows = [row("uniform", 0, 400), row("uniform", 1, 900), row("uniform", 2, 1)]
    rows += [row("posterior", 0, 100), row("posterior", 1, 100), row("posterior", 7, 1)]
    entry = table.summarise(rows)["pool"]["posterior vs uniform"]
    assert entry["pairs"] == 2
    assert entry["ratio"] == entry["tokens_ratio"] == pytest.approx(6.0)  # sqrt(4 * 9)
    # log 4 and log 9: their standard error is half of what they differ by, and Student's t of one
    # degree of freedom 12.7062.
    reach = (9 / 4) ** (12.7062 / 2)
    assert entry["ci_low"] == pytest.approx(6 / reach, abs=1e-4)
    assert entry["ci_high"] == pytest.approx(6 * reach, rel=1e-4)


def test_a_second_level_is_nine_tenths_of_the_target(table):
    # Smoothed .1, .2, .4, .5: .4 is reached at 200, and .36 four fifths of the way there.
    (found,) = table.rows_of([run("a", 0, [0.0, 0.2, 0.4, 0.6])], {"pool": 0.4})
    assert found["rollouts_to_target"] == 200.0
    assert found["rollouts_to_easier"] == 180.0
    rows = [row("uniform", 0, 400), row("posterior", 0, 100) | {"rollouts_to_easier": 25}]
    entry = table.summarise(rows)["pool"]["posterior vs uniform"]
    assert (entry["ratio"], entry["easier_ratio"]) == (4.0, 8.0)


def test_censored_runs_are_counted_on_either_side(table):
    rows = [row("uniform", 0, 800, censored=True), row("posterior", 0, 400)]
    rows += [row("dynamic", 0, 400), row("ladder", 0, 800, censored=True)]
    summary = table.summarise(rows)["pool"]
    found = summary["posterior vs uniform"]
    assert (found["censored"], found["censored_other"]) == (0, 1)
    assert summary["ladder vs uniform"]["censored"] == 1
    assert list(summary) == [
        "posterior vs uniform",
        "posterior vs dynamic",
        "posterior vs ladder",
        "dynamic vs uniform",
        "ladder vs uniform",
    ]


def test_the_share_of_the_oracles_gain_is_one_of_logarithms(table):
    # The oracle needs a quarter of uniform's rollouts, this arm half: log 2 / log 4.
    rows = [row(arm, seed, n) for seed in (0, 1) for arm, n in HALF_WAY.items()]
    assert table.gains(rows, "pool") == {"posterior": {"share": 0.5, "ci_low": 0.5, "ci_high": 0.5}}


HALF_WAY = {"uniform": 800, "posterior": 400, "oracle": 200}


def test_runs_of_other_settings_are_not_put_together(table):
    table.check_settings([run("a", 0, [0.0]), run("a", 1, [0.0]), run("b", 0, [0.0], settings="y")])
    with pytest.raises(InputError, match="the runs of a on pool were made with different settings"):
        table.check_settings([run("a", 0, [0.0]), run("a", 1, [0.0], settings="y")])


def test_learning_rates_are_compared_by_uniforms_final_level(table):
    runs = [run("uniform", seed, [0.0, 0.5 + lr], lr=lr) for seed in (0, 1) for lr in (0.1, 0.2)]
    assert table.learning_rates(runs) == {
        "0.1": {"finals": [0.6, 0.6], "mean": 0.6},
        "0.2": {"finals": [0.7, 0.7], "mean": 0.7},
    }
