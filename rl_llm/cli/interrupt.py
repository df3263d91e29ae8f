"""SIGINT and SIGTERM as a wish: the step is finished and a checkpoint written before the end."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While open, the first signal is noted; a second one acts as it would have without this."""

    def __init__(self) -> None:
        """Note nothing yet."""
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
        print(
            f"{signal.Signals(number).name}: finishing this step and writing a checkpoint; "
            "once more to stop at once",
            file=sys.stderr,
            flush=True,
        )
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
