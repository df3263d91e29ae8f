"""Real `vllm serve` processes on the shipped model, for tests."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from rl_llm.rollout.vllm_servers import serve_command

START_S = 600.0


class StockServer:
    """Starts at once and answers after `wait`; `start` after `kill` takes the same address."""

    def __init__(self, model, log, *, rank, max_model_len, api_key=None):
        self._command = serve_command(
            model, rank=rank, max_model_len=max_model_len, dtype="float32", on_gpu=False
        )
        self._log = log
        self._api_key = api_key
        self._port = free_port()
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self, *, logprobs_mode="processed_logprobs"):
        """Run the command that users are told to run, with a small cache on one core."""
        setting, program, *options = shlex.split(self._command)
        assert (program, options[-1]) == ("python", "processed_logprobs")
        options = [*options[:-1], logprobs_mode, "--host", "127.0.0.1"]
        options += ["--port", str(self._port), "--enforce-eager", "--max-num-seqs", "32"]
        environment = {
            **os.environ,
            **dict([setting.split("=", 1)]),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        if self._api_key:
            environment["VLLM_API_KEY"] = self._api_key
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self):
        """Return once the server is well."""
        end_s = time.monotonic() + START_S
        while not self.is_well():
            said = self._log.read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"the server ended:\n{said}"
            assert time.monotonic() < end_s, f"no server after {START_S:g} s:\n{said}"
            time.sleep(0.5)

    def is_well(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def count_in_log(self, words):
        return self._log.read_text(errors="replace").count(words)

    def kill(self):
        """End the server and its engine at once, as a failing machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def serving(model, folder, *, count=2, **options):
    """Until the end, so many servers that are well, whose logs lie in a folder."""
    servers = [StockServer(model, folder / f"server-{n}.log", **options) for n in range(count)]
    try:
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.kill()


def wait_until(holds, *, within_s=60.0):
    """Return once `holds()` is true."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
