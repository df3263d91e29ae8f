"""Runs of `rl-llm` that start in a moment: forks of a process that has imported everything.

Each is a process of its own, in a session of its own, with its own standard streams, and dies by
the signals it gets. When it is asked, a thread of it writes to a file where the main thread is. As
a program, this file is the process that forks, for each line of its input.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

MODULES = ["rl_llm.cli.session", "transformers.models.llama.modeling_llama", "tensorboard"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
END = "end\n"
STAGES = {  # A function that stands on the stack, and what it means; the first that is found.
    ("trainer/checkpoint.py", "save"): "checkpoint",
    ("trainer/evaluate.py", "__call__"): "evaluation",
    ("policy/engine.py", "update"): "update",
    ("trainer/generation.py", "harvest"): "generation",
    ("trainer/loop.py", "_run"): "between",
    ("cli/run_files.py", "write_results"): "results",
}


class WarmRuns:
    """Starts runs; closing it ends what is left of them."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running, self._num_started = set(), 0

    def start(self, *words, folder):
        """Start `rl-llm WORDS` in a folder, and return the run once it hears signals."""
        self._num_started += 1
        names = ("printed", "trace", "asked")
        out, trace, asked = (folder / f"{name}-{self._num_started}.txt" for name in names)
        out.touch()
        trace.touch()
        os.mkfifo(asked)
        order = {"folder": str(folder), "words": list(map(str, words)), "out": str(out)}
        pid = self._ask(**order, trace=str(trace), asked=str(asked))
        self._running.add(pid)
        run = WarmRun(self, pid, out, trace, asked)
        run.wait_until(lambda: catches(pid, signal.SIGTERM) or run.has_ended())
        return run

    def wait(self, pid):
        """Return the exit code of a run, less than 0 for the signal that killed it."""
        code = self._ask(wait=pid)
        self._running.discard(pid)
        return code

    def close(self):
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        self._server.communicate("", timeout=60)

    def _ask(self, **order):
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class WarmRun:
    """One process of `rl-llm`."""

    def __init__(self, runs, pid, out, trace, asked):
        self.pid = pid
        self._runs, self._out, self._trace, self._asked = runs, out, trace, asked

    @property
    def printed(self):
        """What it has said so far, on both streams."""
        return self._out.read_text(encoding="utf-8")

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self):
        return self._runs.wait(self.pid)

    def wait_until(self, is_so, *, timeout_s=120):
        """Look a thousand times a second; end with an error where the run has ended before."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            has_ended = self.has_ended()
            if has_ended or time.monotonic() > deadline:
                why = "ended" if has_ended else f"did not get there in {timeout_s} s"
                raise AssertionError(f"the run {why}:\n{self.printed}")
            time.sleep(0.001)

    def has_ended(self):
        state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return state.split()[0] in "ZX"

    def appends_to(self, file):
        """Whether the run has a file open to write behind its end."""
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):  # Closed meanwhile.
                if os.readlink(link) == str(file):
                    info = Path(f"/proc/{self.pid}/fdinfo/{link.name}").read_text(encoding="utf-8")
                    flags = next(each for each in info.splitlines() if each.startswith("flags"))
                    return bool(int(flags.split()[1], 8) & os.O_APPEND)
        return False

    def stage(self):
        """Return where the run is at this moment, a name of STAGES or "start"."""
        before = self._trace.stat().st_size
        asked = os.open(self._asked, os.O_RDWR)  # Also where nobody reads any more.
        os.write(asked, b"?")
        os.close(asked)
        self.wait_until(lambda: self._trace_from(before).endswith(END))
        stack = self._trace_from(before)
        for (file, function), stage in STAGES.items():
            calls = [line for line in stack.splitlines() if line.endswith(f" in {function}")]
            if any(f'{file}"' in line for line in calls):
                return stage
        return "start"

    def _trace_from(self, place):
        return self._trace.read_bytes()[place:].decode()


def catches(pid, number):
    """Whether a process has a handler of its own for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def serve():
    """Fork a run for each order, or wait for one; return the order in the run's process."""
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                return order
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    sys.exit()


def become_a_run(order):
    os.setsid()
    os.chdir(order["folder"])
    out = os.open(order["out"], os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(out, stream)
    asked = os.open(order["asked"], os.O_RDWR)
    trace = os.open(order["trace"], os.O_WRONLY | os.O_APPEND)
    threading.Thread(target=show_main_thread, args=(asked, trace), daemon=True).start()


def show_main_thread(asked, trace):
    """Write the stack of the main thread, the innermost call first, each time that it is asked."""
    while os.read(asked, 1):
        frame = sys._current_frames()[threading.main_thread().ident]
        calls = [each.f_code for each, _ in traceback.walk_stack(frame)]
        lines = [f'File "{each.co_filename}" in {each.co_name}\n' for each in calls]
        os.write(trace, ("".join(lines) + END).encode())


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    order = serve()
    become_a_run(order)
    from rl_llm.cli.main import main

    sys.exit(main(order["words"]))
