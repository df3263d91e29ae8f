r"""The format that a regular expression describes, in the syntax of Python's `re`.

Flags stand in the pattern: `(?s)` lets `.` match a new line, `(?i)` ignores case.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

# Not INLINE: a pattern may go back and forth for ever.

_STEPS = r"(?s)Step 1:.*\nAnswer: \d+"

EXAMPLES = [
    ({"completion": completion, "pattern": pattern, "search": search}, expected)
    for completion, pattern, search, expected in (
        ("Step 1: add\nAnswer: 7", _STEPS, False, 1.0),
        ("So: Step 1: add\nAnswer: 7", _STEPS, False, 0.0),
        ("Step 1: add\nAnswer: 7\n", _STEPS, False, 0.0),
        ("step 1: add\nAnswer: 7", _STEPS, False, 0.0),
        ("step 1: add\nanswer: 7", f"(?i){_STEPS}", False, 1.0),
        ("It is 7 apples.", r"\d+ apples", False, 0.0),
        ("It is 7 apples.", r"\d+ apples", True, 1.0),
    )
]


def _readable(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"not a regular expression of Python's re: {error}; mend it, or put a \\ before a sign "
            "that stands for itself, and in YAML the pattern between single quotes"
        ) from None
    return pattern


def regex_format(
    completion: str, *, pattern: Annotated[str, AfterValidator(_readable)], search: bool = False
) -> float:
    """1.0 when the pattern matches the whole completion, or with `search` any part of it."""
    match = re.search if search else re.fullmatch
    return float(match(pattern, completion) is not None)
