"""SIGINT and SIGTERM as a wish: the step is finished and a checkpoint written before the end."""

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While open, the first signal is noted; a second one acts as it would have without this."""

    def __init__(
        self, *, is_ending: Callable[[], bool] = lambda: False, speaks: bool = True
    ) -> None:
        """Note nothing yet.

        Where `is_ending` says that no step can be finished, the first signal ends the process.
        Of several processes that get it, one `speaks`.
        """
        self._is_ending = is_ending
        self._speaks = speaks
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

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

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self._received or signal.SIGINT)

    def is_requested(self) -> bool:
        """Say whether a signal has come."""
        return self._received is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        self._give_back()
        if self._is_ending():
            raise SystemExit(self.exit_code)
        if self._speaks:
            print(
                f"{signal.Signals(number).name}: finishing this step and writing a checkpoint; "
                "once more to stop at once",
                file=sys.stderr,
                flush=True,
            )

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
