"""The letter of a multiple choice, A to J, in a text."""

import re

from rl_llm.scoring.answers import answer_text, behind_thoughts

# All repetitions are bounded or possessive, which keeps the search linear.
_OPENING = r"(?:[\s*_$\"'`({\[]|\\(?:text|math)(?:bf|it|rm)?(?=\{)|\\[(\[])"
_AND = r"(?:and|or)\b(?:\s(?:also|maybe|perhaps|possibly))?"
_NOT_TWO = (
    rf"(?![)\]}}.*_$\s]{{0,6}}(?:[,;&/|]\s{{0,3}}(?:{_AND})?|(?:\\text\s?\{{\s?)?\b{_AND})"
    r"(?:[\s({}*$]|\\(?:text|math)(?:bf|it|rm)?(?=\{)){0,6}[A-J]\b)(?!\}?\)?\s?\([A-J]\))"
)
_NOT_ME = r"(?!(?<=I)\s(?:am|believe|can|cannot|could|do|don|guess|have|need|think|would)\b)"
_ALONE = re.compile(rf"{_OPENING}*+([A-Ja-j])(?![A-Za-z0-9]){_NOT_TWO}[)\]}}.:*_$\"'`\s]*+\Z")
_WITH_TEXT = re.compile(rf"{_OPENING}*+([A-Ja-j])(?:\)|\.|:|\}}|\*\*){_NOT_TWO}")
_STATED = re.compile(
    r"(?i:\b(?:answer|choice|option))[*_]{0,3}(?:\s{1,3}is\b:?|\s{0,3}[:=])"
    rf"(?:\s{{1,3}}(?:option|choice)\b)?{_OPENING}{{0,8}}"
    rf"([A-J]|(?<=\()[a-j](?=\)))(?![A-Za-z0-9'\u2019^]|\s{{0,3}}=){_NOT_ME}{_NOT_TWO}"
)


def is_letter(text: str) -> bool:
    """Return whether a text is a letter and nothing else, however it is written."""
    return _ALONE.match(text.strip()) is not None


def read_letter(text: str) -> str | None:
    """Return the letter, a capital one, that a text gives; None without one, and for two.

    It stands in `<answer>`, a box or after `####`, with or without the option's text; else in the
    last "answer is B" or "Answer: B"; else it is all of the last line, or begins the only one.
    """
    text = behind_thoughts(text)
    marked = answer_text(text)
    if marked is not None:
        found = _ALONE.match(marked) or _WITH_TEXT.match(marked)
    else:
        lines = text.strip().splitlines() or [""]
        *_, found = None, *_STATED.finditer(text)
        found = found or _ALONE.match(lines[-1].strip())
        found = found or (_WITH_TEXT.match(lines[0]) if len(lines) == 1 else None)
    return found[1].upper() if found else None
