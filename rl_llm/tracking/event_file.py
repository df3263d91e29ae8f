"""TensorBoard: an event file in the run's folder.

Its records are written here and at once: the writer that torch and TensorBoard share does so in a
thread, which meets a full disk with a traceback of its own.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_llm.tracking.numbers import numbers_of


class TensorBoard:
    """Scalars for TensorBoard, a `Tracker`; the first error of the disk is its last."""

    def __init__(self, folder: Path, *, last_step: int) -> None:
        """Events after `last_step` of an earlier part of the run are hidden."""
        self._folder = folder
        self._records: Any = None
        self._messages: list[str] = []
        try:
            self._open(last_step)
        except OSError as error:
            self._give_up(error)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write every number of the row but its step."""
        numbers = numbers_of(row)
        values = [{"tag": k, "simple_value": v} for k, v in numbers.items() if k != "step"]
        if self._records is not None:
            try:
                self._add(step=row["step"], summary={"value": values})
            except OSError as error:
                self._give_up(error)

    def take_messages(self) -> list[str]:
        """Return why nothing is written any more, once."""
        messages, self._messages = self._messages, []
        return messages

    def finish(self, exit_code: int) -> None:
        """Close the event file, which has no place for an exit code."""
        if self._records is not None:
            self._records.close()

    def _open(self, last_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((self._folder / name).open("ab", buffering=0))
        self._add(file_version="brain.Event:2")
        self._add(step=last_step + 1, session_log={"status": SessionLog.START})

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _give_up(self, error: OSError) -> None:
        if self._records is not None:
            self._records.close()
        self._records = None
        self._messages.append(
            f"tensorboard: {self._folder} cannot be written: {error.strerror}; the run goes on "
            "without it, and metrics.jsonl has every number"
        )
