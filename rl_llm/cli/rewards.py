"""`rl-llm rewards`: what there is to score completions with, and whether it can be relied on."""

import argparse
import inspect
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl_llm.cli import reward_check, reward_score
from rl_llm.cli.tables import plain_lines
from rl_llm.errors import PluginError
from rl_llm.plugins import Plugin, names, resolve, shipped_folder
from rl_llm.scoring import read_signature

NAME = "rewards"
HELP = "list the rewards that a recipe can use; check one, or score completions with it"

_HEADINGS = ("name", "what it gives", "inputs", "options", "origin")


@dataclass(frozen=True)
class _Row:
    """One line of the list, in the order of the headings."""

    name: str
    summary: str
    inputs: str
    options: str
    origin: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `rl-llm rewards`."""
    parser.epilog = "example: rl-llm rewards list"
    actions = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    listed = actions.add_parser("list", help="every reward by name, with its inputs and options")
    listed.epilog = "example: rl-llm rewards list"
    listed.set_defaults(run_action=_list)
    checked = actions.add_parser(
        "check", help="try a reward on its EXAMPLES and on odd completions, as a run would call it"
    )
    reward_check.configure(checked)
    checked.set_defaults(run_action=reward_check.run)
    scored = actions.add_parser("score", help="score the completions of a file with a reward")
    reward_score.configure(scored)
    scored.set_defaults(run_action=reward_score.run)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = args.run_action(args)
    return code


def _list(_args: argparse.Namespace) -> int:
    rows = [_describe(name) for name in sorted(names("rewards"))]
    console = Console()
    if console.is_terminal:
        console.print(_table(rows))
    else:
        print("\n".join(plain_lines([_HEADINGS, *map(astuple, rows)])))
    return 0


def _describe(name: str) -> _Row:
    """Return the line of a reward; one that cannot be loaded is listed with the reason."""
    try:
        plugin = resolve(name, kind="rewards")
        signature = read_signature(plugin)
    except PluginError as error:
        return _Row(name, f"cannot be loaded: {error}", "", "", ", ".join(names("rewards")[name]))
    inputs = [*signature.inputs, *(["**columns"] if signature.style == "trl" else [])]
    return _Row(
        name,
        _summary(plugin),
        ", ".join(inputs),
        ", ".join(map(_option, signature.options.values())),
        _origin(plugin),
    )


def _summary(plugin: Plugin) -> str:
    text = inspect.getdoc(plugin.target) or plugin.module.__doc__ or ""
    return text.strip().partition("\n")[0]


def _option(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return f"{parameter.name} (required)"
    return f"{parameter.name}={parameter.default!r}"


def _origin(plugin: Plugin) -> str:
    shipped = plugin.origin.startswith(str(shipped_folder("rewards")))
    return "shipped" if shipped else f"entry point {plugin.origin}"


def _table(rows: Iterable[_Row]) -> Table:
    table = Table(*_HEADINGS)
    for row in rows:
        table.add_row(*map(escape, astuple(row)))
    return table
