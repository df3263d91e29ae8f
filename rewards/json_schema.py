"""JSON that is valid under a JSON Schema (https://json-schema.org).

It is looked for in the last `<answer>...</answer>`, else in the whole completion, and where there
is a block that opens with ```json, in the last of these alone. White space around it does not
count; other text does.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from rl_llm.scoring.json_check import fits_schema, meant_json, sound_schema

# Not INLINE: a `pattern` in a schema may go back and forth for ever.

_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

EXAMPLES = [
    ({"completion": text, "schema": _PERSON}, expected)
    for text, expected in (
        (' {"name": "Ann", "age": 7}\n', 1.0),
        ('Ann is 7.\n<answer>{"name": "Ann", "age": 7}</answer>', 1.0),
        ('So:\n```json\n{"name": "Ann", "age": 7}\n```\nDone.', 1.0),
        ('<answer>\n```json\n{"name": "Ann", "age": 7}\n```\n</answer>', 1.0),
        ('{"name": "Ann", "age": 7} as asked', 0.0),
        ('{"name": "Ann", "age": -1}', 0.0),
        ('{"name": "Ann"}', 0.0),
        ('{"name": "Ann", "age": 7, "size": 1}', 0.0),
        ('["Ann", 7]', 0.0),
        ("{'name': 'Ann', 'age': 7}", 0.0),
        ('{"name": "Ann", "age": NaN}', 0.0),
        ('```json\n{"name": "Ann", "age": 7}', 0.0),
        ("", 0.0),
    )
]


def json_schema(
    completion: str, *, schema: Annotated[Mapping[str, Any], AfterValidator(sound_schema)]
) -> float:
    """1.0 when the completion, its last ```json block or <answer>, is JSON as the schema asks."""
    return float(fits_schema(meant_json(completion), schema))
