"""The answer as an exact number: for arithmetic and word problems, however the number is
written."""

from rl_llm.scoring import Number, final_answer, numbers_equal

INLINE = True  # Linear in the text, and no completion makes it raise.

read_answer = final_answer  # What votes are counted by.

EXAMPLES = [
    ("She sold 72 clips.", "72", 1.0),
    ("That makes 1,000.0", "1000", 1.0),
    ("It costs $5", "5", 1.0),
    ("50%", "50", 1.0),
    ("Half of it, so 1/2", ".5", 1.0),
    ("The sum is -3.", "-3", 1.0),
    (r"I first thought 7, but \boxed{8} is right, not 9", "8", 1.0),
    ("2 + 5 = 7\n#### 7\nChecked 3 times.", "7", 1.0),
    ("<think>5 or 6</think><answer>6</answer>", "6", 1.0),
    ("#### 42", "6 * 7 = <<6*7=42>>42\n#### 42", 1.0),
    ("The answer is 10-3", "-3", 0.0),
    (r"\boxed{} but 4 it is", "5", 0.0),
    ("I do not know", "3", 0.0),
    ("", "0", 0.0),
]


def numeric_answer(completion: str, answer: str) -> float:
    r"""1.0 when the completion's number equals the answer's, whatever their format.

    The number is that of `rl_llm.scoring.final_answer`: a box or `####` wins, else the last one.
    """
    return float(numbers_equal(final_answer(completion), read_reference(answer)))


def read_reference(answer: str) -> Number:
    """Return the number of a reference; raises `ValueError` where it holds none."""
    number = final_answer(answer)
    if number is None:
        raise ValueError(f"the reference answer {answer!r} holds no number")
    return number
