"""From a pydantic error to lines that a user can act on: path, value, rule, way out."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_args

import pydantic
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from rl_llm.config.base import OpenSection, Section
from rl_llm.config.from_trl import trl_hint
from rl_llm.config.schema import Recipe
from rl_llm.config.sections import RewardUse, SourceUse
from rl_llm.errors import nearest

# What pydantic calls the members of a union; it puts these into a location as if they were keys.
_UNION_MEMBER = re.compile(r"^(str|int|float|bool|none|constrained-.*|.*\[.*\]|TrackerUse)$")
_FIRST_KEY: dict[type[BaseModel], str] = {SourceUse: "use", RewardUse: "use"}

_MOST_SHOWN_CHARS = 60

# What helps whoever got a value wrong, by the path of the value; `*` stands for any keys under it.
_WAYS_OUT = {
    "data.train": "name at least one prompt source, as in [{use: jsonl, path: problems.jsonl}]",
    "rewards": "name at least one reward, as in [{use: exact_answer}]",
    "tracking.*": "write names, with options as in [jsonl, {name: wandb, project: NAME}]",
    "curriculum.gates": "write a list, as in [informative]; [] admits all groups",
    "curriculum.quotas": "write {SOURCE: SHARE}, as in {gsm8k: 0.7}",
    "curriculum.quotas.*": "a share is above 0 and at most 1; to draw nothing from a source take "
    "it out of data.train, to let it share what the others leave give it no quota",
    "curriculum.prerequisites*": "write {SOURCE: in_order}, or {SOURCE: {LEVEL: [PARENTS]}} as in "
    "{arithmetic: {5: [3, 4]}}",
    "curriculum.priors.strength": "the lower, the sooner priors give way; to start without priors "
    "leave out priors.path and the column pass_rate of the data",
}

LINE_BREAK = "\n  "
"""Stands between the faults of one message."""

_UNSHOWN = "unshown"

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class Fault:
    """A value that is wrong by itself, and its dotted path; or settings that contradict each other,
    and no path."""

    path: str
    line: str


def unshown(fault: str) -> Exception:
    """Return what a validator raises for a value that may be a secret: it is not repeated."""
    return PydanticCustomError(_UNSHOWN, "{fault}", {"fault": fault})


def describe_invalid(error: pydantic.ValidationError, *, path: str = "") -> str:
    """Return one line per fault; `path` is where the checked options stand in the recipe."""
    return LINE_BREAK.join(fault.line for fault in find_faults(error, path=path))


def find_faults(error: pydantic.ValidationError, *, path: str = "") -> list[Fault]:
    """Return all faults, each on its line; without a `path`, what was checked is a whole recipe."""
    faults: dict[Location, list[Any]] = {}
    for item in error.errors():
        first, rest = item["loc"][:1], item["loc"][1:]
        place = (*first, *(part for part in rest if not _UNION_MEMBER.match(str(part))))
        faults.setdefault(place, []).append(item)
    prefix = [path] if path else []
    return [
        Fault(dotted, line)
        for place, items in faults.items()
        if not any(place and place == deeper[: len(place)] != deeper for deeper in faults)
        for dotted in [".".join([*prefix, *map(str, place)])]
        for line in _describe(dotted, place, items).split(LINE_BREAK)
    ]


def _describe(path: str, place: Location, items: Sequence[Any]) -> str:
    # Of what may be a name or a section, the name is told of.
    items = [item for item in items if item["type"] != "model_type"] or items
    kind, value = items[0]["type"], items[0]["input"]
    if not place:
        return str(items[0]["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return f"{path}: required, and missing{_add(path, value)}"
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_way_out(place)}"
    if kind == _UNSHOWN:
        return f"{path}: {items[0]['msg']}"
    if kind == "invalid_key":
        return (
            f"{path.rpartition('.')[0] or 'top level'}: the key {value!r} is not a word; quote it"
        )
    if kind == "model_type":
        return _describe_section(path, place, value)
    shown = "null" if value is None else reprlib.repr(value)
    rules = " or ".join(dict.fromkeys(_rule(item["msg"]) for item in items))
    return f"{path}={shown}: {rules}{_mend(path, kind, value)}"


def _add(path: str, section: Any) -> str:
    """Return the end of a message about a key that is missing from a section."""
    where, _, key = path.rpartition(".")
    for found in section if isinstance(section, Mapping) else ():
        if str(found).startswith(f"{key}:"):
            return f"; {found!r} needs a space behind its colon"
    return f"; add `{key}: ...` {f'under {where}' if where else 'to the recipe'}"


def _rule(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _mend(path: str, kind: str, value: Any) -> str:
    """Return the end of a message about a wrong value: what to write instead, where that is
    known."""
    if kind == "string_type" and type(value) in (int, float):
        return f"; in quotes it is one: '{value}'"
    known = [text for pattern, text in _WAYS_OUT.items() if fnmatchcase(path, pattern)]
    if kind == "list_type" and value is None and not known:
        return "; an empty one is written as []"
    if kind == "list_type" and (isinstance(value, Mapping) or not known):
        written = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1000)
        if len(written) <= _MOST_SHOWN_CHARS:
            return f"; in brackets it is one: {written.strip()}"
    return "".join(f"; {text}" for text in known)


def _describe_section(path: str, place: Location, value: Any) -> str:
    """Say what to write where a section should stand and something else does."""
    model = _model_at(place)
    if value is None:
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        default = "leave the key out for its defaults, or put keys under it"
        return f"{path}: empty; {'it needs ' + ', '.join(needed) if needed else default}"
    if model in _FIRST_KEY and isinstance(value, str):
        return f"{path}={value!r}: write it as {{{_FIRST_KEY[model]}: {value}}}"
    keys = ", ".join(model.model_fields)
    switch = "; {} takes all defaults, null switches it off" if _is_optional(place) else ""
    return f"{path}={reprlib.repr(value)}: a section is needed here, with keys among {keys}{switch}"


def _is_optional(place: Location) -> bool:
    """Say whether a section may be null."""
    field = _model_at(place[:-1]).model_fields.get(str(place[-1]))
    return field is not None and type(None) in get_args(field.annotation)


def _way_out(place: Location) -> str:
    """Return the end of a message about an unknown key: where it belongs, or its nearest."""
    key = str(place[-1])
    homes = [home for home in _homes(Recipe, key) if home != ".".join(map(str, place))]
    if homes:
        return f"; {key!r} is written as {' or '.join(homes)}"
    return trl_hint(key) or nearest(key, _model_at(place[:-1]).model_fields)


def _homes(model: type[BaseModel], key: str) -> Iterator[str]:
    """Yield the dotted paths under a section that end in a key."""
    for name, field in model.model_fields.items():
        if name == key:
            yield name
        inner: Any = field.annotation
        closed = isinstance(inner, type) and not issubclass(inner, OpenSection)
        if closed and issubclass(inner, Section):
            yield from (f"{name}.{home}" for home in _homes(inner, key))


def _model_at(place: Location) -> type[BaseModel]:
    """Return the section that the schema has at a location, or the nearest one around it."""
    model: type[BaseModel] = Recipe
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            for inner in _within(model.model_fields[part].annotation):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    model = inner
    return model


def _within(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and, however deep, what it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from _within(inner)
