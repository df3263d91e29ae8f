"""Answers read and compared as mathematics.

Of this layer only this module imports math-verify, which can hang: call it in a worker. Its own
timeouts are off, as they would count as wrong what is only slow.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rl_llm.scoring.answers import answer_text, behind_thoughts
from rl_llm.scoring.latex import differ_in_kind, has_tower, is_sentence, tidy_latex, words_of

try:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from math_verify import LatexNormalizationConfig as Normalization
    from sympy import Symbol
except ModuleNotFoundError as error:
    raise ImportError(
        "the reward math_answer needs the package math-verify; run: pip install -e '.[math]'"
    ) from error

_MAX_CHARS = 1000  # Of an answer, and of the end of a completion that marks none.
_DECIMALS = 15  # Rounding to fewer, as math-verify does, would make 0.333333 of 1/3.
# math-verify takes the b of 2b for a unit; tidy_latex knows better.
_NORMALIZED = Normalization(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_LATEX = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_NORMALIZED)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer tidied, and what math-verify makes of it: nothing where it cannot read it."""

    text: str
    parsed: list[Any]


@lru_cache(maxsize=256)
def read_reference(answer: str) -> Answer:
    """Return what a reference marks as its answer, or is as a whole; raises `ValueError` for one
    that cannot be read."""
    wanted = _read(answer_text(answer) or answer)
    if not wanted.text or (not wanted.parsed and words_of(wanted.text) is None):
        raise ValueError(
            f"the reference answer {answer[-200:]!r} cannot be read as mathematics; write it as "
            "LaTeX or a word, or remove the problem"
        )
    return wanted


def read_completion(completion: str) -> Answer:
    """Return what a completion marks as its answer, else what math-verify finds at its end."""
    marked = answer_text(completion)
    said = behind_thoughts(completion)
    return _extracted(_end_of(said)) if marked is None else _read(marked)


def are_equal(wanted: Answer, found: Answer) -> bool:
    """Return whether an answer equals a reference, which may have more forms than one."""
    words = words_of(wanted.text)
    if found.text == wanted.text or words is not None:
        return found.text == wanted.text or words_of(found.text) == words
    if has_tower(found.text) or differ_in_kind(found.text, wanted.text):
        return False
    # An inequality that bounds nothing, as x < \infty, is no interval, and would be the empty set.
    is_empty = any(map(_is_empty_set, (*wanted.parsed, *found.parsed)))
    equal = verify(
        wanted.parsed,
        found.parsed,
        float_rounding=_DECIMALS,
        allow_set_relation_comp=not is_empty,
        timeout_seconds=None,
    )
    return bool(equal)


def marked_latex(completion: str) -> str | None:
    """Return what a completion marks as its answer, tidied; None without, and where it is long."""
    marked = answer_text(completion)
    return tidy_latex(marked) if marked is not None and len(marked) <= _MAX_CHARS else None


def _is_empty_set(parsed: Any) -> bool:
    return getattr(parsed, "is_empty", False) is True


def _read(marked: str) -> Answer:
    """Read an answer; what is a sentence is looked through for it."""
    if len(marked) > _MAX_CHARS:
        return Answer(text="", parsed=[])
    text = tidy_latex(marked)
    if words_of(text) is not None:
        return Answer(text=text, parsed=_extracted(marked).parsed)
    if is_sentence(text):
        return _extracted(marked)
    parsed = _parsed(f"\\[{text}\\]", _LATEX)[1]
    if not parsed and text.endswith("\\%"):  # Of a fraction, the sign is read behind the formula.
        parsed = _parsed(f"\\[{text[:-2]}\\]\\%", _LATEX)[1]
    return Answer(text=text, parsed=parsed)


def _extracted(text: str) -> Answer:
    """Return what math-verify takes for the answer in a text."""
    found, parsed = _parsed(text, _LATEX, ExprExtractionConfig())
    tidied = tidy_latex(found)
    if tidied != found and not has_tower(found):
        parsed = [*parsed, *_parsed(f"\\[{tidied}\\]", _LATEX)[1]]
    return Answer(text=tidied, parsed=parsed)


def _parsed(text: str, *configs: Any) -> tuple[str, list[Any]]:
    """Return the text that math-verify takes for the answer, and how it reads it."""
    parts = parse(text, configs, parsing_timeout=None)
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts[:1]), [_all_real(part) for part in parts if not isinstance(part, str)]


def _all_real(parsed: Any) -> Any:
    r"""Return what was parsed with every letter a real number. math-verify guesses from each text
    whether letters are, so that i would be one letter in 2i\sqrt{3} and another in 2\sqrt{3}i."""
    letters = {each for each in getattr(parsed, "free_symbols", ()) if isinstance(each, Symbol)}
    known = {each: Symbol(each.name, real=True) for each in letters if not each.is_real}
    return parsed.xreplace(known) if known else parsed


def _end_of(completion: str) -> str:
    """Return the last lines of a completion."""
    end = completion[-_MAX_CHARS:]
    return end if end == completion else end.partition("\n")[2] or end


logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns of timeouts that are off.
