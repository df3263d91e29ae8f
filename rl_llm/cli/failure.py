"""What is said of an error, and the exit code that it becomes; on several processes, once."""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rl_llm.errors import InputError, RlLlmError, RunError

if TYPE_CHECKING:
    from rl_llm.policy import End, Ranks

EXIT_RUN_FAILED = 1
EXIT_INPUT_WRONG = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE_CLOSED = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM

_OTHERS_FIRST_S = 5.0
_TIMED_OUT = "Timed out waiting"  # What gloo says.


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A text for people, empty where nothing is to be said, and an exit code."""

    text: str
    code: int


def failure_of(error: BaseException) -> Failure:
    """Return what to say of an error: its message where it is deliberate, or a file is forbidden to
    this user, else its traceback."""
    match error:
        case RlLlmError():
            code = EXIT_INPUT_WRONG if isinstance(error, InputError) else EXIT_RUN_FAILED
            return Failure(text=f"error: {error}", code=code)
        case PermissionError() if error.filename is not None:
            text = f"error: {error.filename}: {error.strerror}; make it accessible, or name another"
            return Failure(text=text, code=EXIT_INPUT_WRONG)
        case KeyboardInterrupt():
            return Failure(text="interrupted", code=EXIT_INTERRUPTED)
        case BrokenPipeError() if stdout_is_closed():
            return Failure(text="", code=EXIT_PIPE_CLOSED)
        case SystemExit():
            return _left(error)
    return Failure(text=_trace(error), code=EXIT_RUN_FAILED)


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
        """`last_words` are said behind a process that is gone, or hangs, without a word of its
        own."""
        self._ranks = ranks
        self._last_words = last_words

    def __enter__(self) -> None:
        """Watch the other processes; every process comes here."""
        self._ranks.watch(self._say, self._end_of)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the other processes if this one fails."""
        if error is None or self._ranks.num_ranks == 1:
            return
        # What a launcher sends as others leave, and what breaks from here on, is an echo of it.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        cause = self._ranks.end_all(error)
        if cause.rank == self._ranks.rank:
            _leave_word()
        sys.unraisablehook = lambda _: None
        raise SystemExit(cause.code) from None

    def _end_of(self, error: BaseException) -> "End":
        from rl_llm.policy import End

        is_late = isinstance(error, RuntimeError) and _TIMED_OUT in str(error)
        failure = failure_of(self._late() if is_late else error)
        tag = f"rank {self._ranks.rank}: "
        text = "".join(tag + line for line in failure.text.splitlines(keepends=True))
        return End(rank=self._ranks.rank, text=text, code=failure.code, is_late=is_late)

    def _late(self) -> RunError:
        return RunError(
            f"another process did not come within run.timeout_s={self._ranks.timeout_s:g} seconds; "
            "if it was only slow, give it more time"
        )

    def _say(self, end: "End") -> None:
        words = [end.text]
        if end.is_death or end.is_late:
            with suppress(RlLlmError, OSError):  # The cause is said whatever the disk says.
                words.append(self._last_words())
        print("\n".join(words), file=sys.stderr, flush=True)


def _leave_word() -> None:
    """Have the summary of torch's launcher name this process, and point to what it said."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        word = {"message": "said above", "timestamp": int(time.time()) - 1}
        Path(file).write_text(json.dumps(word), encoding="utf-8")


def _left(error: SystemExit) -> Failure:
    """Return what to say of a process that called `sys.exit`; a signal that it obeys is known."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if error.code == 128 + number:
            return Failure(text=f"ended by {number.name}", code=128 + number)
    code = error.code if isinstance(error.code, int) else EXIT_RUN_FAILED
    return Failure(
        text=f"error: left by sys.exit({error.code!r})\n" + _trace(error),
        code=code or EXIT_RUN_FAILED,
    )


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def stdout_is_closed() -> bool:
    """Return whether stdout is the pipe that broke; if so, nothing more is written to it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = any(events & select.POLLERR for _, events in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
