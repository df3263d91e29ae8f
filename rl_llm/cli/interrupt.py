"""SIGINT and SIGTERM in a run: what is begun is finished and kept where that is possible."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from rl_llm.errors import Stopped

_STDERR = 2
_LAUNCHED = "TORCHELASTIC_RUN_ID"
SAME_WITHIN_S = 2.0
"""A launcher hands on the signal that its processes have had already: so close together, two are
one."""


class Interrupt:
    """While open, a signal ends the run at once, with what is lost said, and exit code 128 + its
    number; behind `finish_first`, the first one is only noted.

    An end can get lost: what is raised in a finalizer is dropped, and C code may clear it or make
    another error of it. It is raised again at the next call of a method, at the latest on leaving.
    Of several processes on a machine, which all get the signal, the first one speaks.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self._received: int | None = None
        self._received_at_s = 0.0
        self._ended_by: int | None = None
        self._finishing: str | None = None
        self._at_once = "no step is done yet, so there is nothing to save"
        self._previous: dict[int, Any] = {}
        self._same_within_s = SAME_WITHIN_S if _LAUNCHED in os.environ else 0.0
        self._speaks = os.environ.get("LOCAL_RANK", "0") == "0"
        self._is_ending: Callable[[], bool] = lambda: False

    def __enter__(self) -> "Interrupt":
        """Take over both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give both signals back."""
        self._give_back()
        if not isinstance(error, SystemExit):
            self._end_if_that_was_lost()

    @property
    def received(self) -> int:
        """The number of the signal that was noted; 0 for none."""
        return self._received or 0

    def is_requested(self) -> bool:
        """Say whether a signal has come."""
        self._end_if_that_was_lost()
        return self._received is not None

    def finish_first(self, what: str, *, at_once: str) -> None:
        """From now on, finish `what` behind a first signal; say `at_once` of what a second one
        leaves."""
        self._end_if_that_was_lost()
        self._finishing, self._at_once = what, at_once

    def stop_at_once(self, at_once: str) -> None:
        """From now on, end at the first signal, and say `at_once` of what that leaves."""
        self._end_if_that_was_lost()
        self._finishing, self._at_once = None, at_once

    def ignore_more(self) -> None:
        """From now on, hear no signal: the process is about to leave with a code of its own, and a
        launcher signals those that leave a moment later."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)
        self._previous = {}

    def end_with_others(self, is_ending: Callable[[], bool]) -> None:
        """From now on, end at once and in silence where `is_ending` says that another process has
        ended: nothing can be finished then, and the cause is said elsewhere."""
        self._is_ending = is_ending

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._is_ending():
            self._end(number)
        name, now_s = signal.Signals(number).name, time.monotonic()
        if self._received is None and self._finishing is not None:
            self._received, self._received_at_s = number, now_s
            self._say(f"{name}: {self._finishing}; once more to stop at once")
        elif self._received is None or now_s - self._received_at_s > self._same_within_s:
            self._say(f"{name}: stopping at once; {self._at_once}")
            self._end(number)

    def _end(self, number: int) -> NoReturn:
        self._ended_by = number
        self._give_back()
        raise Stopped(128 + number)

    def _end_if_that_was_lost(self) -> None:
        if self._ended_by is not None:
            raise Stopped(128 + self._ended_by) from None

    def _say(self, message: str) -> None:
        """Write past Python's buffers: what the signal interrupted may be writing to them."""
        if self._speaks:
            with suppress(OSError):  # Nobody reads on: `tee` has heard the same signal.
                os.write(_STDERR, f"{message}\n".encode())

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # To be heard no more.
                signal.signal(number, handler)
        self._previous = {}
