"""Templates, style and scripts, put together to one file that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_STYLE, _SCRIPTS = "style.css", ("plots.js", "samples.js")
_LONGEST_TEXT = 3000


def render_page(template: str, *, title: str, **values: Any) -> str:
    """Return a page. Its policy lets the browser run the scripts of this package, known by their
    hashes, and none that a text of the run may smuggle in."""
    texts = [_read(name) for name in _SCRIPTS]
    scripts = {"texts": map(Markup, texts), "hashes": " ".join(map(_script_hash, texts))}
    style = Markup(_read(_STYLE))
    page = environment().get_template(template)
    return page.render(title=title, style=style, scripts=scripts, **values)


def sample_macro(name: str) -> Callable[..., Markup]:
    """Return what draws a sample, a pair or a group, by its name in `samples.html`."""
    macro: Callable[..., Markup] = getattr(environment().get_template("samples.html").module, name)
    return macro


def within(rendered: Iterable[Markup], *, most_bytes: int) -> list[Markup]:
    """Return the first parts of a page that together take at most so many bytes."""
    kept = []
    for part in rendered:
        most_bytes -= len(part.encode("utf-8", "replace"))
        if most_bytes < 0:
            break
        kept.append(part)
    return kept


def excerpt(text: str) -> str:
    """Return a text for reading: the middle of a very long one is left out, and counted."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def opening(text: str, longest: int) -> str:
    """Return how a text begins, in one line."""
    line = " ".join(text[: 4 * longest].split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


@cache
def environment() -> Environment:
    """Return the templates of this package: all that they are given is escaped."""
    made = Environment(
        autoescape=True,
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["excerpt"] = excerpt
    made.filters["opening"] = opening
    made.filters["percent"] = lambda share: f"{100 * share:.1f}"
    made.filters["zip_self"] = lambda values: [(value, value) for value in values]
    made.filters["number"] = lambda value: f"{value:.4g}"
    return made


def _read(name: str) -> str:
    return resources.files("rl_llm.report").joinpath(name).read_text(encoding="utf-8")


def _script_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
