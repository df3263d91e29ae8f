"""Plots of the curriculum, by the texts and shapes that a reader sees."""

import re

import pytest

from rl_llm.report import plots_curriculum as plots
from rl_llm.report.canvas import BLUE, GREY
from rl_llm.report.read import read_run


def words(svg):
    """The texts that a reader sees in a plot."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def bins(*filled):
    """Ten bins, empty but for (place, completions, predicted, observed)."""
    rows = [[0.0, 0.0, 0.0] for _ in range(10)]
    for place, *row in filled:
        rows[place] = row
    return rows


def straight(svg, colour):
    """The corners of the one line of this colour."""
    (path,) = re.findall(rf'<path d="([^"]*)" clip-path[^>]*stroke: {colour}', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]


def test_reliability_sets_what_was_observed_against_what_was_believed_in_the_newest_row(make_run):
    older = {"step": 1, "curriculum/calibration_bins": bins((0, 8.0, 0.05, 0.5))}
    newer = {"step": 2, "curriculum/calibration_bins": bins((2, 8, 0.2, 0.4), (7, 4, 0.7, 0.6))}
    svg = plots.reliability(read_run(make_run([older, newer, {"step": 3}])))
    assert {"as believed", "believed pass rate", "observed pass rate"} <= set(words(svg))
    (left, bottom), (right, top) = straight(svg, GREY)  # the diagonal, from 0 to 1 on both axes
    points = [
        ((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in straight(svg, BLUE)
    ]
    assert points == [pytest.approx((0.2, 0.4), abs=1e-3), pytest.approx((0.7, 0.6), abs=1e-3)]
    assert svg.count(f'style="fill: {BLUE}"') == 2


@pytest.mark.parametrize(
    "broken", [None, 3, [], [1, 2], [[1.0, 2.0]], [[None, 0.1, 0.2]], bins(), "text"]
)
def test_bins_that_are_empty_or_broken_give_no_reliability(make_run, broken):
    rows = [{"step": 1, "curriculum/calibration_bins": broken}]
    assert plots.reliability(read_run(make_run(rows))) == ""


def test_buckets_of_one_source_are_named_by_level_in_the_order_of_their_numbers(make_run):
    rows = [{"step": 1, **{f"curriculum/groups/sums/level={level}": 3 for level in (10, 9, 1)}}]
    seen = words(plots.groups_per_bucket(read_run(make_run(rows))))
    assert [word for word in seen if "level" in word] == ["level 1", "level 9", "level 10"]


def test_buckets_of_two_sources_keep_their_names(make_run):
    rows = [{"step": 1, "curriculum/groups/sums/level=2": 1, "curriculum/groups/gsm/level=2": 1}]
    seen = words(plots.groups_per_bucket(read_run(make_run(rows))))
    assert {"sums/level=2", "gsm/level=2"} <= set(seen)


def test_buckets_whose_names_are_cut_alike_all_stand_in_the_plot(make_run):
    sources = ("sums", "intermediate_integration", "intermediate_integrals")
    keys = [f"curriculum/groups/{source}/level={k}" for source in sources for k in (1, 2)]
    rows = [{"step": 1, **dict.fromkeys(keys, 1)}]
    seen = words(plots.groups_per_bucket(read_run(make_run(rows))))
    assert [word for word in seen if "/level=" in word] == [
        "intermediate_…/level=1",
        "intermediate_…/level=2",
        "intermediate_…/level=1 (3)",
        "intermediate_…/level=2 (4)",
        "sums/level=1",
        "sums/level=2",
    ]


def test_the_smallest_buckets_of_many_are_drawn_together(make_run):
    many = {f"curriculum/groups/sums/level={level}": level for level in range(1, 16)}
    seen = words(plots.groups_per_bucket(read_run(make_run([{"step": 1, **many}]))))
    assert [word for word in seen if word.startswith("level")] == [
        f"level {level}" for level in range(4, 16)
    ]
    assert "3 others" in seen


def test_dropped_completions_stand_beside_all(make_run):
    spent = {"rollout/completions": 256, "rollout/dropped_completions": 96}
    rows = [{"step": 1, "curriculum/admitted_share": 0.625, **spent}]
    seen = words(plots.learnt_and_dropped(read_run(make_run(rows))))
    assert {"generated", "dropped", "learnt from"} <= set(seen)


@pytest.mark.parametrize(
    ("key", "word"), [("locked_buckets", "locked"), ("spare_groups", "spares")]
)
def test_what_is_locked_and_what_fills_steps_have_panels_where_there_was_any(make_run, key, word):
    row = {"curriculum/retired_count": 3, "curriculum/deferred_count": 2}
    none = [{"step": 1, **row, f"curriculum/{key}": 0}]
    some = [{"step": 1, **row, f"curriculum/{key}": 1}]
    assert word not in words(plots.standing(read_run(make_run(none, name="none"))))
    assert word in words(plots.standing(read_run(make_run(some, name="some"))))


def test_a_run_that_knows_none_of_these_keys_still_has_its_beliefs(make_run, rows):
    known = ("curriculum/visited_share", "curriculum/belief_mean", "curriculum/belief_histogram")
    old = [
        {key: value for key, value in row.items() if "curriculum" not in key or key in known}
        for row in rows
    ]
    run = read_run(make_run(old))
    assert plots.belief_heatmap(run).startswith("<svg ")
    assert plots.coverage(run).startswith("<svg ")
    absent = (plots.reliability, plots.calibration, plots.groups_per_bucket, plots.standing)
    assert [plot(run) for plot in absent] == [""] * 4
    assert plots.spread_of_visits(run) == ""
