"""Which alarms the report lists and marks."""

import re

from rl_llm.report import html, plots
from rl_llm.report.alarms import raised_at, stands
from rl_llm.report.read import read_run

ROWS = [
    {"step": 0, "eval/pass_rate": 0.5, "alarms/reward/tags": 0},
    {"step": 1, "reward/tags_mean": 0.1, "alarms/length": 0},
    {"step": 2, "reward/tags_mean": 0.5, "alarms/length": 1, "train/completion_tokens_mean": 9.0},
    {"step": 3, "reward/tags_mean": 0.9, "alarms/length": 1, "train/completion_tokens_mean": 9.0},
    {"step": 4, "eval/pass_rate": 0.5, "alarms/length": 0, "alarms/reward/tags": 1},
    {"step": 5, "alarms/length": 1, "alarms/own_<b>": 1},
    {"step": 6, "alarms/length": 0},
]


def test_a_stand_lasts_from_the_step_that_raised_it_to_the_last_at_which_it_stood(make_run):
    run = read_run(make_run(ROWS))
    assert [(stand.name, stand.when) for stand in stands(run)] == [
        ("length", "steps 2 to 3"),
        ("reward/tags", "from step 4 to the end"),
        ("length", "at step 5"),
        ("own_<b>", "from step 5 to the end"),
    ]
    assert raised_at(run, "length", "reward") == [2, 4, 5]
    assert raised_at(run, "overfit") == []


def test_the_page_lists_alarms_with_what_they_say_and_escapes_their_names(make_run):
    page = html.render(read_run(make_run(ROWS)))
    listed = re.findall(r"<li><b>alarm (.*?)</b>, (.*?)</li>", page)
    assert listed == [
        ("length", "steps 2 to 3: completions grew by half or more within some steps"),
        (
            "reward/tags",
            "from step 4 to the end: this reward rose on held-out problems, and their pass rate "
            "did not",
        ),
        ("length", "at step 5: completions grew by half or more within some steps"),
        ("own_&lt;b&gt;", "from step 5 to the end"),
    ]
    calm = [{key: value for key, value in row.items() if "alarms" not in key} for row in ROWS]
    assert "<b>alarm" not in html.render(read_run(make_run(calm, name="calm")))


def test_plots_mark_the_steps_that_raised_them(make_run):
    run = read_run(make_run(ROWS))
    calm = [{key: value for key, value in row.items() if "alarms" not in key} for row in ROWS]
    without = read_run(make_run(calm, name="calm"))
    for plot in (plots.held_out_pass_rate, plots.rewards, plots.lengths):
        assert ">alarm<" in plot(run) and ">alarm<" not in plot(without)
