"""The format `<think>...</think>` and then an answer, whatever either says."""

INLINE = True  # Linear in the text, and no completion makes it raise.

EXAMPLES = [
    ("<think>1+1</think><answer>2</answer>", "2", 1.0),
    ("\n<think>\n1+1\n</think>\nIt is 2.", "2", 1.0),
    ("<think>1+1</think>", "2", 0.0),
    ("<answer>2</answer><think>1+1</think> so", "2", 0.0),
    ("<think>1</think><think>2</think>3", "2", 0.0),
    ("<think><think>1</think>2", "2", 0.0),
    ("<think>1</think>2</think>3", "2", 0.0),
    ("<think> </think>2", "2", 0.0),
    ("1+1</think>2", "2", 0.0),
    ("2", "2", 0.0),
]


def think_tags(completion: str) -> float:
    """1.0 when the completion is one `<think>...</think>`, not blank, followed by an answer."""
    before, _, rest = completion.partition("<think>")
    thought, _, said = rest.partition("</think>")
    stray = "<think>" in rest or "</think>" in said
    return float(bool(thought.strip() and said.strip()) and not before.strip() and not stray)
