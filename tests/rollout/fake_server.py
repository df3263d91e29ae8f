"""A small server with real sockets that speaks the endpoints of vLLM which the engine uses, and an
engine that waits for shorter times.

What it draws can be told by hand: completion i of a request has the token ids
`(seed + i) % 50 + 10` and 1, the stop id, with logprobs -0.5 and -0.25.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rl_llm.config.rollout import ServersSection
from rl_llm.records import Problem, Request, Sampling
from rl_llm.rollout.server_pool import Patience
from rl_llm.rollout.vllm_servers import ServersEngine, serve_command

COMMAND = serve_command("my/model", rank=12, max_model_len=64)
STOP_ID = 1


class FakeServer:
    """Starts at once, and again after `stop`, at the same address and without adapters.

    `script` may be set to a function of a completion's body: None lets the server answer as usual,
    a pair of status and JSON is its answer, "hang up" closes the connection, and "garbled" says of
    plain text that it is packed. `scripts` holds such functions for other paths.
    """

    def __init__(self, *, max_model_len=256, logprobs_mode="processed", key=None, max_rank=16):
        self.max_model_len = max_model_len
        self.logprobs_mode = logprobs_mode
        self.key = key
        self.max_rank = max_rank
        self.takes_adapters = True
        self.sees_folders = True
        self.script = None
        self.scripts = {}
        self.asked = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        self.adapters = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._http.daemon_threads = True
        self._port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def bodies(self, path="/v1/completions"):
        """Return what was asked at a path, the checks at the start left out."""
        return [body for asked, body in self.asked if asked == path and body.get("logprobs") != 5]

    def is_asked(self, completions):
        """Say whether so many completions were ever asked at the same time."""
        return self.most_at_once >= completions

    def answer(self, method, path, body, headers):
        with self._lock:
            self.asked.append((path, body))
        if self.key and path != "/health" and headers["Authorization"] != f"Bearer {self.key}":
            return 401, {"error": f"Unauthorized: {headers['Authorization']}"}
        known = {
            "/health": lambda: (200, {}),
            "/v1/models": self._models,
            "/v1/load_lora_adapter": lambda: self._load(body),
            "/v1/unload_lora_adapter": lambda: self._unload(body),
            "/v1/completions": lambda: self._complete(body),
        }
        if path not in known or ("lora" in path and not self.takes_adapters):
            return 404, {"detail": "Not Found"}
        scripted = self.scripts[path](body) if path in self.scripts else None
        return known[path]() if scripted is None else scripted

    def _models(self):
        base = {"id": "base", "root": "base", "max_model_len": self.max_model_len, "parent": None}
        return 200, {"data": [base, *({"id": name, "parent": "base"} for name in self.adapters)]}

    def _load(self, body):
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return error(400, f"The lora adapter '{name}' has already been loaded.")
        if not self.sees_folders or not (folder / "adapter_config.json").is_file():
            return error(404, f"Loading lora {name} failed: No adapter found for {folder}")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > self.max_rank:
            return error(500, f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        self.adapters[name] = folder
        return 200, {}

    def _unload(self, body):
        if self.adapters.pop(body["lora_name"], None) is None:
            return error(404, "cannot be found")
        return 200, {}

    def _complete(self, body):
        with self._lock:
            self._at_once += body["n"]
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if body["logprobs"] == 5:
                return 200, self._probe(body["temperature"])
            scripted = self.script(body) if self.script else None
            if scripted is not None:
                return scripted
            if body["model"] not in ("base", *self.adapters):
                return error(404, f"The model `{body['model']}` does not exist.")
            return 200, {"choices": [choice(body, i) for i in reversed(range(body["n"]))]}
        finally:
            with self._lock:
                self._at_once -= body["n"]

    def _probe(self, temperature):
        scale = temperature if self.logprobs_mode == "processed" else 1.0
        tops = {"token_id:3": -0.1 / scale, "token_id:4": -4.0 / scale}
        return {"choices": [{"logprobs": {"top_logprobs": [tops]}}]}


def choice(body, index):
    """Return completion `index` of a request."""
    return {
        "index": index,
        "finish_reason": "stop",
        "prompt_token_ids": body["prompt"],
        "token_ids": [(body["seed"] + index) % 50 + 10, STOP_ID],
        "logprobs": {"token_logprobs": [-0.5, -0.25]},
    }


def error(status, words):
    """Return an error as vLLM words it."""
    return status, {"error": {"message": words, "code": status}}


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer("GET", {})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer("POST", json.loads(body))

        def _answer(self, method, body):
            answer = fake.answer(method, self.path, body, self.headers)
            if answer == "hang up":
                return
            status, said = (200, "{}") if answer == "garbled" else answer
            text = (said if isinstance(said, str) else json.dumps(said)).encode()
            try:
                self.send_response(status)
                if answer == "garbled":
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                pass  # The client has given up.

        def log_message(self, *args):
            pass

    return Handler


def wait_until(holds, *, within_s=20.0):
    """Return once `holds()` is true."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.005)


class LetterEncoder:
    """A token for each character."""

    def encode(self, prompt):
        return tuple(map(ord, prompt))

    def decode(self, token_ids):
        return ["".join(map(chr, ids)) for ids in token_ids]


class QuickEngine(ServersEngine):
    """Waits as the real one does, only shorter."""

    patience = Patience(retries=2, backoff_s=0.02, health_every_s=0.05)


@pytest.fixture
def start_server():
    servers = []

    def start(**options):
        servers.append(FakeServer(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def connect(tmp_path):
    """A function that returns an engine for servers, given as such or by address."""
    engines = []

    def make(*servers, api_key=None, seed=0, **section):
        urls = [getattr(server, "url", server) for server in servers]
        section = {"max_wait_s": 20.0, "request_timeout_s": 20.0, **section}
        engine = QuickEngine(
            LetterEncoder(),
            section=ServersSection(urls=urls, **section),
            stop_ids=[STOP_ID],
            adapter_dir=tmp_path / "shared",
            api_key=api_key,
            max_model_len=64,
            seed=seed,
            command=COMMAND,
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def adapter_of(tmp_path):
    """A function that writes an adapter and returns its folder."""

    def write(name, *, rank=8):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "name": name}))
        return folder

    return write


def asks(*prompts, completions=4, temperature=1.0, max_new_tokens=8):
    """Return requests; number i has the stream key 100 i."""
    return [
        Request(
            problem=Problem(key=f"key-{prompt}", prompt=prompt, answer=""),
            num_completions=completions,
            sampling=Sampling(temperature=temperature, max_new_tokens=max_new_tokens),
            stream_key=100 * i,
        )
        for i, prompt in enumerate(prompts)
    ]


def prompts_of(groups):
    return sorted(group.problem.prompt for group in groups)
