"""One attempt to push, in a process that is ended when it takes too long or is no longer wanted."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Final

from rl_llm.hub.access import redact
from rl_llm.hub.job import Job, Outcome

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rl_llm.hub.child import main; main()"
)
_SETTINGS: Final = {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
_QUIET: Final = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_GRACE_S = 5.0


class Attempt:
    """One process that pushes; `stop` may be called from another thread."""

    def __init__(
        self, job: Job, *, limit_s: float | None, is_behind: bool, shows_progress: bool = False
    ) -> None:
        """Start it; it ends itself after `limit_s`. One that `is_behind` a run gives way to it."""
        self._limit_s = limit_s
        self._order = {"job": asdict(job), "limit_s": limit_s, "is_behind": is_behind}
        # In a session of its own: Ctrl-C is for whoever started it to understand.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shows_progress else subprocess.PIPE,
            env=os.environ | _SETTINGS | ({} if shows_progress else _QUIET),
            start_new_session=True,
            text=True,
        )

    def outcome(self) -> Outcome:
        """Wait for it to end, and return what came of it."""
        wait_s = None if self._limit_s is None else self._limit_s + _GRACE_S
        with self._process:
            try:
                printed, said = self._process.communicate(json.dumps(self._order), timeout=wait_s)
            except subprocess.TimeoutExpired:
                return Outcome(fault=self._too_long())
            finally:
                self.stop()
        try:
            return Outcome(**json.loads(printed))
        except (ValueError, TypeError):
            return Outcome(fault=self._died(said or ""))

    def stop(self) -> None:
        """End it at once, if it has not ended; what it has not committed leaves no trace."""
        if self._process.poll() is None:
            self._process.kill()

    def _died(self, said: str) -> str:
        code = self._process.returncode
        if code == -14 and self._limit_s is not None:
            return self._too_long()
        last = (said.strip().splitlines() or [""])[-1]
        return redact(f"the process that pushes ended with code {code}{last and f': {last}'}")

    def _too_long(self) -> str:
        limit_s = round(self._limit_s or 0.0, 1)
        return f"not done within {limit_s:g} s; hub.max_wait_s can give it more"
