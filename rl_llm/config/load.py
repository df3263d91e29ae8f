"""From a YAML file and `a.b=c` overrides to a frozen `Recipe`, and back."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import BaseModel

from rl_llm.config.schema import OpenSection, Recipe
from rl_llm.errors import ConfigError, nearest


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads `1e-3` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise ConfigError(f"{key!r} stands twice in the section at line {line}; keep one")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `a.b=c` overrides, and check all of it.

    Raises `ConfigError` with one line per fault: path, value, rule and a value that would work.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no recipe {str(file)!r} (looked in {Path.cwd()})")
    tree = _parse_yaml(file.read_text(encoding="utf-8"), where=str(file))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{file}: a recipe is a mapping of sections, this is {type(tree).__name__}"
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
        raise ConfigError(f"{where}: " + "\n  ".join(_describe_all(error))) from None


def dump_yaml(recipe: Recipe) -> str:
    """Return the recipe with every default written out; `load_recipe` reads it back to an equal
    recipe."""
    text: str = yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)
    return text


def describe_invalid(error: pydantic.ValidationError, *, path: str) -> str:
    """Return one line per invalid option of a part that stands at `path` in the recipe."""
    return "\n  ".join(_describe_all(error, prefix=[path]))


def _parse_yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML{line}: {problem}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in the tree; a part that is a number indexes a list."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            f"override {override!r}: write it as section.key=value, as in run.steps=10"
        )
    value = _parse_yaml(text, where=f"override {override!r}")
    node: Any = tree
    *parents, last = dotted.split(".")
    for part in parents:
        if isinstance(node, dict):
            if not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
        else:
            node = node[_list_index(node, part, override)]
    if isinstance(node, dict):
        node[last] = value
    elif isinstance(node, list):
        node[_list_index(node, last, override)] = value
    else:
        raise ConfigError(
            f"override {override!r}: {'.'.join(parents)} holds {node!r}, not a section"
        )


def _list_index(node: Any, part: str, override: str) -> int:
    if not isinstance(node, list):
        raise ConfigError(f"override {override!r}: there is no section at {part!r}, but {node!r}")
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"override {override!r}: {part!r} indexes a list of {len(node)}; use 0 to {len(node) - 1}"
        )
    return int(part)


def _describe_all(error: pydantic.ValidationError, prefix: Sequence[str] = ()) -> Iterator[str]:
    for item in error.errors():
        path = ".".join([*prefix, *map(str, item["loc"])])
        if item["type"] == "missing":
            yield f"{path}: required, and missing"
        elif item["type"] == "extra_forbidden":
            section = _section_at(item["loc"][:-1])
            yield f"{path}: unknown key{nearest(str(item['loc'][-1]), section)}"
        elif path:
            message = item["msg"].removeprefix("Value error, ")
            yield f"{path}={item['input']!r}: {message[0].lower() + message[1:]}"
        else:
            yield item["msg"].removeprefix("Value error, ")


def _section_at(location: Sequence[int | str]) -> list[str]:
    """Return the keys that the schema knows for the section at a location."""
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
    return [] if issubclass(model, OpenSection) else list(model.model_fields)
