"""The letter that choice_answer reads, and the references that it takes."""

import time

import pytest

from rl_llm.plugins import resolve
from rl_llm.records import Problem

PLUGIN = resolve("choice_answer", kind="rewards")


def score(completion, answer, **meta):
    problem = Problem(key="k", prompt="Which?", answer=answer, meta=meta)
    return PLUGIN.target(completion, answer, problem)


@pytest.mark.parametrize(
    "completion",
    [
        *(
            "B",
            "(B)",
            "b",
            "B.",
            "B)",
            "(b)",
            "**B**",
            "**(B)**",
            "$B$",
            r"\text{B}",
            r"\textbf{(B)}",
        ),
        *("(B) Paris", "B. Paris", "B: Paris", "B) 12", "**B**. Paris"),
        *(r"\boxed{B}", r"\boxed{\text{B}}", r"\boxed{(B)}", r"\boxed{\textbf{(B)}\ 12}"),
        *(r"\boxed{B) 12}", r"First \boxed{A}, no, \boxed{\mathrm{B}}. Not A."),
        *("<answer>B</answer>", "<answer>(B)</answer> and not A", "<answer>B. Vitamin C</answer>"),
        *(
            "The answer is B",
            "the answer is (b).",
            "The answer is: **B**",
            "ANSWER: B",
            "Answer = B",
        ),
        *("**Answer:** B", "**Answer**: B", "The correct option is B.", "The answer is option B."),
        *(
            "The correct choice is (B)",
            r"The answer is $\text{(B)}$",
            "The answer is B because of A.",
        ),
        *("The answer is A. No, the answer is B.", "Answer: B\n\nExplanation: Option A is wrong."),
        *("The answer is B (A is wrong).", "The answer is B. A is wrong.", "Answer: B) (A train)"),
        *("The final answer is B) Paris", "It is Paris.\n\nB", "It is Paris.\n(B)\n", "#### B"),
        *("<think>The answer is A.</think>B", "<think>\\boxed{A}</think>\nThe answer is B."),
    ],
)
def test_a_letter_is_read_however_it_is_written(completion):
    assert score(completion, "B") == 1.0
    assert score(completion, "A") == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        *("", " ", "A train leaves Paris.", "Options:\nB. Rome\nA. Paris", "Option A is wrong."),
        *("The answer is a number.", "The answer is not A.", "The answer is A = 5", "Answer: A2"),
        *("The answer is A or B", "(A) and (B)", "A, B", "A/B", r"\boxed{A,B}", r"\boxed{AB}"),
        *(r"\boxed{A \text{ and } B}", r"\boxed{12}", "<answer>a number</answer>", "K", "A1"),
        *("<answer>Apple</answer>", "<think>A</think>"),
        *("The answer is A, or maybe B", "The answer is A; B", "The answer is A|B"),
        *("The answer is A and also B", r"The answer is A \text{ or } B", "The answer is (A)(B)"),
        *(r"\boxed{\text{A}, \text{B}}", r"\boxed{\mathbf{(A)}, \mathbf{(B)}}", r"\boxed{(A) (B)}"),
    ],
)
def test_what_is_no_letter_or_two_gives_0(completion):
    assert score(completion, "A") == 0.0


@pytest.mark.parametrize("answer", ["B", " b ", "(B)", "B. Paris", r"\text{(B)}", r"So \boxed{B}."])
def test_the_reference_is_a_letter_in_any_way(answer):
    assert score("The answer is B.", answer) == 1.0
    assert score("The answer is C.", answer) == 0.0


@pytest.mark.parametrize(
    "completion",
    ["Answer: I think it is B", "The answer is I don't know", "Answer: I\u2019m not sure"],
)
def test_somebody_who_says_i_gives_no_letter(completion):
    assert score(completion, "I") == 0.0
    assert score("The answer is I.", "I") == 1.0


def test_the_text_of_an_option_that_begins_like_another_letter_is_an_error():
    choices = ["B. Franklin", "A. Lincoln", "C. Darwin"]
    assert score("(C)", "C. Darwin", choices=choices) == 1.0
    message = "'A. Lincoln' begins with the letter A and is the text of choice B; write the letter"
    with pytest.raises(ValueError, match=message):
        score("(A)", "A. Lincoln", choices=choices)


def test_the_text_of_an_eleventh_option_is_an_error_since_no_letter_of_it_is_read():
    with pytest.raises(ValueError, match="nor one of the first 10 texts"):
        score("(K)", "10", choices=[str(number) for number in range(11)])


def test_the_reference_may_be_the_text_of_an_option():
    assert score("(C)", "12", choices=["10", "11", "12"]) == 1.0
    assert score("(B)", "12", choices=["10", "11", "12"]) == 0.0


def test_a_reference_that_is_a_letter_is_one_whatever_the_options_say():
    assert score("(B)", "B", choices=["B", "A"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "meta"),
    [("12", {}), ("", {}), ("A or B", {}), ("2", {"choices": ["10", "11", "12"]}), ("K", {})],
)
def test_another_reference_is_an_error_that_names_it(answer, meta):
    message = f"the reference answer {answer!r} is neither a letter from A to J nor one"
    with pytest.raises(ValueError, match=message):
        score("B", answer, **meta)


@pytest.mark.parametrize(
    "unit", ["answer is ", "answer is (", "(", "*", " ", "A. ", "\\text{", "answer:\n", "is A or "]
)
def test_reading_two_hundred_thousand_characters_takes_no_longer_than_a_glance(unit):
    text = unit * (200_000 // len(unit))
    started = time.perf_counter()
    for completion in (text, f"\\boxed{{{text}}}", f"<answer>{text}</answer>"):
        score(completion, "A")
    assert time.perf_counter() - started < 3  # A quadratic search takes minutes.
