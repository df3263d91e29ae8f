import json
import re

import pytest
from markupsafe import Markup

from rl_llm.report import write_report
from rl_llm.report.browse import browsable, spread_out
from rl_llm.report.pages import opening, within
from rl_llm.report.read import read_run


@pytest.mark.parametrize(
    ("steps", "order"),
    [
        ([], []),
        ([7], [7]),
        ([0, 9], [9, 0]),
        ([0, 10, 20, 30, 40], [40, 0, 20, 10, 30]),
    ],
)
def test_steps_come_the_last_the_first_then_the_middle_of_each_gap(steps, order):
    assert list(spread_out(steps)) == order


def test_every_step_comes_once():
    assert sorted(spread_out(list(range(100)))) == list(range(100))


@pytest.fixture
def five_steps(make_run, make_sample):
    """Ten samples in each of five steps."""
    folder = make_run([{"step": 40}])
    (folder / "completions").mkdir()
    for step in range(0, 50, 10):
        rows = [make_sample(step, 1, n) | {"text": f"{n}"} for n in range(10)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "completions" / f"step-{step:06d}.jsonl").write_text(text)
    return folder


def test_all_samples_are_listed_newest_first_where_they_fit(five_steps):
    found = browsable(read_run(five_steps), most_bytes=1_000_000)
    assert [int(re.search(r'data-step="(\d+)"', row)[1]) for row in found.rows] == [
        *([40] * 10 + [30] * 10 + [20] * 10 + [10] * 10 + [0] * 10)
    ]
    texts = [re.search(r'<div class="text"[^>]*>(\d+)<', row)[1] for row in found.rows[:10]]
    assert texts == [str(n) for n in range(10)]


def test_what_does_not_fit_is_left_out_by_steps(five_steps):
    """Rows are alike but for their steps: 25 of them hold the last, the first and half a third."""
    every = browsable(read_run(five_steps), most_bytes=1_000_000).rows
    enough = sum(len(row.encode()) for row in every) // 2 + 100
    found = browsable(read_run(five_steps), most_bytes=enough)
    steps = [int(re.search(r'data-step="(\d+)"', row)[1]) for row in found.rows]
    assert steps == [40] * 10 + [20] * 5 + [0] * 10
    assert (found.num_kept, found.num_steps, list(found.steps)) == (50, 5, [40, 20, 0])


def test_the_page_says_how_many_were_left_out(five_steps, monkeypatch):
    monkeypatch.setattr("rl_llm.report.html._MOST_BYTES_LISTED", 20_000)
    page = write_report(five_steps).read_text(encoding="utf-8")
    shown = page.count('<details class="row"')
    text = " ".join(page.split())
    assert 0 < shown < 50
    assert f"{shown} of 50 that the run kept, from 2 of 5 steps;" in text


def test_a_row_breaks_the_reward_down_with_the_weights_of_the_recipe(make_run, make_sample):
    folder = make_run([{"step": 4}])
    sample = make_sample(4, 5, 0, split="train")
    sample |= {"parts": {"exact_answer": 1.0, "answer_tags": 0.5, "mine": 0.25}, "total": 1.05}
    (folder / "completions").mkdir()
    (folder / "completions" / "step-000004.jsonl").write_text(json.dumps(sample) + "\n")
    (row,) = browsable(read_run(folder), most_bytes=100_000).rows
    table = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", row)
    assert table == [
        *(("exact_answer", "1", "1"), ("answer_tags", "0.5", "0.1"), ("mine", "0.25", "-")),
        ("total", "1.05", ""),
    ]
    assert f"believed pass rate {100 * sample['belief']:.1f} %" in row


def test_parts_of_a_page_are_kept_up_to_their_bytes():
    parts = [Markup("aa"), Markup("éé"), Markup("b")]
    assert within(parts, most_bytes=6) == ["aa", "éé"]
    assert within(parts, most_bytes=5) == ["aa"]


def test_an_opening_is_one_line():
    assert opening("one\n  two", 20) == "one two"
    assert opening("abcdef", 4) == "abc…"
