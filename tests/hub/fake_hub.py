"""A small model hub with real sockets: repositories, branches, large files, commits, downloads.

It keeps `files[repo][branch]` as bytes by path, and `commits[repo][branch]` as lists of messages.
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "QrStUvWxYz0123456789AbCdEfGhIjKlMn"
BASE = "0" * 39
LARGE = (".safetensors", ".bin")


class FakeHub:
    """Starts at once. `script` may be set to a function of (method, path, number of such calls): it
    returns None to go on as usual, `(status, headers, JSON)` to answer, "cut" to close the
    connection in the middle of what is sent, or "hang" to never answer."""

    def __init__(self, *, user="me", may_write=("me",)):
        self.user, self.may_write = user, may_write
        self.files, self.commits, self.private = {}, {}, {}
        self.blobs, self.asked = {}, []
        self.script = lambda method, path, count: None
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def environment(self):
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}

    def close(self):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def make(self, repo, *, private=True, files=()):
        self.private[repo] = private
        first = {".gitattributes": b"*.safetensors filter=lfs"}
        self.files[repo] = {"main": {**first, **dict(files)}, BASE + "1": first}
        self.commits[repo] = {"main": ["initial commit"]}

    def paths(self, method):
        return [path for asked, path, _ in self.asked if asked == method]

    def times(self, method, part):
        return [at for asked, path, at in self.asked if asked == method and part in path]

    # What follows answers requests: each returns (status, headers, body).

    def create(self, asked):
        owner = asked.get("organization") or self.user
        repo = f"{owner}/{asked['name']}"
        if owner not in self.may_write:
            return refuse(403, f"You don't have the rights to create a model under {owner}")
        body = {"url": f"{self.url}/{repo}"}
        if repo in self.files:
            return 409, {}, {**body, "error": "You already created this model repo"}
        self.make(repo, private=asked.get("visibility") == "private" or asked.get("private", False))
        return 200, {}, body

    def validate_yaml(self, asked):
        found = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        data = yaml.safe_load(found[1]) if found else None
        errors = [] if isinstance(data, dict) else [{"message": "no metadata"}]
        base = (data or {}).get("base_model", "a/b")
        if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", base):
            errors.append({"message": f'"base_model" with value "{base}" is not valid'})
        return 400 if errors else 200, {}, {"errors": errors, "warnings": []}

    def info(self, repo, revision):
        if revision not in self.files[repo]:
            return refuse(404, "Invalid rev id", code="RevisionNotFound")
        names = sorted(self.files[repo][revision])
        return (
            200,
            {},
            {
                "id": repo,
                "sha": BASE + "2",
                "private": self.private[repo],
                "siblings": [{"rfilename": name} for name in names],
                "tags": [],
                "downloads": 0,
                "likes": 0,
            },
        )

    def list_commits(self, repo):
        ids = [BASE + "2"] * (len(self.commits[repo]["main"]) - 1) + [BASE + "1"]
        commit = {"title": "", "message": "", "authors": [], "date": "2030-01-01T00:00:00.000Z"}
        return 200, {}, [{**commit, "id": each} for each in ids]

    def branch(self, repo, name, asked):
        if name in self.files[repo]:
            return refuse(409, "Reference already exists")
        self.files[repo][name] = dict(self.files[repo][asked.get("startingPoint", "main")])
        self.commits[repo][name] = ["initial commit"]
        return 200, {}, {}

    def preupload(self, asked):
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        return 200, {}, {"files": modes}

    def batch(self, asked):
        objects = [
            {
                **each,
                "actions": {
                    "upload": {"href": f"{self.url}/lfs/{each['oid']}"},
                    "verify": {"href": f"{self.url}/verify"},
                },
            }
            for each in asked["objects"]
        ]
        return 200, {}, {"transfer": "basic", "objects": objects}

    def put(self, oid, data):
        if hashlib.sha256(data).hexdigest() != oid:
            return refuse(400, "the checksum is another one")
        self.blobs[oid] = data
        return 200, {}, {}

    def commit(self, repo, branch, body):
        if branch not in self.files[repo]:
            return refuse(404, "Invalid rev id", code="RevisionNotFound")
        new = {}
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            else:
                new[value["path"]] = self.blobs[value["oid"]]
        self.files[repo][branch] = {**self.files[repo][branch], **new}
        self.commits[repo][branch].append(message)
        return 200, {}, {"commitUrl": f"{self.url}/{repo}/commit/x", "commitOid": BASE + "2"}

    def resolve(self, repo, revision, path):
        branches = self.files[repo]
        revision = "main" if revision == BASE + "2" and revision not in branches else revision
        data = branches.get(revision, {}).get(path)
        if data is None:
            return refuse(404, "Entry not found", code="EntryNotFound")
        etag = hashlib.sha1(data).hexdigest()
        commit = hashlib.sha1(revision.encode()).hexdigest()
        branches[commit] = branches[revision]
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, data

    def answer(self, method, path, body):
        """Find what is asked for; `body` is bytes."""
        asked = json_of(body) if "/commit/" not in path else {}
        fixed = {
            "/api/repos/create": self.create,
            "/api/validate-yaml": self.validate_yaml,
            "/verify": lambda _: (200, {}, {}),
        }
        if path in fixed:
            return fixed[path](asked)
        if found := re.fullmatch(r"/lfs/(\w+)", path):
            return self.put(found[1], body)
        if found := re.fullmatch(r"/(.+?)\.git/info/lfs/objects/batch", path):
            return self.batch(asked)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._of(found[1], lambda repo: self.resolve(repo, found[2], found[3]))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/?(.*))?", path):
            return self._of(found[1], lambda repo: self._model(repo, found[2], found[3], body))
        return refuse(404, f"{method} {path} is unknown here")

    def _of(self, repo, go_on):
        known = repo in self.files
        return go_on(repo) if known else refuse(404, "Repository not found", code="RepoNotFound")

    def _model(self, repo, what, rest, body):
        match what:
            case None | "revision":
                return self.info(repo, rest or "main")
            case "commits":
                return self.list_commits(repo)
            case "branch":
                return self.branch(repo, rest, json.loads(body))
            case "preupload":
                return self.preupload(json.loads(body))
            case "commit":
                return self.commit(repo, rest, body)
        return refuse(404, f"{what} is unknown here")


def json_of(body):
    """Return the object that a body holds, empty for one that holds something else, as weights."""
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def refuse(status, words, code=None):
    headers = {"X-Error-Message": words} | ({"X-Error-Code": code} if code else {})
    return status, headers, {"error": words}


def _handler(hub):
    return type("Handler", (_Handler,), {"hub": hub, "lock": threading.Lock()})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        """Keep quiet."""

    def _do(self):
        path = unquote(urlsplit(self.path).path)
        with self.lock:
            self.hub.asked.append((self.command, path, time.monotonic()))
            count = sum(asked[:2] == (self.command, path) for asked in self.hub.asked)
            told = self.hub.script(self.command, path, count)
        if told == "hang":
            self.hub.released.wait(60)
        if told in ("cut", "hang"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return
        body = self._read()
        is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if told is None and self.command != "PUT" and not is_known:
            told = refuse(401, "Invalid credentials in Authorization header")
        with self.lock:
            self._send(*(told or self.hub.answer(self.command, path, body)))

    def _read(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status, headers, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _do
