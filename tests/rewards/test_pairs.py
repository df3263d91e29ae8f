"""What numeric_answer and math_answer call equal, held against what a mathematician does."""

import re
from pathlib import Path

import pytest

from rl_llm.plugins import resolve

numeric_answer = resolve("numeric_answer", kind="rewards").target
math_answer = resolve("math_answer", kind="rewards").target


def table(name):
    """Return the rows of a table beside this file: two texts, 0.0 or 1.0, and where it stands."""
    rows = []
    lines = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("# "):
            given, answer, expected, _reason = re.split(r"\s{2,}", line)
            rows.append(pytest.param(given, answer, float(expected), id=f"{name}-{number}"))
    return rows


def lines_of(text):
    return text.replace(r"\n", "\n")


@pytest.mark.parametrize(("completion", "answer", "expected"), table("pairs_numeric"))
def test_numbers_are_equal_where_a_mathematician_says_so(completion, answer, expected):
    assert numeric_answer(lines_of(completion), lines_of(answer)) == expected


@pytest.mark.parametrize(("completion", "answer", "truth"), table("misses_numeric"))
def test_what_numeric_answer_is_known_to_miss(completion, answer, truth):
    assert numeric_answer(completion, answer) == 1.0 - truth


@pytest.mark.parametrize(("given", "answer", "expected"), table("pairs_math"))
def test_mathematics_is_equal_where_a_mathematician_says_so(given, answer, expected):
    assert math_answer(f"So it is \\boxed{{{given}}}.", answer) == expected


@pytest.mark.parametrize(("given", "answer", "truth"), table("misses_math"))
def test_what_math_answer_is_known_to_miss(given, answer, truth):
    assert math_answer(f"So it is \\boxed{{{given}}}.", answer) == 1.0 - truth


def test_the_page_says_what_is_equal_and_what_is_not():
    page = Path(__file__).parents[2] / "docs" / "shipped_rewards.md"
    table = page.read_text(encoding="utf-8").partition("| equal | different |\n| --- | --- |\n")[2]
    rows = [row.split(" | ") for row in table.partition("\n\n")[0].splitlines()]
    alike = [re.findall("`([^`]+)`", group) for row in rows for group in row[0].split("; ")]
    others = [re.findall("`([^`]+)`", row[1]) for row in rows]
    equal = [(one, two) for group in alike for one in group for two in group]
    different = [(first, other) for first, *rest in others for other in rest]
    assert (len(rows), len(equal) > 50, len(different) > 8) == (8, True, True)
    assert {pair for pair in equal if not math_answer(f"\\boxed{{{pair[0]}}}", pair[1])} == set()
    assert {pair for pair in different if math_answer(f"\\boxed{{{pair[0]}}}", pair[1])} == set()


def test_the_tables_hold_more_than_three_hundred_pairs_of_both_kinds():
    rows = [row.values for name in ("pairs_numeric", "pairs_math") for row in table(name)]
    assert len(rows) > 300
    assert len({row[:2] for row in rows}) == len(rows)
    assert 0.3 < sum(expected for *_, expected in rows) / len(rows) < 0.7
