"""`rl-llm rewards check`: what a reward does with its examples, and with odd completions."""

import argparse
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pydantic
import yaml

from rl_llm.config import RewardUse, describe_invalid
from rl_llm.errors import ConfigError
from rl_llm.plugins import Plugin, resolve
from rl_llm.scoring import Example, Failure, Outcome, read_examples, read_signature
from rl_llm.scoring.examples import place_of_examples
from rl_llm.scoring.trials import MAX_TIMEOUTS, Report, try_reward

_QUICK_S = 0.005
_MOST_NAMED = 3
_TOO_SLOW_INLINE_S = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm rewards check numeric_answer"
    parser.add_argument("ref", metavar="REF", help="a name, or path/to/file.py:name")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare what sets options of the reward."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="name=value",
        help="an option of the reward, or timeout_s or memory_gib",
    )


def run(args: argparse.Namespace) -> int:
    """Try the reward, print what was found, and return 1 where something is wrong."""
    plugin, use = named_reward(args)
    for example in read_examples(plugin) or [Example(expected=None)]:
        require_options(plugin, use, given=example.inputs, way_out=", or put it into the EXAMPLES")
    report = try_reward(plugin, use)
    faults = [*_faults(plugin, report), *_inline_faults(plugin, report)]
    slowest = report.slowest
    lines = [
        f"{plugin.name} of {plugin.origin}, called in a worker",
        f"examples: {_share(each.is_as_expected for each in report.examples)} as expected",
        f"odd completions: {_share(each.failure is None for each in report.odd)} scored",
        f"the same when asked again: {_share(each.is_pure for each in report.trials)}",
        f"time of a call: {_ms(report.median_s)} in the median, at most {_ms(slowest.seconds)} "
        f"({slowest.case.name})",
        *(f"fault: {fault}" for fault in faults),
        *([] if faults else _hints(plugin, report)),
    ]
    print("\n".join(map(_printable, lines)))
    return 1 if faults else 0


def named_reward(args: argparse.Namespace) -> tuple[Plugin, RewardUse]:
    """Return the reward that `args.ref` names, and how `args.overrides` has it used.

    Raises `PluginError` and `ConfigError` for what is not there.
    """
    settings: dict[str, Any] = {}
    for word in args.overrides:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} sets nothing; write name=value, as in timeout_s=2")
        settings[name] = value  # What is no YAML, as many a pattern, is text.
        with suppress(yaml.YAMLError):
            settings[name] = yaml.safe_load(value)
    plugin = resolve(args.ref, kind="rewards")
    try:
        return plugin, RewardUse(**{**settings, "use": args.ref})
    except pydantic.ValidationError as error:
        raise ConfigError(describe_invalid(error, path=args.ref)) from None


def require_options(
    plugin: Plugin, use: RewardUse, *, given: Collection[str] = (), way_out: str = ""
) -> None:
    """Raise `ConfigError` for options without a default that neither the command line nor what is
    `given` has."""
    needed = [name for name, p in read_signature(plugin).options.items() if p.default is p.empty]
    if missing := [name for name in needed if name not in {*use.options, *given}]:
        raise ConfigError(
            "\n  ".join(
                f"{plugin.name}.{name}: required, and missing; write {name}=... behind the other "
                f"arguments{way_out}"
                for name in missing
            )
        )


def _faults(plugin: Plugin, report: Report) -> Iterator[str]:
    if place_of_examples(plugin)[1] is None:
        whose = f" of {plugin.name!r}" if hasattr(plugin.module, "EXAMPLES") else ""
        yield (
            f"there are no EXAMPLES{whose}; write some beside the function, right ones and wrong "
            "ones"
        )
    failed: dict[str, list[str]] = {}
    for trial in report.trials:
        if trial.failure is not None:
            said = f"{trial.failure.kind}: {trial.failure.message}"
            failed.setdefault(said, []).append(trial.case.name)
    yield from (f"{_some(names)}: {said}" for said, names in failed.items())
    if report.num_untried:
        yield f"{report.num_untried} more were not tried, as {MAX_TIMEOUTS} took too long"
    for trial in report.trials:
        name, expected = trial.case.name, trial.case.expected
        if trial.failure is None and not trial.is_as_expected:
            yield f"{name} gives {_shown(trial.first)} where {expected!r} is expected"
        if trial.again is not None and not trial.is_pure:
            yield f"{name} gives {_shown(trial.first)}, and asked again {_shown(trial.again)}"


def _inline_faults(plugin: Plugin, report: Report) -> Iterator[str]:
    slowest = report.slowest
    if _says_inline(plugin) and slowest.seconds > _TOO_SLOW_INLINE_S:
        yield (
            f"its file says INLINE = True, and a call took {_ms(slowest.seconds)} "
            f"({slowest.case.name}); take that out, so that calls can be ended"
        )


def _hints(plugin: Plugin, report: Report) -> Iterator[str]:
    yield "no fault was found"
    if not _says_inline(plugin) and report.slowest.seconds < _QUICK_S:
        yield "it is quick: with INLINE = True in its file, calls need no worker"


def _says_inline(plugin: Plugin) -> bool:
    return bool(getattr(plugin.module, "INLINE", False))


def _share(marks: Iterable[bool]) -> str:
    found = list(marks)
    return f"{sum(found)} of {len(found)}"


def _printable(line: str) -> str:
    """Return a line with what a terminal would obey or cannot show written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _some(names: Sequence[str]) -> str:
    """Return the first of several names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(outcomes: Sequence[Outcome]) -> str:
    shown = [each.kind if isinstance(each, Failure) else repr(each) for each in outcomes]
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
