"""What every tracker gets of a row, and what every tracker is."""

import math
from collections.abc import Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """A place where the numbers of rows go. Its methods neither raise what goes wrong there nor
    wait for it."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of one row at its `step`."""
        ...

    def take_messages(self) -> list[str]:
        """Return what is to be said by now: once, where the run is seen, or why it is not."""
        ...

    def finish(self, exit_code: int) -> None:
        """Say how the run ended, and let go, within a bounded time."""
        ...


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a row is a finite number, by its key; the `step` is one."""
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
