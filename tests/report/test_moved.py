import json

import pytest

from rl_llm.records import Problem
from rl_llm.report import moved, write_report
from rl_llm.report.moved import Visit, read_moved
from rl_llm.report.read import read_run


def draw(step, key, correct, *, counted=4, belief=(1.0, 3.0), level=2):
    return {
        "step": step,
        "round": 0,
        "key": key,
        "source": "sums",
        "level": level,
        "correct": correct,
        "counted": counted,
        "belief": list(belief),
        "informative": 0.5,
        "admitted": True,
        "why": "sampler",
    }


@pytest.fixture
def moved_of(make_run):
    """Write a log of draws and return what moved in it."""

    def read(*draws, tail="", problems=(), samples=False):
        folder = make_run([{"step": 9}], samples=samples)
        log = folder / "draws.jsonl"
        log.write_text("".join(json.dumps(each) + "\n" for each in draws) + tail)
        return read_moved(folder, read_run(folder), problems)

    return read


def test_the_first_and_the_last_visit_count_and_what_was_believed_before_them(moved_of):
    found = moved_of(
        draw(1, "a", 1, belief=(1.0, 3.0)),
        draw(2, "a", 0, belief=(2.0, 6.0)),
        draw(5, "a", 3, counted=4, belief=(4.5, 4.5)),
    )
    (mover,) = found.risen
    assert mover.first == Visit(step=1, num_correct=1, num_counted=4, belief=0.25)
    assert mover.last == Visit(step=5, num_correct=3, num_counted=4, belief=0.5)
    assert (mover.key, mover.level, mover.num_visits) == ("a", "2", 3)


def test_who_rose_and_who_fell_most_stand_first(moved_of):
    rates = {"a": (0, 4), "b": (1, 4), "c": (4, 1), "d": (3, 2), "e": (2, 2)}
    draws = [draw(1 + turn, key, pair[turn]) for turn in (0, 1) for key, pair in rates.items()]
    found = moved_of(*draws)
    assert [mover.key for mover in found.risen] == ["a", "b"]
    assert [mover.key for mover in found.fallen] == ["c", "d"]
    assert (found.num_revisited, found.num_problems) == (5, 5)


def test_of_equal_moves_the_one_that_more_completions_tell_stands_first(moved_of):
    found = moved_of(
        draw(1, "few", 0, counted=2),
        draw(1, "many", 0, counted=8),
        draw(2, "few", 2, counted=2),
        draw(2, "many", 8, counted=8),
    )
    assert [mover.key for mover in found.risen] == ["many", "few"]


def test_rows_of_one_step_are_one_visit(moved_of):
    """A probe of 2 with one right, and the 6 that finish it in the same step, of which 2 are."""
    found = moved_of(draw(1, "a", 1, counted=2), draw(1, "a", 2, counted=6), draw(2, "a", 4))
    (mover,) = found.risen
    assert mover.first == Visit(step=1, num_correct=3, num_counted=8, belief=0.25)
    assert mover.num_visits == 2


def test_a_problem_of_one_visit_has_not_moved_and_a_group_without_counts_is_none(moved_of):
    found = moved_of(draw(1, "a", 1), draw(1, "b", 0, counted=0), draw(2, "b", 4))
    assert (found.risen, found.fallen) == ([], [])
    assert (found.num_revisited, found.num_problems) == (0, 2)


def test_damaged_rows_and_a_cut_last_line_are_left_out(moved_of):
    rows = [json.dumps(draw(1, "a", 0)), '{"step": 2, "ke', json.dumps(draw(3, "a", 4))]
    wrong_type = json.dumps(draw(4, "a", 2) | {"correct": "two"})
    tail = "\n".join([*rows, wrong_type, json.dumps(draw(5, "a", 1))[:30]])
    (mover,) = moved_of(tail=tail).risen
    assert (mover.first.step, mover.last.step, mover.num_visits) == (1, 3, 2)


def test_levels_of_several_kinds_and_blocks_of_few_bytes_change_nothing(moved_of, monkeypatch):
    draws = [draw(n, key, n % 5, level=level) for n in range(1, 9) for key, level in LEVELS.items()]
    whole = moved_of(*draws)
    monkeypatch.setattr(moved, "_BLOCK_BYTES", 64)
    assert moved_of(*draws) == whole
    assert {mover.level for mover in whole.risen} == {"1", "hard", ""}


LEVELS = {"a": 1, "b": "hard", "c": None}


def test_the_prompt_is_that_of_the_pool_else_of_a_kept_sample_else_none(moved_of, make_sample):
    sample = make_sample(4, 5, 0)
    keys = ("pool", sample["key"], "unknown")
    draws = [draw(step, key, step) for step in (1, 2) for key in keys]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How far?"}]
    pool = [Problem(key="pool", prompt=chat, answer="3", source="sums", level=2)]
    found = moved_of(*draws, problems=pool, samples=True)
    assert [mover.prompt for mover in found.risen] == ["How far?", sample["prompt"], ""]


def test_a_run_without_a_log_has_no_such_section(whole_run, moved_of):
    assert "Prompts that moved most" not in write_report(whole_run).read_text(encoding="utf-8")
    assert moved_of().num_problems == 0


def test_the_page_shows_counts_beliefs_and_the_text(whole_run):
    rows = [draw(1, "0123456789", 0), draw(7, "0123456789", 3, belief=(3.0, 1.0))]
    (whole_run / "draws.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = [Problem(key="0123456789", prompt="<b>1 + 1</b>", answer="2", source="sums", level=2)]
    page = write_report(whole_run, problems=pool).read_text(encoding="utf-8")
    table = page[page.index("Prompts that moved most") : page.index("All kept completions")]
    assert "&lt;b&gt;1 + 1&lt;/b&gt;" in table and "<b>1" not in table
    text = " ".join(table.replace("<", " <").split())
    assert '0/4 <span class="quiet">at step 1, believed 25 %' in text
    assert '3/4 <span class="quiet">at step 7, believed 75 %' in text
