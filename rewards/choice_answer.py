r"""The letter of a multiple choice, A to J, however it is written: `B`, `(b)`, `B. Paris`."""

import re

from rl_llm.records import Problem
from rl_llm.scoring import answer_text

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

# All repetitions are bounded or possessive, which keeps the search linear.
_OPENING = r"(?:[\s*_$\"'`({\[]|\\(?:text|math)(?:bf|it|rm)?(?=\{)|\\[(\[])"
_NOT_TWO = r"(?![)\]}.*_$\s]{0,6}(?:,|&|/|\b(?:and|or)\b)[\s({*]{0,4}[A-J]\b)"
_ALONE = re.compile(rf"{_OPENING}*+([A-Ja-j])(?![A-Za-z0-9]){_NOT_TWO}[)\]}}.:*_$\"'`\s]*+\Z")
_WITH_TEXT = re.compile(rf"{_OPENING}*+([A-Ja-j])(?:\)|\.|:|\}}|\*\*){_NOT_TWO}")
_STATED = re.compile(
    r"(?i:\b(?:answer|choice|option))[*_]{0,3}(?:\s{1,3}is\b:?|\s{0,3}[:=])"
    rf"(?:\s{{1,3}}(?:option|choice)\b)?{_OPENING}{{0,8}}"
    rf"([A-J]|(?<=\()[a-j](?=\)))(?![A-Za-z0-9'^]|\s{{0,3}}=){_NOT_TWO}"
)


def choice_answer(completion: str, answer: str, problem: Problem) -> float:
    """1.0 when the letter that the completion gives is that of the answer.

    The letter stands in `<answer>`, a box or after `####`, with or without the option's text; else
    in the last "answer is B" or "Answer: B"; else it is all of the last line, or begins the only
    one. What stands before `</think>` does not count. The reference is a letter in one of these
    ways, or the text of one of the options in a column `choices`; else `ValueError` is raised.
    """
    return float(read_answer(completion) == read_reference(answer, problem))


def read_reference(answer: str, problem: Problem) -> str:
    """Return the letter of a reference; raises `ValueError` where there is none."""
    expected, choices = read_answer(answer), problem.meta.get("choices")
    if expected is None and isinstance(choices, list | tuple) and answer in choices:
        expected = chr(ord("A") + choices.index(answer))
    if expected is None:
        raise ValueError(
            f"the reference answer {answer!r} is neither a letter from A to J nor one of the "
            "texts in a column 'choices'; write the letter"
        )
    return expected


def read_answer(text: str) -> str | None:
    """Return the letter, a capital one, that a text gives."""
    text = text.rpartition("</think>")[2]
    marked = answer_text(text)
    if marked is not None:
        found = _ALONE.match(marked) or _WITH_TEXT.match(marked)
    else:
        lines = text.strip().splitlines() or [""]
        *_, found = None, *_STATED.finditer(text)
        found = found or _ALONE.match(lines[-1].strip())
        found = found or (_WITH_TEXT.match(lines[0]) if len(lines) == 1 else None)
    return found[1].upper() if found else None
