"""`rl-llm COMMAND ...`: one table of commands, one place for exit codes.

A command is a module `rl_llm.cli.<name>` with `NAME`, `HELP`, `configure(parser)` and `run(args) ->
int`. Only the module of the command that is typed gets imported, so `rl-llm --help` and `rl-llm
rewards list` start without torch.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rl_llm import __version__
from rl_llm.cli.failure import EXIT_PIPE_CLOSED, EXIT_TERMINATED, failure_of, stdout_is_closed, tell
from rl_llm.cli.runtime import (
    keep_freed_memory,
    let_idle_threads_sleep,
    print_all_that_fits,
)
from rl_llm.errors import RlLlmError, Stopped

COMMANDS = {
    "train": "train a model on a recipe",
    "validate": "check a recipe and everything it names before a run",
    "evaluate": "measure the pass rate of a run or a model on held-out problems",
    "compare": "compare two runs or evaluations on the same held-out problems",
    "runs": "list the runs in a folder",
    "report": "write the HTML report of a run",
    "push": "push the adapter of a run to a model hub",
    "rewards": "list the rewards, check one, or score completions with it",
    "data": "look at the problems of a prompt source",
    "schema": "print the schema of recipes, for editors or for reading",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 1 the run failed; 2 the input is wrong; 130 and 143 stopped by SIGINT and SIGTERM; 141
    whoever read the output stopped reading. Deliberate errors, and a file that this user may not
    open, become one message on stderr; any other exception is a defect and leaves with its
    traceback. Like every program on argparse, a wrong command line and `--help` leave through
    `SystemExit`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_unwinds():
            args = _parse(arguments)
            let_idle_threads_sleep()
            keep_freed_memory()
            print_all_that_fits()
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except (RlLlmError, KeyboardInterrupt) as error:
        return tell(failure_of(error))
    except PermissionError as error:
        if error.filename is None:
            raise
        return tell(failure_of(error))
    except BrokenPipeError:
        if not stdout_is_closed():
            raise
        return EXIT_PIPE_CLOSED
    except SystemExit as end:  # Of a rich console, which has met the broken pipe itself.
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_PIPE_CLOSED
        raise


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; overrides may also stand behind options, where argparse itself takes none."""
    parser = _parser(arguments)
    args, rest = parser.parse_known_args(arguments)
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:
        args.overrides = [*args.overrides, *late]
    return args


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the one command that is typed."""
    parser = argparse.ArgumentParser(
        prog="rl-llm",
        description="Reinforcement learning for language models, on checkable rewards.",
        epilog="example: rl-llm train recipes/quickstart.yaml",
    )
    parser.add_argument("--version", action="version", version=f"rl-llm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    typed = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == typed:
            module = importlib.import_module(f"rl_llm.cli.{name}")
            command.description = module.HELP
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Make SIGTERM raise `Stopped(143)`, so that `finally` blocks run; put things back after,
    unless it is to be heard no more."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, previous)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(EXIT_TERMINATED)
