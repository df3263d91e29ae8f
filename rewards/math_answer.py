r"""The answer as mathematics: LaTeX, fractions, sets, intervals, tuples, equations, matrices, text.

The library math-verify says what is equal. It can hang, so this runs in a worker.
"""

from rl_llm.scoring.mathematics import are_equal, marked_latex, read_completion, read_reference

EXAMPLES = [
    (r"So it is \boxed{\frac{\sqrt{2}}{2}}.", r"\frac{1}{\sqrt{2}}", 1.0),
    (r"<think>\boxed{3}?</think><answer>$x > 3$</answer>", r"$(3, \infty)$", 1.0),
    (r"Hence $x = 5$ or $x = 2$.", r"Both are: \boxed{\{2, 5\}}", 1.0),
    (r"\boxed{50\%}", "1/2", 1.0),
    (r"\boxed{1,\!000\text{ cm}^2}", "1000", 1.0),
    (r"\boxed{\text{Monday}}", "monday", 1.0),
    (r"\boxed{0.333333}", r"\frac{1}{3}", 0.0),
    (r"\boxed{[1, 2)}", "[1, 2]", 0.0),
    ("9**9**9**9", "9", 0.0),
    ("I do not know.", "5", 0.0),
]

# Votes are counted by how an answer is written, since the library that knows what is equal may
# hang.
read_answer = marked_latex


def math_answer(completion: str, answer: str) -> float:
    r"""1.0 when the completion's answer equals the reference, both read as mathematics.

    The answer is what `rl_llm.scoring.answer_text` finds, in either: in `<answer>`, a box, or after
    `####`. Without such marks it is the whole reference, and of a completion what math-verify
    finds at its end. Raises `ValueError` for a reference that cannot be read.
    """
    wanted = read_reference(answer)  # First, so that a bad one fails whatever the completion.
    return float(are_equal(wanted, read_completion(completion)))
