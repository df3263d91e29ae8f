r"""The answer as mathematics: LaTeX, fractions, sets, intervals, tuples, equations, matrices, text.

The library math-verify says what is equal. It can hang, so it runs in a worker; its own timeouts
are off, as they would count as wrong what is only slow.
"""

import logging
from functools import lru_cache
from typing import Any

from rl_llm.scoring import answer_text
from rl_llm.scoring.latex import (
    differ_in_kind,
    has_tower,
    is_sentence,
    tidy_latex,
    words_of,
)

try:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from math_verify import LatexNormalizationConfig as Normalization
except ModuleNotFoundError as error:
    raise ImportError(
        "the reward math_answer needs the package math-verify; run: pip install -e '.[math]'"
    ) from error

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

_MAX_CHARS = 1000  # Of an answer, and of the end of a completion that marks none.
_DECIMALS = 15  # Rounding to fewer, as math-verify does, would make 0.333333 of 1/3.
# math-verify takes the b of 2b for a unit; tidy_latex knows better.
_NORMALIZED = Normalization(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_LATEX = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=_NORMALIZED)


def math_answer(completion: str, answer: str) -> float:
    r"""1.0 when the completion's answer equals the reference, both read as mathematics.

    The answer is what `rl_llm.scoring.answer_text` finds, in either: in `<answer>`, a box, or after
    `####`. Without such marks it is the whole reference, and of a completion what math-verify
    finds at its end. Raises `ValueError` for a reference that cannot be read.
    """
    wanted, expected = _read_reference(answer)
    marked = answer_text(completion)
    found, given = _extracted(_end_of(completion)) if marked is None else _read(marked)
    words = words_of(wanted)
    if found == wanted or words is not None:
        return float(found == wanted or words_of(found) == words)
    if has_tower(found) or differ_in_kind(found, wanted):
        return 0.0
    equal = verify(
        expected,
        given,
        float_rounding=_DECIMALS,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
    return float(equal)


def read_answer(completion: str) -> str | None:
    """Return the marked answer, tidied: votes are counted by how it is written, since the library
    that knows what is equal may hang."""
    marked = answer_text(completion)
    return tidy_latex(marked) if marked is not None and len(marked) <= _MAX_CHARS else None


@lru_cache(maxsize=256)
def _read_reference(answer: str) -> tuple[str, list[Any]]:
    wanted, expected = _read(answer_text(answer) or answer)
    if not wanted or (not expected and words_of(wanted) is None):
        raise ValueError(
            f"the reference answer {answer[-200:]!r} cannot be read as mathematics; write it as "
            "LaTeX or a word, or remove the problem"
        )
    return wanted, expected


def _read(marked: str) -> tuple[str, list[Any]]:
    """Return an answer tidied, and what math-verify makes of it: nothing where it cannot read it.

    What is a sentence is looked through for the answer.
    """
    if len(marked) > _MAX_CHARS:
        return "", []
    text = tidy_latex(marked)
    if words_of(text) is not None:
        return text, _extracted(marked)[1]
    if is_sentence(text):
        return _extracted(marked)
    given = _parsed(f"\\[{text}\\]", _LATEX)[1]
    if not given and text.endswith("\\%"):  # Of a fraction, the sign is read behind the formula.
        given = _parsed(f"\\[{text[:-2]}\\]\\%", _LATEX)[1]
    return text, given


def _extracted(text: str) -> tuple[str, list[Any]]:
    """Return what math-verify takes for the answer in a text, tidied, and how it reads it."""
    found, given = _parsed(text, _LATEX, ExprExtractionConfig())
    tidied = tidy_latex(found)
    if tidied != found and not has_tower(found):
        given = [*given, *_parsed(f"\\[{tidied}\\]", _LATEX)[1]]
    return tidied, given


def _parsed(text: str, *configs: Any) -> tuple[str, list[Any]]:
    parts = parse(text, configs, parsing_timeout=None)
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts[:1]), [part for part in parts if not isinstance(part, str)]


def _end_of(completion: str) -> str:
    """Return the last lines of a completion."""
    end = completion[-_MAX_CHARS:]
    return end if end == completion else end.partition("\n")[2] or end


logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns of timeouts that are off.
