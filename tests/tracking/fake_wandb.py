"""As much of a Weights & Biases server as the library asks for when it logs a run, resumes it, or
syncs what was kept on the disk."""

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "0123456789" * 4


@dataclass
class Run:
    """What a server keeps of a run: its history by the number of the line."""

    project: str = ""
    entity: str | None = None
    display_name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history without what wandb adds to a row, in the order of its lines."""
        lines = [self.lines[number] for number in sorted(self.lines)]
        return [{k: v for k, v in line.items() if not k.startswith("_")} for line in lines]


class FakeWandb:
    """A server in a thread; `runs` by id."""

    def __init__(self, *, home: Path) -> None:
        self._home = home
        self.stops_behind_the_start = False
        self.runs: dict[str, Run] = {}
        fake = self

        class Handler(_Handler):
            server_side = fake

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What sends a process here, whatever login this machine has."""
        home = {"HOME": str(self._home), "WANDB_ERROR_REPORTING": "false"}
        return {**home, "WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a query."""
        if operation == "RunResumeStatus":
            run = self.runs.get(given["name"])
            return {"model": {"id": "1", "name": given["project"], "bucket": run and _bucket(run)}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], Run())
            run.project = given["project"] or run.project
            run.entity = given["entity"] or run.entity
            run.display_name = given["displayName"] or run.display_name
            run.config |= json.loads(given["config"] or "{}")
            return {"upsertBucket": {"bucket": _bucket(run, given["name"]), "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/upload"} for n in given["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Take rows, and how the run ended."""
        run = self.runs[name]
        history = sent.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for number, line in enumerate(history["content"], history["offset"]):
            run.lines[number] = json.loads(line)
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])


def _bucket(run: Run, name: str = "") -> dict[str, Any]:
    last = [json.dumps(run.lines[max(run.lines)])] if run.lines else []
    project = {"id": "1", "name": run.project, "entity": {"id": "1", "name": run.entity or "me"}}
    return {
        "id": "1",
        "name": name,
        "displayName": run.display_name,
        "project": project,
        "config": json.dumps(run.config),
        "historyLineCount": len(run.lines),
        "historyTail": json.dumps(last),
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "logLineCount": 0,
        "summaryMetrics": "{}",
        # Without this a run counts as one that has not begun.
        "wandbConfig": json.dumps({"t": run.config.get("_wandb", {})}),
    }


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that has hung up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_side: FakeWandb

    def do_POST(self) -> None:
        """Answer whatever is asked with JSON."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            found = self.server_side.graphql(asked["operationName"], asked["variables"])
            answer = {"data": found}
        elif self.server_side.stops_behind_the_start:
            self.send_error(503)
            return
        elif self.path.endswith("/file_stream"):
            self.server_side.stream(self.path.split("/")[-2], json.loads(body))
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
