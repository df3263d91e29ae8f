"""From a YAML file and `a.b=c` overrides to a frozen `Recipe`, and back."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from rl_llm.config.base import NamedPart
from rl_llm.config.describe import LINE_BREAK, Fault, find_faults
from rl_llm.config.schema import Recipe
from rl_llm.errors import ConfigError

_FLOAT_TAG = "tag:yaml.org,2002:float"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_EXPONENT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


class RecipeLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads `1e-3` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises `ConfigError` for a key that stands twice."""
        keys = [
            "<<" if key.tag == _MERGE_TAG else self.construct_object(key) for key, _ in node.value
        ]
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
    tree = parse_yaml(_read_text(file), where=str(file))
    if not isinstance(tree, dict):
        found = "is empty" if tree is None else f"holds one {type(tree).__name__}"
        raise ConfigError(
            f"{file}: a recipe is a mapping of sections (run, model, ...); this {found}"
        )
    overridden = {
        override.partition("=")[0]: _apply_override(tree, override) for override in overrides
    }
    return parse_recipe(tree, where=str(file), overridden=overridden)


def parse_recipe(
    tree: Mapping[str, Any], *, where: str, overridden: Mapping[str, str] | None = None
) -> Recipe:
    """Check a tree of plain values against the schema; `where` opens the message of a
    `ConfigError`.

    `overridden` holds the paths that the command line has set in the tree, each with what it made
    there: itself, or the section that was not there before. A fault in what it made is put down to
    the command line, a contradiction that it has a part in to both.
    """
    try:
        return Recipe.model_validate(tree)
    except pydantic.ValidationError as error:
        faults = find_faults(error)
    lines, blamed = [], None
    for fault in faults:
        origin = _origin(fault, where, overridden or {})
        lines.append(fault.line if origin == blamed else f"{origin}: {fault.line}")
        blamed = origin
    raise ConfigError(LINE_BREAK.join(lines))


def _origin(fault: Fault, where: str, overridden: Mapping[str, str]) -> str:
    """Say where a fault comes from: from `where`, from the command line, or from both."""
    if any(f"{fault.path}.".startswith(f"{made}.") for made in overridden.values()):
        return "command line"
    head = fault.line.partition(":")[0]
    parts = [
        path
        for path in overridden
        if re.search(rf"(?<![\w.]){re.escape(path)}(?!\w)", fault.line)
        or path.startswith(f"{head}.")
    ]
    return f"{where} with {' and '.join(parts)} from the command line" if parts else where


def with_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a recipe that was written earlier, with the defaults of keys that
    it lacks; raises `ConfigError` where the schema refuses it."""
    return parse_recipe(tree, where="its recipe").model_dump()


def parse_yaml(text: str, *, where: str, way_out: str = "") -> Any:
    """Return what a text in YAML holds; raises a `ConfigError` that `where` opens."""
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "; indent with spaces" if r"'\t'" in problem else way_out
        raise ConfigError(f"{where}: not valid YAML{line}: {problem}{hint}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:  # A date that is none, such as 2024-02-30, unquoted.
        raise ConfigError(f"{where}: {error}; put quotes around it if it is text") from None
    except RecursionError:
        raise ConfigError(f"{where}: its sections lie too deep in each other to be read") from None


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


def _apply_override(tree: dict[str, Any], override: str) -> str:
    """Set one `a.b.c=value` in the tree; a part that is a number indexes a list.

    An option of a named part that the tree leaves at its default, or has by its name alone, leaves
    that name as it is.

    Returns the path of what is new: that of the value, or of the outermost section that was not
    there.
    """
    dotted, equals, text = override.partition("=")
    parts = dotted.split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"override {override!r}: write it as section.key=value, as in run.steps=10"
        )
    node: Any = tree
    new = parts
    for depth, part in enumerate(parts[:-1]):
        key = _key_in(node, part, at=parts[:depth], override=override)
        default = _default_part(parts[: depth + 1])
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {} if default is None else {"name": default.name}
            new = min(new, parts[: depth + 1], key=len)
        elif isinstance(node, dict) and isinstance(node[part], str) and default is not None:
            node[part] = {"name": node[part]}
        node = node[key]
    key = _key_in(node, parts[-1], at=parts[:-1], override=override)
    way_out = f"""; text with such characters goes in two kinds of quotes: '{dotted}="..."'"""
    if text.startswith(("{", "[")) and not text.startswith("{{"):  # Which opens a template.
        end = "}" if text.startswith("{") else "]"
        way_out = (
            "; if the shell has split it at a blank, put all of it between single quotes: "
            f"'{dotted}={text} ...{end}'"
        )
    node[key] = parse_yaml(text, where=f"override {override!r}", way_out=way_out)
    return ".".join(new)


def _default_part(path: Sequence[str]) -> NamedPart | None:
    """Return what a recipe has at a path where it says nothing, if that is one named part."""
    default: Any = None
    section: Any = Recipe
    for key in path:
        field = getattr(section, "model_fields", {}).get(key)
        if field is None:
            return None
        default = field.get_default(call_default_factory=True)
        section = type(default)
    return default if isinstance(default, NamedPart) else None


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
