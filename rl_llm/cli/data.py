"""`rl-llm data`: what the prompt sources of a recipe hold, and what is known of their problems."""

import argparse
import importlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl_llm.config import load_recipe
from rl_llm.problems import Pool, check_disjoint, load_pool, summary_lines
from rl_llm.records import Level, Problem, Prompt

NAME = "data"
HELP = "look at the problems of a recipe"


LATE = {
    "measure": "measure the pass rate of a recipe's model on each of its problems",
    "beliefs": "write what a run believes of its problems' pass rates, by content key",
    "explain": "tell the history of one problem of a run, and why it was or was not drawn",
}


class LateParser(argparse.ArgumentParser):
    """The parser of a subcommand; those of `LATE` import their module, and torch with it, once
    they are typed."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Ask the module for its arguments, then parse."""
        name = self.prog.split()[-1]
        if name in LATE:
            module = importlib.import_module(f"rl_llm.cli.{name}")
            self.description = LATE[name]
            module.configure(self)
            self.set_defaults(run_action=module.run)
        return super().parse_known_args(args, namespace)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `rl-llm data`."""
    parser.epilog = "example: rl-llm data preview recipes/quickstart.yaml --num 5"
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="COMMAND", parser_class=LateParser
    )
    preview = actions.add_parser("preview", help="count and show what a recipe trains and tests on")
    preview.epilog = "example: rl-llm data preview recipes/quickstart.yaml --num 5"
    preview.set_defaults(run_action=run_preview)
    preview.add_argument("recipe", metavar="RECIPE")
    preview.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="set one value of the recipe"
    )
    preview.add_argument("--num", type=_count, default=3, help="problems to show of each pool")
    for name, summary in LATE.items():
        actions.add_parser(name, help=summary)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = args.run_action(args)
    return code


def run_preview(args: argparse.Namespace) -> int:
    """Count and show the problems of both pools.

    A problem in both pools is an error, as it is in a run. Prompts over the length limit are not
    looked for: that takes the model's tokenizer.
    """
    recipe = load_recipe(args.recipe, args.overrides)
    pools = [load_pool(recipe.data.train, where="data.train")]
    if recipe.data.eval:
        pools.append(load_pool(recipe.data.eval, where="data.eval"))
        check_disjoint(*pools)
    console = Console()
    for pool in pools:
        if console.is_terminal:
            _print_tables(console, pool, args.num)
        else:
            print("\n".join([*summary_lines(pool), *_sample_lines(pool, args.num), ""]))
    return 0


def spread(pool: Pool, num: int) -> list[Problem]:
    """Return `num` problems, the same each time: one of each source in turn, and of a source one of
    each level in turn."""
    by_source: dict[str, dict[Level, list[Problem]]] = {}
    for source, level in pool.counts:
        by_source.setdefault(source, {})[level] = []
    for problem in pool.problems:
        by_source[problem.source][problem.level].append(problem)
    return _in_turn([_in_turn(list(levels.values())) for levels in by_source.values()])[:num]


def prompt_text(prompt: Prompt) -> str:
    """Return a prompt as one text; each turn of a chat begins with its role in brackets."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"[{turn['role']}] {turn['content']}" for turn in prompt)


def _in_turn(queues: Sequence[Sequence[Problem]]) -> list[Problem]:
    """Return the first of every queue, then the second of every queue, and so on."""
    return [problem for rank in zip_longest(*queues) for problem in rank if problem is not None]


def _sample_lines(pool: Pool, num: int) -> list[str]:
    lines = []
    for problem in spread(pool, num):
        lines += ["", f"{problem.source} level {problem.level} key {problem.key}"]
        lines += [f"  prompt: {_indented(prompt_text(problem.prompt))}"]
        lines += [f"  answer: {_indented(problem.answer)}"]
    return lines


def _indented(text: str) -> str:
    return text.replace("\n", "\n          ")


def _print_tables(console: Console, pool: Pool, num: int) -> None:
    title, *_ = summary_lines(pool)
    counts = [(source, str(level), str(n)) for (source, level), n in pool.counts.items()]
    samples = [
        (str(problem.level), prompt_text(problem.prompt), problem.answer, problem.key)
        for problem in spread(pool, num)
    ]
    console.print(escape(title), highlight=False)
    console.print(_table(("source", "level", "problems"), counts))
    if samples:
        console.print(_table(("level", "prompt", "answer", "key"), samples))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(show_lines=len(headings) > 3)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; use 0 or more")
    return number
