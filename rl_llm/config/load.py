"""From a YAML file and `a.b=c` overrides to a frozen `Recipe`, and back."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from rl_llm.config.describe import describe_invalid
from rl_llm.config.schema import Recipe
from rl_llm.errors import ConfigError

_FLOAT_TAG = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class RecipeLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads `1e-3` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises `ConfigError` for a key that stands twice."""
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise ConfigError(f"{key!r} stands twice in the section at line {line}; keep one")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `RecipeLoader` would read as numbers."""


for _yaml in (RecipeLoader, _Dumper):
    _yaml.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `a.b=c` overrides, and check all of it.

    Raises `ConfigError` with one line per fault: path, value, rule and a value that would work.
    """
    file = Path(path)
    tree = _parse_yaml(_read_text(file), where=str(file))
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds one {type(tree).__name__}"
        raise ConfigError(
            f"{file}: a recipe is a mapping of sections (run, model, ...); this {found}"
        )
    for override in overrides:
        _apply_override(tree, override)
    return parse_recipe(tree, where=str(file))


def parse_recipe(tree: Mapping[str, Any], *, where: str) -> Recipe:
    """Check a tree of plain values against the schema; `where` opens the message of a
    `ConfigError`."""
    try:
        return Recipe.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{where}: {describe_invalid(error)}") from None


def dump_yaml(recipe: Recipe) -> str:
    """Return the recipe with every default written out; `load_recipe` reads it back to an equal
    recipe."""
    return yaml.dump(recipe.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no recipe {str(file)!r} (looked in {Path.cwd()})") from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a folder; name a recipe in it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}: byte {error.object[error.start]:#04x} at line {line} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "; indent with spaces" if r"'\t'" in problem else ""
        raise ConfigError(f"{where}: not valid YAML{line}: {problem}{hint}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:  # A date that is none, such as 2024-02-30, unquoted.
        raise ConfigError(f"{where}: {error}; put quotes around it if it is text") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in the tree; a part that is a number indexes a list."""
    dotted, equals, text = override.partition("=")
    parts = dotted.split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"override {override!r}: write it as section.key=value, as in run.steps=10"
        )
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        key = _key_in(node, part, at=parts[:depth], override=override)
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[key]
    key = _key_in(node, parts[-1], at=parts[:-1], override=override)
    node[key] = _parse_yaml(text, where=f"override {override!r}")


def _key_in(node: Any, part: str, *, at: Sequence[str], override: str) -> str | int:
    """Return what `part` is called in the node at a dotted path: a key, or a list's index."""
    where = ".".join(at)
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise ConfigError(
            f"override {override!r}: {where} holds {node!r}, which has no {part!r}; "
            f"set {where} as a whole"
        )
    if not part.isdecimal() or int(part) >= len(node):
        choices = f"use 0 to {len(node) - 1}" if node else "it is empty"
        raise ConfigError(f"override {override!r}: {part!r} indexes {where}; {choices}")
    return int(part)
