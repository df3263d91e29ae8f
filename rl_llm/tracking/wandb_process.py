"""Weights & Biases as a run sees it: a process beside it, which is given rows and never waited for
before the end."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rl_llm.launchers import without_launcher
from rl_llm.tracking.numbers import numbers_of
from rl_llm.tracking.wandb_child import Kept

FINISHED_WITHIN_S: Final = 45.0
"""How long the end of a finished run waits: for a server that does not answer, then for the data.
One that was stopped, or failed, waits less."""
STOPPED_WITHIN_S: Final = 10.0

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rl_llm.tracking.wandb_child import main; main()"
)


class Wandb:
    """A run on Weights & Biases, a `Tracker`."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        project: str | None,
        entity: str | None,
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Go on with the run whose id lies in our run's `folder`, or begin one; `rows` are those
        that an earlier part of ours wrote, of which those are logged that it lacks."""
        self._messages: list[str] = []
        self._place = ""
        self._is_finishing = self._is_done = False
        self._frames: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        # In a session of its own: Ctrl-C is not for it, and it has no terminal to ask for a key.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=without_launcher(os.environ),
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        order = {"folder": str(folder), "name": name, "project": project, "entity": entity}
        self._frames.put({**order, "config": config, "pid": os.getpid()})
        self._reader = threading.Thread(target=self._read, name="wandb-read", daemon=True)
        self._reader.start()
        threading.Thread(target=self._feed, name="wandb-feed", daemon=True).start()
        for row in rows:
            self.write(row)

    @staticmethod
    def lacks(folder: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether there are rows of the run in a folder that were never logged."""
        try:
            return bool(rows) and Kept(folder).next_step <= rows[-1]["step"]
        except (OSError, ValueError, KeyError):
            return True  # The process says what is wrong with the file.

    def write(self, row: Mapping[str, Any]) -> None:
        """Have the row's numbers logged, if there is still a process to do it."""
        if self._reader.is_alive():
            self._frames.put({"numbers": numbers_of(row)})

    def take_messages(self) -> list[str]:
        """Return what the process said meanwhile."""
        number = len(self._messages)
        taken, self._messages[:number] = self._messages[:number], []
        return taken

    def finish(self, exit_code: int) -> None:
        """Have the run marked as finished, or with another exit code as failed; whatever comes of
        that, the process ends."""
        limit_s = STOPPED_WITHIN_S if exit_code else FINISHED_WITHIN_S
        self._is_finishing = True
        self._frames.put({"exit_code": exit_code})
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if not self._is_done and self._place:
            self._messages.append(
                f"wandb: not all was sent in time; send it with: wandb sync {self._place}"
            )
        elif not self._is_done:
            self._messages.append(
                "wandb: nothing was logged, for no server answered in time; the same command logs "
                "it later, and with WANDB_MODE=offline none is asked"
            )

    def _feed(self) -> None:
        """Hand on what waits, until the process takes no more."""
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                while not self._is_done:
                    pipe.write(json.dumps(self._frames.get()) + "\n")
                    pipe.flush()
        except OSError:
            return  # It has ended; `_read` says so.

    def _read(self) -> None:
        """Hear the process out, to its end."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                answer = json.loads(line)
                self._place = answer.get("place", self._place)
                self._is_done |= "done" in answer
                self._messages += [answer["say"]] if "say" in answer else []
        if not (self._is_done or self._is_finishing):
            code = self._process.wait()
            self._is_done = True
            self._messages.append(
                f"wandb: its process ended with code {code}; the run goes on without it"
            )
