import html
import json
import re

import pytest

from rl_llm.report import plots, plots_curriculum, write_report
from rl_llm.report.marks import thinned
from rl_llm.report.read import read_run


def told(svg):
    """The numbers that travel with a plot."""
    return json.loads(html.unescape(re.search(r'data-plot="([^"]*)"', svg)[1]))


def spoken(svg):
    return html.unescape(re.search(r'aria-label="([^"]*)"', svg)[1])


def test_a_plot_carries_its_numbers_by_panel_and_name(make_run):
    rows = [
        {"step": 0, "eval/completion_tokens_mean": 30.5},
        {"step": 1, "train/completion_tokens_mean": 40.0, "train/truncated_share": 0.25},
        {"step": 2, "train/completion_tokens_mean": 41.5, "train/truncated_share": 0.125},
    ]
    data = told(plots.lengths(read_run(make_run(rows))))
    top, bottom = data["panels"]
    assert (data["x"], top["label"], bottom["label"]) == (
        *("step", "tokens / completion", "cut at limit"),
    )
    assert (top["percent"], bottom["percent"]) == (False, True)
    assert [trace["name"] for trace in top["traces"]] == ["training", "held-out"]
    assert [top["axes"][trace["axis"]] for trace in top["traces"]] == [[1, 2], [0]]
    assert [trace["y"] for trace in top["traces"]] == [[40, 41.5], [30.5]]
    assert bottom["traces"][0]["y"] == [0.25, 0.125]


def test_a_panel_says_where_it_lies_in_the_drawing(make_run):
    rows = [{"step": step, "rollout/tokens_per_s": 100.0 * step} for step in (1, 2, 3)]
    svg = plots.throughput(read_run(make_run(rows)))
    panel = told(svg)["panels"][0]
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    left, top, right, bottom = panel["box"]
    lines = re.findall(r'<path d="([^"]*)" clip-path', svg)
    (line,) = (path for path in lines if path.count("L ") == 2)
    x, y = (float(number) for number in line.split()[-2:])
    low, high = panel["xlim"]
    assert x / width == pytest.approx(left + (right - left) * (3 - low) / (high - low), abs=1e-3)
    low, high = panel["ylim"]
    share = (300 - low) / (high - low)
    assert y / height == pytest.approx(bottom - (bottom - top) * share, abs=1e-3)


def test_a_long_series_carries_its_running_mean_and_few_points(make_run):
    rows = [{"step": n, "rollout/tokens_per_s": float(n % 2)} for n in range(1, 4001)]
    (panel,) = told(plots.throughput(read_run(make_run(rows))))["panels"]
    (trace,) = panel["traces"]
    assert len(trace["y"]) == len(trace["mean"]) == len(panel["axes"][0]) == 500
    assert (panel["axes"][0][0], panel["axes"][0][-1]) == (1, 4000)
    assert set(trace["y"]) == {0, 1}
    assert trace["mean"][250] == pytest.approx(0.5, abs=0.01)


def test_a_long_series_keeps_the_steps_at_which_another_of_its_panel_was_written(make_run):
    rows = [{"step": n, "train/completion_tokens_mean": 1.0 * n} for n in range(1, 4001)]
    rows[2499]["eval/completion_tokens_mean"] = 7.0
    panel = told(plots.lengths(read_run(make_run(rows))))["panels"][0]
    train, held_out = panel["traces"]
    steps = panel["axes"][train["axis"]]
    assert train["y"][steps.index(2500)] == 2500
    assert (held_out["y"], panel["axes"][held_out["axis"]]) == ([7], [2500])
    assert len(steps) <= 501


def test_bars_of_a_long_run_name_the_steps_that_they_stand_for(make_run):
    rows = [{"step": n, "time/generate_s": 3.0, "time/update_s": 1.0} for n in range(1, 161)]
    (panel,) = told(plots.time_per_stage(read_run(make_run(rows))))["panels"]
    assert panel["places"][:2] == ["1 to 2", "3 to 4"]
    assert [trace["name"] for trace in panel["traces"]] == ["generate", "update"]


def test_levels_can_be_chosen_and_each_has_its_marks_in_the_drawing(whole_run):
    svg = plots.pass_rate_per_level(read_run(whole_run))
    (panel,) = told(svg)["panels"]
    assert panel["choosable"]
    drawn = [trace["name"] for trace in panel["traces"] if trace["drawn"]]
    assert drawn == [f"level {n}" for n in range(1, 9)]
    # The line, the name at its end, and what joins them.
    assert [svg.count(f'data-trace="{n}"') for n in range(9)] == [3] * 8 + [0]


def test_a_plot_is_described_in_words(make_run):
    rows = [
        {"step": 1, "entropy_nats_per_token": 0.5, "optim/grad_norm": 1234.5},
        {"step": 1200, "entropy_nats_per_token": 0.25, "optim/grad_norm": 0.125},
    ]
    assert spoken(plots.entropy_and_gradient(read_run(make_run(rows)))) == (
        "entropy nats / token: 0.5 at step 1, 0.25 at step 1,200; "
        "gradient norm: 1,234 at step 1, 0.125 at step 1,200"
    )


def test_beliefs_are_told_bin_by_bin(make_run):
    row = {"step": 3, "curriculum/belief_mean": 0.7, "curriculum/belief_histogram": [1, 3]}
    (panel,) = told(plots_curriculum.belief_heatmap(read_run(make_run([row]))))["panels"]
    assert [(trace["name"], trace["y"]) for trace in panel["traces"]] == [
        ("mean over the pool", [0.7]),
        ("pool at 50 to 100 %", [0.75]),
        ("pool at 0 to 50 %", [0.25]),
    ]


def test_a_thinned_line_keeps_its_ends_and_its_extremes():
    steps = list(range(10_000))
    values = [0.0] * 10_000
    values[0], values[4321], values[7777], values[9999] = 2.0, 9.0, -9.0, 3.0
    x, y = thinned(steps, values)
    points = dict(zip(x.tolist(), y.tolist(), strict=True))
    assert len(x) <= 802 and list(x) == sorted(x)
    assert (points[0], points[4321], points[7777], points[9999]) == (2.0, 9.0, -9.0, 3.0)
    assert [len(each) for each in thinned(steps[:800], values[:800])] == [800, 800]


@pytest.mark.slow
def test_a_run_of_ten_thousand_steps_fits_into_five_megabytes(make_run, rows, make_sample):
    """With 200 evaluations, and completions of 20,000 letters that escape to five each."""
    first, *training, last = rows
    evaluated = {key: value for key, value in last.items() if key.startswith("eval/")}
    many = [first]
    for n in range(1, 10_001):
        extra = evaluated if n % 50 == 0 else {}
        many.append({**training[n % 15], **extra, "step": n, "train/pass_rate": n % 97 / 97})
    folder = make_run(many)
    (folder / "completions").mkdir()
    for step in range(0, 10_001, 50):
        samples = [make_sample(step, level % 8 + 1, 0) | {"key": str(level)} for level in range(24)]
        samples += [make_sample(step, 3, n, split="train") for n in range(32)]
        text = "".join(json.dumps(each | {"text": '"' * 20_000}) + "\n" for each in samples)
        (folder / "completions" / f"step-{step:06d}.jsonl").write_text(text)
    assert write_report(folder).stat().st_size < 5_000_000


def test_colours_of_the_theme_follow_it_under_the_pointer_too(whole_run):
    (panel,) = told(plots.pass_rate_per_level(read_run(whole_run)))["panels"]
    assert panel["traces"][-1]["name"] == "all problems"
    assert panel["traces"][-1]["colour"] == "var(--ink, #1b1a19)"


def test_a_mean_that_overflows_is_no_number(make_run):
    rows = [{"step": n, "rollout/tokens_per_s": 1e308} for n in range(1, 101)]
    with pytest.warns(RuntimeWarning):
        svg = plots.throughput(read_run(make_run(rows)))
    assert None in told(svg)["panels"][0]["traces"][0]["mean"]
