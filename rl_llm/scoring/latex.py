r"""The LaTeX of an answer, written as a parser of mathematics takes it.

Delimiters and units go, and what parsers get wrong is spelled out: mixed numbers, repeating
decimals, digits in groups, powers of ten. No function raises on any text. They are for an answer,
not for a whole completion: time may grow with the square of the text.
"""

import re

_FENCE = re.compile(r"\\?[$€£]|(?<!\\)\\[()\[\]]|\\(?:left|right)(?=\\[{}]|[()\[\]|])")
_LEADING = re.compile(r"^(?:=|\\approx(?![A-Za-z]))\s*")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf)|boldsymbol|bm|mbox)\s*\{([^{}]*)\}"
)
_WORDS = re.compile(r"(?=.*[^\W\d_]{4})[^\W\d_](?:[^\W_]|[ ',:;.-])*")
_SAID = re.compile(r"\b(?:is|are|equals?|answer)\b|^infinity$", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:\\?%|percent|\\text\s*\{\s*(?:\\?%|percent)\s*\})$")
_DEGREES = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\u00b0)")
# Behind a number: words in \text{}, a plain word too long for a product of variables, or some that
# are not.
_UNIT = re.compile(
    r"(?:\\[ ,;]|[~\s])*(?:\\(?:text(?:bf|it|rm|normal)?|mathrm|mbox)\s*\{(?!_COUNTS)[^{}]*\}"
    r"|(?<=[\d})]\s)(?!_COUNTS)(?:[A-Za-z]{4,}|[ckm]m|kg|ft|lbs?|mph|[AaPp]\.?[Mm]\b\.?)(?:\s[A-Za-z]+)*)"
    r"(?:\s*\^\s*(?:\d|\{\d\}))?$".replace(
        "_COUNTS", r"\s*(?:and|or|million|billion|thousand|hundred|dozen|infinity)\b"
    )
)
_MIXED = re.compile(r"(?<![\w.}^/])(\d+)\s+(\d+)/(\d+)(?![\w./])")
_GAP = re.compile(r"(?<=\d)(?:\\[ ,!;:]|[ ~])+(?=\d{3}(?!\d))")
_REPEATING = re.compile(r"(\d{0,99})\.(\d{0,99})\\(?:overline|bar)\s*\{?(\d{1,99})\}?")
_E_NOTATION = re.compile(r"(?<=\d)[eE]([-+]?\d{1,3})(?!\w)")
_SENTENCE = re.compile(
    r"(?<![\\{A-Za-z])(?<!\{\s)(?!infinity)(?:[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]{2,})"
)
_TOWER = re.compile(r"(?:\^|\*\*)\W*\d+\W*(?:\^|\*\*)")
_BASE = re.compile(r"\d_\{?(\d+)\}?$")
_BRACES, _BRACKETS = re.compile(r"\\\{[^()]*,[^()]*\\\}"), re.compile(r"\([^{}]*,[^{}]*\)")

_MAX_UNITS = 3


def tidy_latex(text: str) -> str:
    r"""Return an answer without delimiters, units and a full stop, with its numbers spelled out.

    `$4 1/2 \text{ cm}^2$.` becomes `4\frac{1}{2}`. A per cent sign stays, as `\%`; words that are
    all of the answer lose their `\text{}` alone.
    """
    text = _LEADING.sub("", _FENCE.sub("", text).strip().removesuffix(".").strip())
    whole = _TEXT.fullmatch(text)
    text = (whole[1].strip() if whole else text).replace("\u2212", "-")
    text = _PERCENT.sub(r"\\%", _DEGREES.sub("", text))
    for _ in range(_MAX_UNITS):
        shorter = _UNIT.sub("", text)
        text = shorter if re.search(r"\d|\\pi", shorter) else text
    text = text.replace(r"\varnothing", r"\emptyset")
    text = _GAP.sub("", _MIXED.sub(r"\1\\frac{\2}{\3}", text))
    return _E_NOTATION.sub(r"\\times 10^{\1}", _REPEATING.sub(_fraction, text))


def words_of(text: str) -> str | None:
    """Return the words, in small letters, that a tidied answer is, a date or a name with a number
    among them; None where it is a sentence, or so short that it may be a product of variables."""
    plain = _TEXT.sub(r"\1", text).replace("\\ ", " ").strip(" ().")
    if _WORDS.fullmatch(plain) is None or _SAID.search(plain):
        return None
    return " ".join(plain.casefold().split())


def is_sentence(text: str) -> bool:
    r"""Return whether there are words outside of `\text{}` in a tidied answer."""
    return _SENTENCE.search(text) is not None


def has_tower(text: str) -> bool:
    """Return whether there is a power of a power of a number, as in 9^{9^9}, which may have more
    digits than any memory holds."""
    return _TOWER.search(text) is not None


def differ_in_kind(left: str, right: str) -> bool:
    r"""Return whether one is a set in braces and the other a tuple or an open interval, or whether
    they are numbers in two bases: of `\{1, 2\}`, `(1, 2)`, `12_5` and `12_6` any two."""
    bases = {base[1] for base in map(_BASE.search, (left, right)) if base}
    pairs = (left, right), (right, left)
    return len(bases) > 1 or any(_BRACES.fullmatch(a) and _BRACKETS.fullmatch(b) for a, b in pairs)


def _fraction(decimal: re.Match[str]) -> str:
    r"""Spell out 0.1\overline{6} as 15/90."""
    whole, head, cycle = decimal.groups()
    top = int(whole + head + cycle) - int((whole + head) or "0")
    return f"\\frac{{{top}}}{{{10 ** len(head) * (10 ** len(cycle) - 1)}}}"
