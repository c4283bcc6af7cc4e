"""A Hub for tests: an HTTP server on loopback that speaks the endpoints that push and load use.

Repositories live in memory: {repo_id: {branch: {path: bytes}}}. The real `huggingface_hub` client
talks to it when HF_ENDPOINT names it (in a process of its own: the client reads that at import).
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

SHA = "a" * 40  # of every commit: nothing here depends on history


class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        repos, private: the repositories.
        blobs: large files by sha256.
        requests: (method, path) of every request.
        fail_uploads_after: so many large uploads succeed, later ones answer 500 (None: all do).
        token: requests that write need it.
    """

    def __init__(self, token="hf_secrettokenoftests"):
        self.repos, self.private, self.blobs = {}, {}, {}
        self.requests, self.uploads = [], 0
        self.fail_uploads_after = None
        self.token = token
        self.url = ""


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, status, body=b"", headers=None):
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
    """A hub on a free port of loopback; `env` of the result points a process at it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
