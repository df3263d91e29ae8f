"""Numbers and answers in text; every expected value is worked by hand."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.scoring import (
    after_hashes,
    answer_text,
    between_tags,
    boxed,
    code_block,
    final_answer,
    last_number,
    numbers_equal,
    parse_number,
)

HALF = Fraction(1, 2)

ONE_NUMBER = [
    ("7", 7),
    ("1,000.0", 1000),
    ("1,234,567", 1234567),
    ("$5", 5),
    ("-$5", -5),
    ("$-5", -5),
    ("\\$1,200.50", Fraction(2401, 2)),
    ("€ 3", 3),
    ("50%", 50),
    ("50\\%", 50),
    ("1/2", HALF),
    ("-1/2", -HALF),
    ("-3", -3),
    ("- 3", -3),
    ("\u22123", -3),
    ("+3", 3),
    (".5", HALF),
    ("-.5", -HALF),
    ("3.", 3),
    ("72 clips.", 72),
    ("72clips", 72),
    ("1e3", 1000),
    ("2.5E-1", Fraction(1, 4)),
    ("1{,}000", 1000),
    ("10,\\!080", 10080),
    ("\\frac{1}{2}", HALF),
    ("\\dfrac{ 3 }{ -4 }", Fraction(-3, 4)),
    ("-\\frac12", -HALF),
    ("$\\tfrac{1}{2}$", HALF),
    ("**42**", 42),
    ("(-3)", -3),
    ("007", 7),
]


@pytest.mark.parametrize(("text", "value"), ONE_NUMBER)
def test_a_text_that_is_one_number_is_read_alike_by_every_reader(text, value):
    assert parse_number(text) == value
    assert final_answer(f"\\boxed{{{text}}} 99") == value
    assert final_answer(f"#### {text}\n99") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 3.", 3),
        ("so x=-3", -3),
        ("10-3", 3),
        ("pages 10\u20133", 3),
        ("10 -3", -3),
        ("x-3", 3),
        ("(10)-3", 3),
        ("5%-3%", 3),
        ("COVID-19", 19),
        ("2024-10-03", 3),
        ("10/3/2024", 2024),
        ("1,2,3", 3),
        ("1,234,56", 56),
        ("12,3456", 3456),
        ("(1234,567)", 567),
        ("(3, 4)", 4),
        ("Wait...12", 12),
        ("It is.5 of them", 5),
        ("5 kg of CO2", 5),
        ("2\\times5", 5),
        ("\u7b54\u6848\u662f-5", -5),
        ("<answer>-5</answer>", -5),
        ("48/2 = <<48/2=24>>24 clips", 24),
    ],
)
def test_the_last_number_of_a_sentence(text, value):
    assert last_number(text) == value


@pytest.mark.parametrize("text", ["", "none", "x2", "-", "$", ".", "1/0", "0/0", "\\frac{1}{0}"])
def test_what_has_no_value_is_no_number(text):
    assert last_number(text) is None
    assert parse_number(text) is None
    assert final_answer(text) is None


@pytest.mark.parametrize("text", ["10-3", "x = 5", "1 2", "five 5", "1 + 2", "2024-10-03"])
def test_a_text_that_is_more_than_one_number_is_not_parsed(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "1e99999999", "1e" + "9" * 5000, "1/" + "3" * 5000]
)
def test_numbers_too_long_to_compute_with_are_no_numbers(text):
    assert last_number(text) is None
    assert final_answer(text) is None


def test_the_longest_numbers_can_still_be_printed():
    longest = last_number("9" * 1000 + "e1000/." + "7" * 999 + "e-1000")
    assert longest is not None
    assert str(longest)


@pytest.mark.parametrize(
    "unit",
    [
        *("1", "1,", "111,", "-", "$", ".1", "1/", "1e", " ", "- ", "}", "a", "\\", "\\frac{1,111"),
        *("\\frac{", "\\frac{1}{", "\\frac ", "\\boxed{", "<answer>", "</answer>", "####", "{1"),
        *("```json", "```", "```json\n", "~~~\n", "``` "),
    ],
)
def test_reading_two_hundred_thousand_characters_takes_no_longer_than_a_glance(unit):
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    answer_text(text)
    final_answer(text)
    parse_number(text)
    last_number(text)
    code_block(text, "json")
    assert time.perf_counter() - start < 3  # a quadratic search takes minutes


@pytest.mark.parametrize("unit", ["a", " ", " a", "\t"])
def test_a_long_line_behind_three_backticks_takes_no_longer_than_a_glance(unit):
    start = time.perf_counter()
    assert code_block(f"```{unit * 100_000}`\n```\n7\n```") == "7"
    assert time.perf_counter() - start < 3


@given(st.text(alphabet="0123456789.,-+/$%eE{}<>#\\boxedfrac answr\u2212\n", max_size=60))
def test_no_text_makes_a_reader_raise(text):
    answer_text(text)
    final_answer(text)
    parse_number(text)
    numbers_equal(text, 1)


@given(st.integers(-(10**30), 10**30))
def test_integers_survive_every_way_of_writing_them(n):
    unicode_minus = str(n).replace("-", "\u2212")
    for text in (str(n), f"{n:,}", f"${n}", f"{n}.0", f"{n:+,}", f"{n} apples.", unicode_minus):
        assert parse_number(text) == n


@given(st.decimals(-(10**12), 10**12, places=6))
def test_decimals_survive_being_written(d):
    assert parse_number(f"{d:,f}") == Fraction(d)
    assert parse_number(f"{d:e}") == Fraction(d)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9))
def test_fractions_survive_being_written(top, bottom):
    assert parse_number(f"{top}/{bottom}") == Fraction(top, bottom)
    assert parse_number(f"\\frac{{{top}}}{{{bottom}}}") == Fraction(top, bottom)


def test_equality_is_exact_across_types():
    assert numbers_equal("1/2", ".5")
    assert numbers_equal(0.1, "1/10")
    assert numbers_equal(Decimal("2.50"), Fraction(5, 2))
    assert not numbers_equal("1/3", "0.333333333333")
    assert not numbers_equal(None, None)
    assert not numbers_equal("no number", "none either")
    assert not numbers_equal(float("nan"), float("nan"))
    assert not numbers_equal(Decimal("inf"), 1)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed{1} or \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}} {x}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3} and then \boxed{4", "3"),
        (r"} \boxed {3}", "3"),
        (r"\boxed{}", ""),
        (r"\boxed{3", None),
        ("3", None),
    ],
)
def test_the_last_box_whose_braces_balance(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("text", "rest"),
    [("#### 7", "7"), ("####7\nbye", "7"), ("#### 1\n#### 2 ", "2"), ("####", ""), ("### 7", None)],
)
def test_what_follows_four_hashes(text, rest):
    assert after_hashes(text) == rest


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<answer>7</answer>", "7"),
        ("<answer>1</answer> <answer> 2 </answer>", " 2 "),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>1 <answer>2</answer></answer>", "2"),
        ("<answer></answer>", ""),
        ("</answer>7<answer>", None),
        ("7", None),
    ],
)
def test_the_last_closed_pair_of_tags(text, content):
    assert between_tags(text, "answer") == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("```json\n7\n```", "7"),
        ("```json\n\n 7 \n```\n", "\n 7 "),
        ("So:\n```json\n1\n```\nor\n~~~~ JSON\n2\n~~~\n~~~~", "2\n~~~"),
        ("```json\n1\n```\n```json\n2", "1"),
        ("````json\n```\n````", "```"),
        ('```json\n{"a": "```"}\n```', '{"a": "```"}'),
        ("  ```json\n  [\n    7\n  ]\n  ```", "[\n  7\n]"),
        ("```json5\n7\n```", None),
        ("```python\n7\n```", None),
        ("```\n7\n```", None),
        ("```json 7```", None),
        ("```json", None),
    ],
)
def test_the_last_closed_block_of_a_language(text, content):
    assert code_block(text, "json") == content


def test_without_a_language_any_block_counts_and_of_two_either():
    text = "```py\n1\n```\n```json\n2\n```\n```\n3\n```"
    assert (code_block(text), code_block(text, "py", "json")) == ("3", "2")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{7} or maybe 8", 7),
        ("#### 7\nor maybe 8", 7),
        (r"#### 6 but \boxed{7}", 7),
        (r"\boxed{x = 7\text{ cm}}", 7),
        (r"\boxed{} but 8", 8),
        (r"8, no: \boxed{\text{no solution}}", None),
        ("#### Step 2\nThe answer is 8", 8),
        ("#### **$1,000**", 1000),
        (r"<think>\boxed{3}? #### 4</think><answer>5</answer> 6", 5),
        (r"<answer>2 and \boxed{5}</answer>", 5),
        ("5 <answer>unknown</answer>", None),
        ("5 <answer> </answer>", 5),
        ("3 apples and 4 pears", 4),
    ],
)
def test_a_box_or_hashes_win_over_the_last_number_and_tags_over_what_is_outside(text, value):
    assert final_answer(text) == value


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (r"<answer> x + 1 </answer> \boxed{5}", "x + 1"),
        (r"\boxed{5} <answer>so \boxed{x}.</answer>", "x"),
        (r"<answer></answer> \boxed{ 5 } #### 6", "5"),
        ("#### 6\n#### \\frac12 \n", r"\frac12"),
        ("<answer>7\n#### 8</answer> 9", "8"),
        ("#### 6\nas above", None),
        (r"\boxed{} 5", None),
        ("It is 5.\n####", None),
        ("5", None),
    ],
)
def test_what_a_text_marks_as_its_answer(text, marked):
    assert answer_text(text) == marked
