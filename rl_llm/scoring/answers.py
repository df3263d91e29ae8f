"""Reading answers out of completions: boxes, tags, fenced blocks, and exact numbers.

Numbers are `Fraction`s, so `0.1` equals `1/10` and nothing is rounded. Every function takes time
linear in the text, and none raises on any text.
"""

import re
import textwrap
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

Number = Fraction

# Beyond these a literal is no number, so that no completion can make the arithmetic slow, or a
# value too long for Python to print (4,300 digits).
_MAX_DIGITS = 1000
_MAX_EXPONENT = 1000

# Possessive quantifiers (`++`) never give back what they took, which keeps the search linear.
_SIGN = r"[-+\u2212]"  # U+2212 is the Unicode minus
_LITERAL = (
    r"(?:(?<![A-Za-z0-9_.])\.[0-9]++"  # .5
    r"|[0-9]++(?:(?<![0-9]{4})(?:,[0-9]{3}(?![0-9]))++)?+(?:\.[0-9]++)?+)"  # 1,234.5
    rf"(?:[eE]{_SIGN}?[0-9]++)?+"
)
_TOP, _BOTTOM = (  # of \frac{1}{2}, or of \frac12
    rf"(?:\{{\s*+(?P<{part}>{_SIGN}?{_LITERAL})\s*+\}}|(?P<{part}_digit>[0-9]))"
    for part in ("top", "bottom")
)
_DIGITS = r"[0-9]{1,9}+"
_WHOLE = (
    rf"(?:(?P<whole>{_DIGITS})(?:[ \u00a0](?={_DIGITS}/{_DIGITS}(?![0-9]|[.,/][0-9]))"  # of 3 1/2
    r"|(?:\\?[ \u00a0])?(?=\\[dtc]?frac)))?"  # of 3\frac{1}{2}
)
_TOKEN = re.compile(
    rf"(?P<sign>{_SIGN}?)(?:\\?[$€£¥]\s?)?(?P<inner_sign>{_SIGN}?){_WHOLE}"
    rf"(?:(?P<fraction>\\[dtc]?frac\s*+{_TOP}\s*+{_BOTTOM})"
    rf"|(?P<number>{_LITERAL})(?:/(?P<denominator>{_LITERAL}))?+)"
    r"|\\[A-Za-z]++"  # a LaTeX command: the 5 of \times5 stands alone
    r"|[A-Za-z_][A-Za-z0-9_]*+"  # a word: the 2 of CO2 does not
)
_FENCE = re.compile(
    r"(?P<indent>[ \t]*+)(?P<fence>`{3,}+|~{3,}+)[ \t]*+(?P<language>[^\s`]*+)[^`]*+"
)
_BRACE = re.compile(r"\\boxed\s*+\{|\\[{}]|[{}]")
_MINUS = {"-", "\u2212"}
_OPERAND_ENDS = {*")]}%_", *_MINUS, "\u2013"}


def last_number(text: str) -> Number | None:
    r"""Return the last number in `text`.

    Understands `1,234.5`, `.5`, `-3`, `1e3`, `1/2`, `\frac{1}{2}`, `3 1/2` (which is 3.5), currency
    signs and the Unicode minus; units and `%` are ignored (`50%` is 50). A hyphen after a digit, a
    letter or a closing bracket is no sign: the last number of `10-3` is 3. Digits inside a word
    (`CO2`) do not count. None when there is no number, or when the last one has no value: a
    division by zero, `3 5/2`, more than 1,000 digits.
    """
    last = None
    for last in _literals(tidied := _tidy(text)):  # noqa: B007  The last match is what is wanted.
        pass
    return None if last is None else _value(last, tidied)


def parse_number(text: str) -> Number | None:
    """Return the number that `text` is, or None.

    A currency sign before it and a unit after it are allowed (`72 clips.`); words before it or a
    second number (`10-3`) are not.
    """
    num_literals = sum(1 for _ in _literals(_tidy(text)))
    return _leading_value(text) if num_literals == 1 else None


def numbers_equal(
    a: Number | Decimal | float | str | None, b: Number | Decimal | float | str | None
) -> bool:
    """Return whether both are numbers, and exactly the same one.

    Text goes through `parse_number`; a float means the decimal number that it prints as.
    """
    left, right = _as_number(a), _as_number(b)
    return left is not None and left == right


def boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{...}` whose braces balance; None without one."""
    open_braces: list[int | None] = []  # where a box begins, or None for another brace
    start, content = -1, None
    for brace in _BRACE.finditer(text):
        token = brace.group()
        if token == "}" and open_braces:
            opened = open_braces.pop()
            if opened is not None and opened > start:
                start, content = opened, text[opened : brace.start()]
        elif token == "{" or token.startswith("\\boxed"):
            open_braces.append(None if token == "{" else brace.end())
    return content


def after_hashes(text: str) -> str | None:
    """Return the rest of the line after the last `####`, stripped; None without one."""
    _, hashes, rest = text.rpartition("####")
    return rest.partition("\n")[0].strip() if hashes else None


def between_tags(text: str, tag: str) -> str | None:
    """Return what stands in the last `<tag>...</tag>`, unstripped; None without a closed pair."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    content, position = None, 0
    while (first := text.find(opening, position)) >= 0:
        end = text.find(closing, first + len(opening))
        if end < 0:
            break
        start = text.rfind(opening, first, end) + len(opening)
        content, position = text[start:end], end + len(closing)
    return content


def code_block(text: str, *languages: str) -> str | None:
    """Return what stands in the last fenced block of one of the languages, in any letters, and of
    any block without `languages`; None without one.

    Fences are three backticks or more, or as many tildes, on lines of their own, and the closing
    one is as long; a block that is not closed is none. An indented one loses its indentation.
    """
    found: str | None = None
    opened: re.Match[str] | None = None
    inside: list[str] = []
    for line in text.split("\n"):
        if opened is None:
            opened, inside = _FENCE.fullmatch(line.rstrip()), []
        elif line.strip().startswith(fence := opened["fence"]) and not line.strip(
            f"{fence[0]} \t\r"
        ):
            if not languages or opened["language"].lower() in languages:
                block = "\n".join(inside)
                found = textwrap.dedent(block) if opened["indent"] else block
            opened = None
        else:
            inside.append(line)
    return found


def answer_text(text: str) -> str | None:
    r"""Return what a completion marks as its answer, stripped; None where it marks none.

    That is what stands in the last `<answer>...</answer>` that is not blank, and there, or without
    such tags everywhere, in the last `\boxed{...}` that is not blank, else after `####` where that
    begins the last line; a box or hashes outside of tags do not count, and neither does what stands
    before the last `</think>`.
    """
    said = behind_thoughts(text)
    place = _answer_place(said)
    box = boxed(place)
    if box and not box.isspace():
        return box.strip()
    _, hashes, rest = place.rstrip().rpartition("####")
    if hashes and rest.strip() and "\n" not in rest:
        return rest.strip()
    return None if place is said else place.strip()


def final_answer(text: str) -> Number | None:
    r"""Return the number that a completion gives as its answer.

    It is looked for in the last `<answer>...</answer>` that is not blank, else everywhere: the last
    number in a `\boxed{...}` that is not blank, else the number that follows `####` (a heading such
    as `#### Step 2` is none), else the last number. A box without a number gives None. What stands
    before the last `</think>` does not count.
    """
    place = _answer_place(behind_thoughts(text))
    box = boxed(place)
    if box and not box.isspace():
        number = parse_number(box)
        return last_number(box) if number is None else number
    marked = _leading_value(after_hashes(place) or "")
    return last_number(place) if marked is None else marked


def behind_thoughts(text: str) -> str:
    """Return what stands behind the last `</think>`; all of a text without one."""
    return text.rpartition("</think>")[2]


def _answer_place(text: str) -> str:
    """Return where the answer is looked for: in the last tags that are not blank, else `text`."""
    tagged = between_tags(text, "answer")
    return tagged if tagged and not tagged.isspace() else text


def _tidy(text: str) -> str:
    """Take LaTeX's spacing out of numbers: `1{,}000`, `1,\\!000`, `1\\,000`."""
    return text.replace("{,}", ",").replace("\\!", "").replace("\\,", "")


def _literals(text: str) -> Iterator[re.Match[str]]:
    return (token for token in _TOKEN.finditer(text) if token["number"] or token["fraction"])


def _leading_value(text: str) -> Number | None:
    """Return the first number if neither a letter nor a digit stands before it; `- 3` is -3."""
    tidied = _tidy(text).lstrip()
    if tidied[:1] in _MINUS:
        tidied = "-" + tidied[1:].lstrip()
    first = next(_literals(tidied), None)
    if first is None or any(character.isalnum() for character in tidied[: first.start()]):
        return None
    return _value(first, tidied)


def _value(literal: re.Match[str], text: str) -> Number | None:
    if literal["fraction"]:
        top = _exact(literal["top"] or literal["top_digit"])
        bottom = _exact(literal["bottom"] or literal["bottom_digit"])
    else:
        top, bottom = _exact(literal["number"]), _exact(literal["denominator"] or "1")
    if top is None or not bottom:
        return None
    if literal["whole"]:
        if not 0 < top < bottom:
            return None
        top += int(literal["whole"]) * bottom
    before = text[max(literal.start() - 1, 0) : literal.start()]
    negative = literal["inner_sign"] in _MINUS or (
        literal["sign"] in _MINUS and not _ends_operand(before)
    )
    return -top / bottom if negative else top / bottom


def _ends_operand(character: str) -> bool:
    """Return whether a minus after this character is a hyphen or a subtraction, and no sign."""
    return (character.isascii() and character.isalnum()) or character in _OPERAND_ENDS


def _exact(literal: str) -> Number | None:
    mantissa, _, exponent = literal.lower().replace("\u2212", "-").partition("e")
    if len(mantissa) > _MAX_DIGITS or len(exponent) > _MAX_DIGITS:
        return None
    if abs(int(exponent or "0")) > _MAX_EXPONENT:
        return None
    return Fraction(mantissa.replace(",", "")) * Fraction(10) ** int(exponent or "0")


def _as_number(value: Number | Decimal | float | str | None) -> Number | None:
    if isinstance(value, str | None):
        return parse_number(value or "")
    if isinstance(value, float):
        return parse_number(repr(value))
    return Fraction(value) if not isinstance(value, Decimal) or value.is_finite() else None
