"""The format `...<answer>...</answer>`, whatever the answer is."""

INLINE = True  # Linear in the text, and no completion makes it raise.

EXAMPLES = [
    ("<think>1+1</think><answer>2</answer>", "2", 1.0),
    ("<answer>wrong but well formed</answer>\n", "2", 1.0),
    ("<answer>2</answer> as asked", "2", 0.0),
    ("<answer>1</answer><answer>2</answer>", "2", 0.0),
    ("<answer><answer>2</answer>", "2", 0.0),
    ("</answer><answer>2", "2", 0.0),
    ("<answer> </answer>", "2", 0.0),
    ("2", "2", 0.0),
]


def answer_tags(completion: str) -> float:
    """1.0 when the completion ends with its only `<answer>...</answer>`, which is not blank."""
    before, opening, rest = completion.partition("<answer>")
    inside, closing, after = rest.partition("</answer>")
    stray = "<answer>" in inside or "</answer>" in before
    return float(bool(opening and closing and inside.strip()) and not stray and not after.strip())
