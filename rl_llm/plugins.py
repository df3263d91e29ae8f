"""From a reference in a recipe to an object: shipped files, a user's files, and installed entry
points.

A reference is `path/to/file.py:name`, or a bare name. A bare name is a shipped file `<name>.py`
that defines `<name>`, or an entry point of group `rl_llm.rewards` or `rl_llm.data`. References, not
loaded objects, cross process borders.
"""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pydantic

from rl_llm.config import NamedPart, describe_invalid, trl_hint
from rl_llm.errors import ConfigError, InputError, PluginError, nearest

Kind = Literal["rewards", "data"]

_PACKAGE = Path(__file__).resolve().parent
_KEPT: dict[Path, bytes] = {}
_OF_TRAINING = ("algorithm", "kl.controller")  # Where names of TRL's are likely.


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A loaded plugin: the reference that found it, the object, and its module (for `EXAMPLES` and
    the like)."""

    reference: str
    name: str
    target: Callable[..., Any]
    module: ModuleType
    origin: str


def shipped_folder(kind: Kind) -> Path:
    """Return the folder of shipped plugins: inside an installed wheel, else at the top of the
    checkout."""
    installed = _PACKAGE / "_shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def shipped_path(path: str | Path) -> Path:
    """Return `path` if it exists; else, for `data/...`, the shipped file of that name if there is
    one.

    So a recipe that says `data/models/NAME` works from any folder, also from an installed wheel.
    """
    given = Path(path).expanduser()
    if not given.exists() and not given.is_absolute() and given.parts[:1] == ("data",):
        shipped = shipped_folder("data").joinpath(*given.parts[1:])
        if shipped.exists():
            return shipped
    return given


def model_place(path: str) -> str | None:
    """Return a model's folder if it exists, else a name that the model hub may know; None for a
    path that looks local and is no folder."""
    local = shipped_path(path)
    if local.is_dir():
        return str(local)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or local.is_file()
    return None if looks_local or Path(path).parts[0] in {"data", "runs"} else path


def names(kind: Kind) -> dict[str, list[str]]:
    """Return every bare name of a kind with the sources that define it (more than one is
    ambiguous)."""
    found: dict[str, list[str]] = {}
    for file in sorted(shipped_folder(kind).glob("*.py")):
        if not file.stem.startswith("_"):
            found.setdefault(file.stem, []).append(str(file))
    for point in entry_points(group=f"rl_llm.{kind}"):
        found.setdefault(point.name, []).append(_describe(point))
    return found


def resolve(reference: str, *, kind: Kind) -> Plugin:
    """Load the object that a reference names.

    Raises `PluginError` when nothing, or more than one thing, answers to the name, and when loading
    fails.
    """
    if ":" in reference:
        file_name, _, name = reference.rpartition(":")
        return _from_file(reference, Path(file_name).expanduser(), name)
    if reference.endswith(".py"):
        raise PluginError(
            f"{reference!r} names a file; name what it defines too, as {reference}:"
            f"{Path(reference).stem}"
        )
    sources = names(kind).get(reference, [])
    if not sources:
        raise PluginError(
            f"there is no {kind} plugin {reference!r}{nearest(reference, names(kind))}; "
            f"name one of these, or point at a file as path/to/file.py:{reference}"
        )
    if len(sources) > 1:
        raise PluginError(
            f"two sources define the {kind} plugin {reference!r}: {' and '.join(sources)}; "
            f"uninstall or rename one, or point at a file as path/to/file.py:{reference}"
        )
    shipped = shipped_folder(kind) / f"{reference}.py"
    if shipped.is_file():
        return _from_file(reference, shipped, reference)
    (point,) = entry_points(group=f"rl_llm.{kind}", name=reference)
    try:
        target = point.load()
    except Exception as error:  # A plugin is somebody else's code: any failure becomes one message.
        raise PluginError(
            f"{reference!r}, {_describe(point)}, cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    module = sys.modules[target.__module__]
    return Plugin(
        reference=reference, name=reference, target=target, module=module, origin=_describe(point)
    )


def check_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    path: str,
    supplied: Iterable[str] = (),
    beside: Iterable[str] = (),
) -> dict[str, Any]:
    """Check a recipe's options against a callable's own keyword-only arguments; return them with
    defaults filled in.

    `supplied` names keyword arguments that the program passes itself and a recipe may not; `beside`
    names the keys that stand in the same section, which a misspelt one may have been meant for.
    `path` is where the options stand in the recipe, for the message. Raises `ConfigError`.
    """
    reserved = set(supplied)
    fields: dict[str, Any] = {}
    hints = _annotations(target, path=path)
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in reserved:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), pydantic.Field(default, alias=name))
    known = [*fields, *beside]
    if unknown := [name for name in options if name not in fields]:
        hints = {name: trl_hint(name) for name in unknown if path in _OF_TRAINING}
        lines = (
            f"{path}.{name}: unknown option{hints.get(name) or nearest(name, known)}"
            for name in unknown
        )
        raise ConfigError("\n  ".join(lines))
    model = pydantic.create_model(
        "Options",
        __config__=pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True),
        # An option may have a name that a model itself has, such as schema.
        **{f"option_{name}": field for name, field in fields.items()},
    )
    try:
        checked = model(**options)
    except pydantic.ValidationError as error:
        raise ConfigError(describe_invalid(error, path=path)) from None
    found = {name: getattr(checked, f"option_{name}") for name in fields}
    for name in options:
        if isinstance(found[name], float) and not math.isfinite(found[name]):
            raise ConfigError(f"{path}.{name}={found[name]}: must be a finite number")
    return found


def _annotations(target: Callable[..., Any], *, path: str) -> dict[str, Any]:
    """Return the annotations of a function, or of a class's `__init__`, as objects."""
    try:
        return typing.get_type_hints(
            target.__init__ if inspect.isclass(target) else target, include_extras=True
        )
    except NameError as error:
        raise PluginError(
            f"{path}: the annotations of {target!r} cannot be read ({error}); import at run time "
            "what they name, not under TYPE_CHECKING"
        ) from None


def build(
    target: Callable[..., Any], options: Mapping[str, Any], *, path: str, **supplied: Any
) -> Any:
    """Call `target` with a recipe's checked options and the arguments that the program supplies.

    An `InputError` or a `ValueError` of `target` gets the recipe path in front, and one that says
    only what is wrong with an option, that option's default behind. Raises `PluginError` where
    `target` cannot be called with those arguments alone.
    """
    checked = check_options(target, options, path=path, supplied=supplied)
    try:
        inspect.signature(target).bind(**checked, **supplied)
    except TypeError as error:
        raise PluginError(
            f"{path}: {_name_of(target)} cannot be built: {error}; it is given what stands behind "
            "a * among its arguments, which are its options in the recipe, and nothing else"
        ) from None
    try:
        return target(**checked, **supplied)
    except InputError as error:
        raise type(error)(f"{path}: {error}{_way_out(error, target)}") from error.__cause__
    except ValueError as error:
        raise ConfigError(f"{path}: {error}{_way_out(error, target)}") from None


def _way_out(error: ValueError, target: Callable[..., Any]) -> str:
    """Return the default of the option that a message opens with, as `rate=2.0: ...`, unless that
    says what to use."""
    name, equals, rest = str(error).partition("=")
    parameter = inspect.signature(target).parameters.get(name)
    is_told = not equals or " use " in rest or "such as" in rest
    if is_told or parameter is None or parameter.default in (inspect.Parameter.empty, None):
        return ""
    return f"; its default is {parameter.default!r}"


def build_named(
    part: NamedPart,
    table: Mapping[str, Callable[..., Any]],
    *,
    path: str,
    methods: Sequence[str] = (),
    attributes: Sequence[str] = (),
    offered: Mapping[str, Any] | None = None,
    **supplied: Any,
) -> Any:
    """Build `{name: X, ...}`: X stands in the table of built-in parts, or is `path/to/file.py:X`.

    `methods` names what a class of this kind must have, `attributes` what its object must. X is
    given everything that is `supplied`, and of what is `offered` the arguments that it names.
    Raises `PluginError` for a name that nothing answers to and for a class that lacks something,
    and `ConfigError` for wrong options.
    """
    target = _named(part, table, path=path)
    needed = [*attributes, *methods]
    _check_has(target, methods, needed=needed, where=f"{path}.name={part.name!r}")
    named = inspect.signature(target).parameters
    reserved = {*supplied, *(offered or {})}
    _check_switched(part, target, table, path=path, reserved=reserved)
    supplied |= {name: value for name, value in (offered or {}).items() if name in named}
    built = build(target, part.options, path=path, **supplied)
    _check_has(built, attributes, needed=needed, where=f"{path}.name={part.name!r}")
    return built


def _named(
    part: NamedPart, table: Mapping[str, Callable[..., Any]], *, path: str
) -> Callable[..., Any]:
    """Return what a part's name stands for: in the table, or in a file."""
    if part.name in table:
        return table[part.name]
    if ":" in part.name:
        file_name, _, name = part.name.rpartition(":")
        try:
            return _from_file(part.name, Path(file_name).expanduser(), name).target
        except PluginError as error:
            raise PluginError(f"{path}.name: {error}") from error
    if part.name.endswith(".py"):
        raise PluginError(
            f"{path}.name={part.name!r} names a file; name the class in it too, as "
            f"{part.name}:ClassName"
        )
    raise PluginError(
        f"{path}.name={part.name!r}: unknown name{nearest(part.name, table)}; name one of "
        "these, or point at one as path/to/file.py:Name"
    )


def _check_switched(
    part: NamedPart,
    target: Callable[..., Any],
    table: Mapping[str, Callable[..., Any]],
    *,
    path: str,
    reserved: Container[str],
) -> None:
    """Refuse, all at once, options that stand there for another part of the table, as when only the
    name was overridden."""
    known = [name for name in _keyword_only(target) if name not in reserved]
    unknown = [name for name in part.options if name not in known]
    owners = {
        name: [
            other for other in table if name not in reserved and name in _keyword_only(table[other])
        ]
        for name in unknown
    }
    if not unknown or not all(owners.values()):
        return
    found = ", ".join(f"{path}.{name}={part.options[name]!r}" for name in unknown)
    others = list(dict.fromkeys(other for names in owners.values() for other in names))
    raise ConfigError(
        f"{found}: unknown option{'s' if len(unknown) > 1 else ''} of {part.name!r}, known to "
        f"{', '.join(others)}; it has {', '.join(sorted(known)) or 'none'}; to switch to "
        f"{part.name!r}, set the section as a whole, as in '{path}={{name: {part.name}}}'"
    )


def _keyword_only(target: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]


def _check_has(thing: Any, names: Sequence[str], *, needed: Sequence[str], where: str) -> None:
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        rule = f"; it needs {', '.join(needed)}" if missing != needed else ""
        raise PluginError(f"{where} has no {', '.join(missing)}{rule}")


def _name_of(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", repr(target))


def _describe(point: EntryPoint) -> str:
    distribution = point.dist.name if point.dist else "an installed package"
    return f"{point.value} of {distribution}"


def _from_file(reference: str, file: Path, name: str) -> Plugin:
    module = load_module(file, reference=reference)
    target = getattr(module, name, None)
    if not callable(target):
        defined = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise PluginError(f"{file} defines no callable {name!r}{nearest(name, defined)}")
    return Plugin(reference=reference, name=name, target=target, module=module, origin=str(file))


def keep(file: Path, source: bytes) -> None:
    """From now on, load a file as it was, whatever has become of it: a process that begins in the
    middle of a run takes what the run began with."""
    _KEPT[file.resolve()] = source


def load_module(file: Path, *, reference: str = "") -> ModuleType:
    """Load a Python file by path under a private module name, once per process and version of the
    file."""
    kept = _KEPT.get(file.resolve())
    if kept is None and not file.is_file():
        raise PluginError(
            f"{reference or file}: there is no file {str(file)!r} (looked from {Path.cwd()})"
        )
    if file.suffix != ".py":
        raise PluginError(
            f"{reference or file}: {str(file)!r} is no Python file; point at one, as "
            "path/to/file.py:name"
        )
    source = file.read_bytes() if kept is None else kept
    tag = hashlib.sha256(str(file.resolve()).encode() + source).hexdigest()[:16]
    module_name = f"rl_llm_plugin_{file.stem}_{tag}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except Exception as error:  # A plugin is somebody else's code: any failure becomes one message.
        del sys.modules[module_name]
        raise PluginError(
            f"{file} cannot be loaded: {_line_in(file, error)}{type(error).__name__}: {error}"
        ) from error
    return module


def _line_in(file: Path, error: Exception) -> str:
    """Return at which line of a file it raised, for a message; a fault of syntax says it itself."""
    lines = [
        at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)
    ]
    return f"line {lines[-1]}: " if lines else ""
