"""What is said of an error, and the exit code that it becomes; on several processes, once."""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rl_llm.errors import InputError, RlLlmError

if TYPE_CHECKING:
    from rl_llm.policy import End, Ranks

EXIT_RUN_FAILED = 1
EXIT_INPUT_WRONG = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE_CLOSED = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM

_OTHERS_FIRST_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A text for people, empty where nothing is to be said, and an exit code."""

    text: str
    code: int


def failure_of(error: BaseException) -> Failure:
    """Return what to say of an error: its message where it is deliberate, else its traceback."""
    match error:
        case RlLlmError():
            code = EXIT_INPUT_WRONG if isinstance(error, InputError) else EXIT_RUN_FAILED
            return Failure(text=f"error: {error}", code=code)
        case KeyboardInterrupt():
            return Failure(text="interrupted", code=EXIT_INTERRUPTED)
        case BrokenPipeError() if stdout_is_closed():
            return Failure(text="", code=EXIT_PIPE_CLOSED)
        case SystemExit():
            return _left(error)
    return Failure(text="".join(traceback.format_exception(error)).rstrip(), code=EXIT_RUN_FAILED)


def tell(failure: Failure) -> int:
    """Say it on stderr, and return the exit code.

    Processes that a launcher started, and that have not found each other yet, fail alike: the
    others of a machine leave the first word to the first, which ends them.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_OTHERS_FIRST_S)
    print(failure.text, file=sys.stderr)
    return failure.code


class EndingTogether:
    """While open, an error in one of several processes ends all of them, and is said once.

    The error leaves as `SystemExit`, with the same code in every process. A process alone is left
    as it is.
    """

    def __init__(self, ranks: "Ranks", *, last_words: Callable[[], str]) -> None:
        """`last_words` are said behind a process that is gone without a word of its own."""
        self._ranks = ranks
        self._last_words = last_words

    def __enter__(self) -> None:
        """Watch the other processes; every process comes here."""
        self._ranks.watch(self._say)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the other processes if this one fails."""
        if error is None or self._ranks.num_ranks == 1:
            return
        failure = failure_of(error)
        tag = f"rank {self._ranks.rank}: "
        text = "".join(tag + line for line in failure.text.splitlines(keepends=True))
        raise SystemExit(self._ranks.end_all(text, failure.code)) from None

    def _say(self, end: "End") -> None:
        print(end.text, file=sys.stderr, flush=True)
        if end.is_death:
            print(self._last_words(), file=sys.stderr, flush=True)


def _left(error: SystemExit) -> Failure:
    """Return what to say of a process that called `sys.exit`; a signal that it obeys is known."""
    if error.code == EXIT_TERMINATED:
        return Failure(text="", code=EXIT_TERMINATED)
    code = error.code if isinstance(error.code, int) else EXIT_RUN_FAILED
    return Failure(
        text=f"error: left by sys.exit({error.code!r})\n"
        + "".join(traceback.format_exception(error)),
        code=code or EXIT_RUN_FAILED,
    )


def stdout_is_closed() -> bool:
    """Return whether stdout is the pipe that broke; if so, nothing more is written to it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = any(events & select.POLLERR for _, events in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
