"""JSON out of completions, and JSON Schemas that are known to be sound."""

import json
from collections.abc import Mapping
from typing import Any

from rl_llm.scoring.answers import between_tags, code_block


def meant_json(completion: str) -> str:
    """Return the part of a completion that is to be JSON: the last `<answer>...</answer>`, else all
    of it; and where that holds a ```json block, the last one."""
    tagged = between_tags(completion, "answer")
    place = completion if tagged is None else tagged
    block = code_block(place, "json")
    return place if block is None else block


def fits_schema(text: str, schema: Mapping[str, Any]) -> bool:
    """Return whether a text is JSON and valid under a schema that `sound_schema` has passed.

    `NaN` and `Infinity` are no JSON. Numbers of more than 4,300 digits, text that is nested deeper
    than Python can follow, and what arithmetic cannot take are not valid. `format` in a schema
    checks nothing.
    """
    validator = _validator(schema)
    try:
        return bool(validator.is_valid(json.loads(text, parse_constant=_refuse)))
    except (ValueError, ArithmeticError, RecursionError):
        return False


def sound_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a JSON Schema, of the draft that its `$schema` names, else of 2020-12.

    Raises `ValueError` for one that breaks the rules of its draft, or refers to what is not in it.
    """
    from jsonschema import SchemaError
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    validator = _validator(schema)
    try:
        validator.check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its top"
        raise ValueError(f"no valid JSON Schema: at {place}, {error.message}") from None
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    _check_references(root, REGISTRY.resolver_with_root(root))
    return schema


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for
    from jsonschema_specifications import REGISTRY

    known: Any = Draft202012Validator
    if "$schema" in schema:
        is_named = isinstance(schema["$schema"], str)
        known = validator_for(schema, default=None) if is_named else None
    if known is None:
        raise ValueError(
            f"$schema {schema['$schema']!r} is no draft that the library jsonschema knows; use "
            "https://json-schema.org/draft/2020-12/schema, or leave it out"
        )
    return known(schema, registry=REGISTRY)  # Nothing is fetched.


def _check_references(resource: Any, resolver: Any) -> None:
    """Raise `ValueError` for a reference that leads nowhere, however deep it stands."""
    from referencing.exceptions import NoSuchResource, Unresolvable

    contents = resource.contents if isinstance(resource.contents, Mapping) else {}
    for place in (contents[name] for name in ("$ref", "$dynamicRef") if name in contents):
        try:
            resolver.lookup(place)
        except (NoSuchResource, Unresolvable):
            raise ValueError(
                f"the JSON Schema refers to {place!r}, which is not in it, and nothing is fetched; "
                "put what it means under $defs, and write #/$defs/NAME"
            ) from None
    for inner in resource.subresources():
        _check_references(inner, resolver.in_subresource(inner))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
