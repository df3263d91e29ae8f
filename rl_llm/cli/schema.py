"""`rl-llm schema`: what a recipe may hold, for editors (JSON schema) or for readers (Markdown)."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rl_llm.config import Recipe
from rl_llm.errors import InputError

NAME = "schema"
HELP = "print the schema of recipes: JSON schema for editors, or a table for reading"

_BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.epilog = "example: rl-llm schema --out recipe-schema.json"
    parser.add_argument("--markdown", action="store_true", help="a table of all keys and defaults")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Write the schema; raises `InputError` when the file cannot be written."""
    text = recipe_table() if args.markdown else json.dumps(Recipe.model_json_schema(), indent=2)
    if args.out is None:
        print(text)
        return 0
    try:
        args.out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    return 0


def recipe_table() -> str:
    """Return a Markdown table of all keys: what each may hold, its default, and its meaning.

    `rewards[].use` is the key `use` of each item of the list `rewards`.
    """
    schema = Recipe.model_json_schema()
    header = "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    return "\n".join([header, *_rows(schema, schema["$defs"], path="")])


def _rows(section: dict[str, Any], definitions: dict[str, Any], *, path: str) -> Iterator[str]:
    """Yield the row of each key of a section, then those of the sections under it."""
    for key, field in section["properties"].items():
        reference = _reference(field)
        inner = _section(reference, definitions) if reference else None
        if inner is None or "description" in field:
            required = key in section.get("required", ())
            default = "required" if required else f"`{json.dumps(field['default'])}`"
            meaning = " ".join(field["description"].split())
            value = _value(field, definitions)
            yield f"| `{path}{key}` | {value} | {default} | {meaning} |"
        if inner is not None and inner["properties"].keys() != {"name"}:
            place = f"{path}{key}[]." if "items" in field else f"{path}{key}."
            yield from _rows(inner, definitions, path=place)


def _reference(field: dict[str, Any]) -> str | None:
    """Return what a field that is a section refers to, also one in a list and one that may be
    null."""
    inner = [*field.get("anyOf", []), *([field["items"]] if "items" in field else [])]
    return field.get("$ref") or next(filter(None, map(_reference, inner)), None)


def _section(reference: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the section that is referred to, also one that a name alone may stand for."""
    found: dict[str, Any] = definitions[reference.rpartition("/")[2]]
    return next((choice for choice in found.get("anyOf", ()) if "properties" in choice), found)


def _value(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return in words what a field of the JSON schema may hold."""
    if "anyOf" in field:
        return " or ".join(_value(choice, definitions) for choice in field["anyOf"])
    if "enum" in field:
        return " or ".join(f"`{choice}`" for choice in field["enum"])
    if "$ref" in field:
        named = "`X` or " if "anyOf" in definitions[field["$ref"].rpartition("/")[2]] else ""
        first = next(iter(_section(field["$ref"], definitions)["properties"]))
        return f"{named}`{{{first}: X, ...}}`"
    if field["type"] == "array":
        return f"list of {_value(field['items'], definitions)}"
    bounds = [rule.format(field[name]) for name, rule in _BOUNDS.items() if name in field]
    return " ".join([field["type"], ", ".join(bounds)]).strip()
