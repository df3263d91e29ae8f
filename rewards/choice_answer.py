r"""The letter of a multiple choice, A to J, however it is written: `B`, `(b)`, `B. Paris`."""

from rl_llm.records import Problem
from rl_llm.scoring.letters import is_letter, read_letter

INLINE = True  # Linear in the text, and no completion makes it raise.

EXAMPLES = [
    ({"completion": "Paris, so B.\nThe answer is (B).", "answer": "B"}, 1.0),
    ({"completion": r"\boxed{\text{(B) Paris}}", "answer": "(B)"}, 1.0),
    ({"completion": "<answer>b</answer>", "answer": r"\boxed{B}"}, 1.0),
    ({"completion": "**Answer:** B", "answer": "Paris", "choices": ["Rome", "Paris"]}, 1.0),
    ({"completion": "It is Paris.\n\nB.", "answer": "B"}, 1.0),
    ({"completion": "The answer is A. No, the answer is B.", "answer": "A"}, 0.0),
    ({"completion": r"\boxed{A} or \boxed{B}", "answer": "A"}, 0.0),
    ({"completion": "<answer>(A) or (B)</answer>", "answer": "A"}, 0.0),
    ({"completion": "A train leaves Paris.", "answer": "A"}, 0.0),
    ({"completion": "", "answer": "A"}, 0.0),
]

read_answer = read_letter  # What votes are counted by.


def choice_answer(completion: str, answer: str, problem: Problem) -> float:
    """1.0 when the letter that the completion gives is that of the answer.

    The letter stands in `<answer>`, a box or after `####`, with or without the option's text; else
    in the last "answer is B" or "Answer: B"; else it is all of the last line, or begins the only
    one. What stands before `</think>` does not count. The reference is a letter in one of these
    ways, or the text of one of the options in a column `choices`; else `ValueError` is raised.
    """
    return float(read_letter(completion) == read_reference(answer, problem))


def read_reference(answer: str, problem: Problem) -> str:
    """Return the letter of a reference; raises `ValueError` where there is none."""
    letter, choices = read_letter(answer), problem.meta.get("choices")
    if isinstance(choices, list | tuple) and answer in choices[:10] and not is_letter(answer):
        of_text = chr(ord("A") + choices.index(answer))
        if letter not in (None, of_text):
            raise ValueError(
                f"the reference answer {answer!r} begins with the letter {letter} and is the text "
                f"of choice {of_text}; write the letter"
            )
        letter = of_text
    if letter is None:
        raise ValueError(
            f"the reference answer {answer!r} is neither a letter from A to J nor one of the first "
            "10 texts in a column 'choices'; write the letter"
        )
    return letter
