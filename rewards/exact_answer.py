"""The answer, character by character: for tasks whose answer is written in one way only."""

from rl_llm.scoring import between_tags

INLINE = True  # Linear in the text, and no completion makes it raise.

EXAMPLES = [
    ("<think>7+8+0=15 4+3+1=8</think><answer>85</answer>", "85", 1.0),
    ("<answer> 85\n</answer>", "85", 1.0),
    ("<answer>84</answer><answer>85</answer>", "85", 1.0),
    ("85", "85", 1.0),
    (" Paris\n", "Paris", 1.0),
    ("<answer>85.0</answer>", "85", 0.0),
    ("The answer is 85", "85", 0.0),
    ("85 <answer></answer>", "85", 0.0),
    ("<answer>85", "85", 0.0),
    ("", "85", 0.0),
]


def exact_answer(completion: str, answer: str) -> float:
    """1.0 when the last `<answer>...</answer>`, else the whole completion, is the answer.

    White space around either does not count. Raises `ValueError` for a reference that is blank.
    """
    return float(read_answer(completion) == read_reference(answer))


def read_answer(completion: str) -> str:
    """Return what stands in the last `<answer>...</answer>`, else the whole completion."""
    tagged = between_tags(completion, "answer")
    return (completion if tagged is None else tagged).strip()


def read_reference(answer: str) -> str:
    """Return a reference without the white space around it."""
    if not answer.strip():
        raise ValueError(
            "the reference answer is blank, so that an empty completion would be right; give the "
            "problem an answer, or remove it"
        )
    return answer.strip()
