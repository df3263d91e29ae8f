import re

import pytest

from rl_llm.report import plots, plots_curriculum
from rl_llm.report.canvas import BLUE, GREEN, canvas, label, spread
from rl_llm.report.marks import line, rises, running_mean, stack_bars, step_edges
from rl_llm.report.read import Series, read_run

PLOTS = {
    name: value
    for module in (plots, plots_curriculum)
    for name, value in vars(module).items()
    if getattr(value, "__module__", "") == module.__name__ and name[0] != "_" and callable(value)
}

OLD, REF = {"kl/old_nats_per_token": 0.1}, {"kl/ref_nats_per_token": 0.1}


def words(svg):
    """The texts that a reader sees in a plot."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_bars_carry_the_first_and_the_last_pass_rate_of_each_level(make_run):
    rows = [
        {"step": 0, "eval/pass_rate/level=1": 0.31, "eval/pass_rate/level=2": 0.04},
        {"step": 5, "eval/pass_rate/level=1": 0.99, "eval/pass_rate/level=2": 0.99},
        {"step": 9, "eval/pass_rate/level=1": 0.87, "eval/pass_rate/level=2": 0.42},
    ]
    seen = words(plots.pass_rate_before_after(read_run(make_run(rows))))
    assert {"31", "4", "87", "42", "step 0", "step 9"} <= set(seen)
    assert "99" not in seen


def test_each_level_is_named_where_its_line_ends(whole_run):
    seen = words(plots.pass_rate_per_level(read_run(whole_run)))
    named = [word for word in seen if word.startswith("level ")]
    assert [word.split()[1] for word in named] == list("12345678")


def test_long_level_names_are_cut_and_slanted_and_short_ones_stand_level(make_run):
    long = {f"eval/pass_rate/level=geometry problem {n}": 0.5 for n in range(9)}
    svg = plots.pass_rate_before_after(read_run(make_run([{"step": 0, **long}], name="long")))
    assert words(svg).count("geometry prob…") == 9
    assert svg.count("rotate(-35 ") == 9
    short = {f"eval/pass_rate/level={n}": 0.5 for n in range(9)}
    svg = plots.pass_rate_before_after(read_run(make_run([{"step": 0, **short}], name="short")))
    assert "rotate(-35 " not in svg


def test_axes_of_amounts_begin_at_zero(make_run):
    rows = [{"step": step, "rollout/tokens_per_s": 3000.0 + step} for step in (1, 2, 3)]
    assert {"0", "1,000", "3,000"} <= set(words(plots.throughput(read_run(make_run(rows)))))


def test_stages_name_their_share_of_the_run(make_run):
    rows = [
        {"step": 1, "time/generate_s": 3.0, "time/update_s": 1.0, "time/score_s": 0.0},
        {"step": 2, "time/generate_s": 3.0, "time/update_s": 1.0},
    ]
    seen = words(plots.time_per_stage(read_run(make_run(rows))))
    assert {"generate  75 %", "update  25 %"} <= set(seen)
    assert not any(word.startswith("score") for word in seen)


def test_what_is_generated_ahead_takes_the_time_that_steps_waited_for_it(make_run):
    """A step of 4 s, in which the next one's completions took 3.9 s beside the update."""
    ahead = {"time/generate_s": 3.5, "time/score_s": 0.4}
    rows = [{"step": n, **ahead, "time/wait_s": 1.0, "time/update_s": 3.0} for n in (1, 2)]
    seen = words(plots.time_per_stage(read_run(make_run(rows))))
    assert {"wait  25 %", "update  75 %"} <= set(seen)
    assert not any(word.startswith(("generate", "score")) for word in seen)


def test_a_reward_is_drawn_under_its_own_name(make_run):
    rows = [{"step": 1, "reward/my_reward_mean": 0.5, "train/reward_mean": 0.5}]
    assert {"my_reward", "total"} <= set(words(plots.rewards(read_run(make_run(rows)))))


def test_the_heatmap_holds_the_beliefs_as_an_image_and_their_mean_as_a_line(whole_run):
    svg = plots_curriculum.belief_heatmap(read_run(whole_run))
    assert "data:image/png;base64," in svg
    assert {"believed pass rate", "share of the pool", "mean over the pool"} <= set(words(svg))


def test_a_sampler_without_beliefs_gets_no_heatmap(make_run):
    rows = [{"step": step, "curriculum/belief_histogram": [0] * 10} for step in (1, 2)]
    assert plots_curriculum.belief_heatmap(read_run(make_run(rows))) == ""


def test_a_critic_that_was_far_off_at_first_leaves_room_for_what_it_learns(make_run):
    explained = [-40.0, -0.2, 0.4, 0.6]
    rows = [
        {"step": step, "critic/explained_variance": share, "loss/value": 0.5 / step}
        for step, share in enumerate(explained, 1)
    ]
    seen = words(plots.critic(read_run(make_run(rows))))
    assert {"explained variance", "value loss", "\N{MINUS SIGN}100%", "0%", "100%"} <= set(seen)


def test_steps_in_which_the_critic_learnt_alone_are_marked(make_run):
    def seen(rates):
        rows = [
            {"step": step, "critic/explained_variance": 0.5, "loss/value": 0.1, "optim/lr": lr}
            for step, lr in enumerate(rates, 1)
        ]
        return words(plots.critic(read_run(make_run(rows))))

    assert "critic alone" in seen([0.0, 0.0, 1e-3])
    assert "critic alone" not in seen([1e-4, 2e-4, 1e-3])


def test_updates_that_were_left_out_are_counted_beside_the_divergence_that_stopped_them(make_run):
    def seen(counts):
        rows = [
            {"step": step, "kl/beta": 1.0, **OLD, "kl/updates_left_out": count}
            for step, count in enumerate(counts, 1)
        ]
        return words(plots.kl_and_beta(read_run(make_run(rows))))

    assert "updates left out: 5" in seen([0, 2, 3])
    assert not any("left out" in word for word in seen([0, 0, 0]))


def test_where_no_divergence_was_measured_beta_stands_alone(make_run):
    rows = [{"step": step, "kl/beta": 0.0, "kl/ref_nats_per_token": None} for step in (1, 2)]
    seen = words(plots.kl_and_beta(read_run(make_run(rows))))
    assert "beta" in seen and "to the reference" not in seen


def test_refreshes_of_the_reference_are_marked_at_the_step_that_made_them(make_run):
    def seen(counts):
        rows = [
            {"step": step, "kl/beta": 1.0, **REF, "kl/reference_refreshes": count}
            for step, count in enumerate(counts, 1)
        ]
        return words(plots.kl_and_beta(read_run(make_run(rows))))

    assert seen([0, 1, 1, 2]).count("reference refreshed") == 1
    assert "reference refreshed" not in seen([0, 0, 0, 0])
    assert rises(Series(steps=(1, 2, 3, 4), values=(1.0, 1.0, 1.0, 3.0))) == [1, 4]
    assert rises(Series(steps=(), values=())) == []


def test_completions_spent_are_zero_before_the_first_step(make_run):
    rows = [
        {"step": 0, "eval/pass_rate": 0.2},
        {"step": 4, "eval/pass_rate": 0.4, "rollout/completions": 1000},
    ]
    seen = words(plots.pass_rate_per_completion(read_run(make_run(rows))))
    assert {"completions generated", "0", "1,000"} <= set(seen)


def test_every_plot_is_empty_for_a_run_that_wrote_nothing_for_it(make_run):
    run = read_run(make_run([{"step": 0}]))
    assert len(PLOTS) == 22
    assert [plot(run) for plot in PLOTS.values()] == [""] * 22


def test_every_plot_takes_one_row_and_a_long_run(make_run, rows):
    long = [{**rows[-1], "step": step} for step in range(300)]
    for count, chosen in enumerate(([rows[-1]], long)):
        run = read_run(make_run(chosen, name=f"run-{count}"))
        for name, plot in PLOTS.items():
            if name not in ("pass_rate_per_level", "pass_rate_per_completion"):
                assert plot(run).startswith("<svg "), name


def test_names_that_plots_cannot_hold_are_made_harmless():
    assert label("a\n\tb") == "a b"
    assert label("x" * 30, longest=5) == "xxxx…"
    assert label("\ud800\x00") == "?�"
    assert label("_hidden") == " _hidden"


@pytest.mark.parametrize("level", ["$x^{2$", "<b>&", "水", "_x", "\ud800", "a\x00b"])
def test_any_level_name_can_be_drawn(make_run, level):
    key = f"eval/pass_rate/level={level}"
    run = read_run(make_run([{"step": 0, key: 0.1}, {"step": 1, key: 0.2}]))
    for plot in (plots.pass_rate_per_level, plots.pass_rate_before_after):
        assert "<b>" not in plot(run)
        assert plot(run).startswith("<svg ")


def test_two_plots_of_a_page_share_no_id(whole_run):
    run = read_run(whole_run)
    svgs = [plot(run) for plot in PLOTS.values()]
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in svgs]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_labels_move_apart_by_the_gap_and_stay_inside():
    assert spread([0.5, 0.9], gap=0.1, low=0, high=1) == [0.5, 0.9]
    assert spread([0.0, 0.0], gap=0.25, low=0, high=1) == [0.25, 0.0]
    assert spread([1.0, 1.0], gap=0.25, low=0, high=1) == [1.0, 0.75]
    assert spread([0.5] * 5, gap=0.5, low=0, high=1) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_running_mean_shrinks_its_window_at_the_ends():
    assert list(running_mean([0.0, 3.0, 6.0, 9.0])) == [1.5, 3.0, 6.0, 7.5]


def test_bars_stack_over_the_steps_of_all_and_a_series_without_a_step_counts_nought_there():
    first, second = Series(steps=(1, 2), values=(4.0, 2.0)), Series(steps=(2, 3), values=(3.0, 1.0))
    with canvas("stack") as drawn:
        stack_bars(drawn.panels[0], {"first": (first, BLUE), "second": (second, GREEN)})
        bars = [(bar.get_y(), bar.get_height()) for bar in drawn.panels[0].patches]
    assert bars == [(0, 4), (0, 2), (0, 0), (4, 0), (2, 3), (0, 1)]


def test_bars_of_a_long_run_are_means_over_stretches():
    series = Series(steps=tuple(range(1, 162)), values=(1.0, 2.0, 3.0) * 53 + (4.0, 6.0))
    with canvas("stack") as drawn:
        stack_bars(drawn.panels[0], {"all": (series, BLUE)})
        heights = [bar.get_height() for bar in drawn.panels[0].patches]
    assert heights == [2.0] * 53 + [5.0]  # 161 steps, 3 to a bar


def test_what_accumulates_is_drawn_as_it_is_however_long_the_run():
    series = Series(steps=tuple(range(100)), values=tuple(map(float, range(100))))
    with canvas("lines") as drawn:
        line(drawn.panels[0], series, BLUE, smooth=False)
        (only,) = drawn.panels[0].lines
    assert list(only.get_ydata()) == list(series.values)


def test_cells_are_centred_on_uneven_steps():
    assert list(step_edges([1, 2, 4])) == [0.5, 1.5, 3.0, 5.0]
    assert list(step_edges([7])) == [6.5, 7.5]
