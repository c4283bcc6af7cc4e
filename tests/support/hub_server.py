"""A Hub for tests: an HTTP server on loopback that speaks the endpoints that push and load use.

Repositories live in memory: {repo_id: {branch: {path: bytes}}}; datasets: {repo_id: {path: bytes}}.
The real `huggingface_hub` client talks to it when HF_ENDPOINT names it (in a process of its own:
the client reads that at import).
"""

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

# By which the commands of this test process know the hub.
_AT = {"port": 0}
_HOME = tempfile.TemporaryDirectory(prefix="ctxext-hub-")
SHA = "a" * 40  # of every commit: nothing here depends on history


class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        repos, private: the repositories.
        datasets, sha: the datasets, and the commit that all of them are at.
        blobs: large files by sha256.
        requests: (method, path) of every request.
        fail_uploads_after: so many large uploads succeed, later ones answer 500 (None: all do).
        token: requests that write need it.
        fails_by: status and headers that every request gets, or "stalling": an answer that begins
            and does not go on; None = it works.
    """

    def __init__(self, token="hf_secrettokenoftests"):
        self.repos, self.private, self.blobs = {}, {}, {}
        self.datasets, self.sha = {}, SHA
        self.requests, self.uploads = [], 0
        self.fail_uploads_after = None
        self.fails_by = None
        self.token = token
        self.ended = threading.Event()
        self.url = ""


def json_paths(data):
    return json.loads(data).get("paths", []) if data.startswith(b"{") else []


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, status, body=b"", headers=None):
            if hub.fails_by == "stalling":
                self.send_response(200)
                self.send_header("Content-Length", "500")
                self.end_headers()
                self.wfile.write(b'{"sha":')
                hub.ended.wait(300)
                return
            if hub.fails_by is not None:
                status, headers = hub.fails_by
                body = b""
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
            self.send_response(status)
            for key, value in {"Content-Length": len(body), **(headers or {})}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def may_write(self):
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def do_POST(self):
            path, data = unquote(urlparse(self.path).path), self.body()
            hub.requests.append(("POST", path))
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if re.fullmatch(r"/api/datasets/(.+)/paths-info/(.+)", path):
                return self.dataset(path, parse_qs(data.decode()).get("paths", json_paths(data)))
            if not self.may_write():
                return self.answer(401, {"error": "Invalid credentials"})
            if path == "/api/repos/create":
                wanted = json.loads(data)
                repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                if repo in hub.repos:
                    return self.answer(409, {"error": "exists", "url": f"{hub.url}/{repo}"})
                hub.repos[repo] = {"main": {}}
                hub.private[repo] = wanted.get("private", wanted.get("visibility") == "private")
                return self.answer(200, {"url": f"{hub.url}/{repo}"})
            if found := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
                files = json.loads(data)["files"]
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for f in files
                ]
                return self.answer(200, {"files": modes})
            if re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
                objects = []
                for wanted in json.loads(data)["objects"]:
                    one = {"oid": wanted["oid"], "size": wanted["size"]}
                    if wanted["oid"] not in hub.blobs:
                        one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
                    objects.append(one)
                return self.answer(200, {"transfer": "basic", "objects": objects})
            if found := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
                branches = hub.repos[found[1]]
                if found[2] in branches:
                    return self.answer(409, {"error": "exists"})
                branches[found[2]] = dict(branches["main"])
                return self.answer(201, {})
            if found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
                return self.commit(found[1], found[2], data)
            return self.answer(404, {"error": path})

        def commit(self, repo, branch, data):
            if repo not in hub.repos:
                return self.answer(404, {"error": "no repository"})
            extra = {}
            if "create_pr=1" in (urlparse(self.path).query or ""):
                branch = "refs/pr/1"
                hub.repos[repo][branch] = dict(hub.repos[repo]["main"])
                extra = {"pullRequestUrl": f"{hub.url}/{repo}/discussions/1"}
            files = hub.repos[repo][branch]
            for line in map(json.loads, data.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            return self.answer(
                200, {"commitUrl": f"{hub.url}/{repo}/commit/{SHA}", "commitOid": SHA, **extra}
            )

        def dataset(self, path, asked=()):
            """What a client wants to know of a dataset, or a part of one of its files."""
            name = "/".join(path.removeprefix("/api").split("/")[2:4])
            files = hub.datasets.get(name)
            if files is None:
                return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
            listed = [
                {"type": "file", "path": p, "size": len(d), "oid": SHA} for p, d in files.items()
            ]
            rest = path.partition(name)[2]
            if rest.startswith("/tree/"):
                folder = "/".join(rest.split("/")[3:])
                folders = {
                    "/".join(p.split("/")[:n]) for p in files for n in range(1, p.count("/") + 1)
                }
                listed += [{"type": "directory", "path": p, "oid": SHA} for p in sorted(folders)]
                inside = [f for f in listed if f["path"].startswith(f"{folder}/" * bool(folder))]
                if "recursive=true" not in self.path.lower():
                    depth = folder.count("/") + bool(folder)
                    inside = [f for f in inside if f["path"].count("/") == depth]
                status = 200 if inside else 404
                return self.answer(status, inside, {"X-Error-Code": "EntryNotFound"})
            if rest.startswith("/paths-info/"):
                return self.answer(200, [f for f in listed if f["path"] in asked])
            if rest.startswith("/resolve/"):
                data = files.get("/".join(rest.split("/")[3:]))
                if data is None:
                    return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
                headers = {
                    "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "X-Repo-Commit": hub.sha,
                }
                part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
                if part is None:
                    return self.answer(200, data, headers)
                start, stop = int(part[1]), min(int(part[2] or len(data)) + 1, len(data))
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
                return self.answer(206, data[start:stop], headers)
            siblings = [{"rfilename": p} for p in files]
            about = {"id": name, "sha": hub.sha, "siblings": siblings, "tags": []}
            return self.answer(200, about | {"private": False, "downloads": 0, "likes": 0})

        def do_PUT(self):
            path, data = self.path, self.body()
            hub.requests.append(("PUT", path))
            if hub.fail_uploads_after is not None and hub.uploads >= hub.fail_uploads_after:
                return self.answer(403, {"error": "cut"})
            hub.uploads += 1
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == oid
            hub.blobs[oid] = data
            return self.answer(200)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            hub.requests.append((self.command, path))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path):
                files = hub.repos.get(found[1], {}).get("main")
                if files is None:
                    return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
                if found[2] == "tree":
                    listed = [
                        {"type": "file", "path": p, "size": len(d), "oid": SHA}
                        for p, d in files.items()
                    ]
                    return self.answer(200, listed)
                siblings = [{"rfilename": p, "size": len(d)} for p, d in files.items()]
                return self.answer(
                    200, {"id": found[1], "modelId": found[1], "sha": SHA, "siblings": siblings}
                )
            if path.startswith(("/api/datasets/", "/datasets/")):
                return self.dataset(path)
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                files = hub.repos.get(found[1], {}).get("main", {})
                if found[3] not in files:
                    return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
                data = files[found[3]]
                etag = hashlib.sha256(data).hexdigest()
                return self.answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
            return self.answer(404, {"error": path})

    return Handler


@contextmanager
def running_hub():
    """A hub on a free port of loopback, for a test process always the same one, as is `env`.

    `env` of the result points a process at it. Its HF_HOME is emptied: nothing was fetched yet.
    """
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", _AT["port"]), _handler(hub))
    _AT["port"] = server.server_port
    home = Path(_HOME.name) / "hf"
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.env = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(home, ignore_errors=True)
