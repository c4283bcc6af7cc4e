"""Whoever answers for the Hub: what is no answer of a Hub is one sentence, and written nowhere."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.hub_server import running_hub

SHA = "a" * 40
INFO = {"id": "o/n", "sha": SHA, "siblings": [{"rfilename": "config.json"}]}
FILE = {"type": "file", "path": "config.json", "size": 2, "oid": SHA}
ASK = """
import sys, time
from ctxext.checkpoints import hub
from ctxext.checkpoints.folder import find_checkpoint
from ctxext.errors import CtxextError
hub.SILENT, hub.IN_ALL = 3, float(sys.argv[2])
begun = time.monotonic()
try:
    print("found", find_checkpoint("o/n", weights=sys.argv[1] == "weights").revision)
except CtxextError as error:
    print(error.exit_code, error)
print(f"{time.monotonic() - begun:.1f}")
"""


READ = """
from ctxext.data.sources import Source
from ctxext.errors import CtxextError
try:
    print([piece.text for piece in Source("hf:o/n").pieces()])
except CtxextError as error:
    print(error.exit_code, error)
"""
PUSH = """
from ctxext.errors import CtxextError
from ctxext.release.upload import Item, Repository, upload
try:
    files = [Item("m.safetensors", b"abc"), Item("README.md", b"x")]
    print(upload(files, Repository("o/n", token="x")))
except CtxextError as error:
    print(error.exit_code, error)
"""


@contextmanager
def answering(answer):
    """A server that lets `answer(handler)` do what it wants with every GET and HEAD."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            with suppress(OSError):  # the client has gone
                answer(self)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler, body=b"{}", headers=(), status=200):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for key, value in {"Content-Length": len(body), **dict(headers)}.items():
        handler.send_header(key, str(value))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def moved(handler, target):
    send(handler, b"", {"Location": target}, 302)


def hub_with(info=INFO, tree=(FILE,), headers=(), content=b"{}"):
    """What answers like a Hub, but for what it is told to say."""

    def answer(handler):
        if "/tree/" in handler.path:
            send(handler, list(tree) if isinstance(tree, tuple) else tree)
        elif handler.path.startswith("/api/"):
            send(handler, info)
        else:
            named = {"ETag": '"abc"', "X-Repo-Commit": SHA, **dict(headers)}
            send(handler, content, named)

    return answer


def ask(tmp_path, url, *, weights=False, in_all=30):
    """Exit code and sentence, or what was found; and the seconds it took."""
    said, seconds = run(ASK, tmp_path, url, "weights" if weights else "small", str(in_all))
    return said, float(seconds)


def run(code, tmp_path, url, *arguments):
    """The lines that a program prints whose Hub is the one at this address."""
    env = {
        **os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=env, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    outside = {p.name for p in tmp_path.iterdir()} - {"hf"}
    assert not outside, f"written outside of the cache: {outside}"
    return done.stdout.splitlines()


OUTSIDE = "../../../../../../evil.json"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda handler: send(handler, b"<html>log in</html>"), "a page that is no JSON"),
        (lambda handler: send(handler, b"[" * 200_000), "a page that is no JSON"),
        (lambda handler: send(handler, b'{"a":' * 90 + b"1" + b"}" * 90), "JSON of another form"),
        (lambda handler: send(handler, b"null"), "JSON of another form"),
        (lambda handler: send(handler, []), "not one of a Hub"),
        (hub_with(info={"id": "o/n", "siblings": []}), "not one of a Hub"),
        (hub_with(info={**INFO, "siblings": [1]}), "not one of a Hub"),
        (hub_with(info={**INFO, "sha": OUTSIDE}), "a commit that is no hash"),
        (hub_with(info={**INFO, "sha": 5}), "a commit that is no hash"),
        (hub_with(tree=({**FILE, "path": OUTSIDE},)), "leaves the repository"),
        (hub_with(tree=({**FILE, "path": "/etc/evil.json"},)), "leaves the repository"),
        (hub_with(tree=({**FILE, "path": "a/./../evil.json"},)), "leaves the repository"),
        (hub_with(tree=(5,)), "not one of a Hub"),
        (hub_with(tree={"a": 1}), "not one of a Hub"),
        (hub_with(headers={"ETag": f'"{OUTSIDE}"'}), "no hash"),
        (hub_with(headers={"X-Linked-Etag": OUTSIDE}), "no hash"),
        (hub_with(headers={"X-Repo-Commit": OUTSIDE}), "no hash"),
        (lambda handler: moved(handler, "http://localhost:9/x"), "another host"),
        (lambda handler: moved(handler, "file:///etc/passwd"), "web address"),
        (lambda handler: moved(handler, handler.path), "redirects"),
    ],
)  # fmt: skip
def test_what_no_hub_says_is_one_sentence(tmp_path, answer, words):
    with answering(answer) as url:
        said, seconds = ask(tmp_path, url)
    assert said.startswith("1 o/n could not be fetched")
    assert words in said
    assert seconds < 15


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: send(handler, b"<html>log in</html>"),
        lambda handler: send(handler, []),
        lambda handler: send(handler, {**INFO, "sha": OUTSIDE}),
        lambda handler: moved(handler, "http://localhost:9/"),
    ],
)
@pytest.mark.parametrize("code", [READ, PUSH], ids=["dataset", "push"])
def test_datasets_and_uploads_say_one_sentence_too(tmp_path, answer, code):
    with answering(answer) as url:
        (said,) = run(code, tmp_path, url)
    assert said.startswith(("1 pushing to o/n failed: ", "1 --data hf:o/n", "2 --data hf:o/n"))


def silent(handler):
    time.sleep(60)


def silent_files(handler):
    if handler.path.startswith("/api/"):
        hub_with()(handler)
    elif handler.command == "HEAD":
        hub_with(headers={"Content-Length": 2})(handler)
    else:
        silent(handler)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 1_000_000)


def drop_by_drop(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.2)


def head_drop_by_drop(handler):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-A: ")
    while True:
        handler.wfile.write(b"a")
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("answer", "words", "most"),
    [
        (silent, "silent for", 10),
        (silent_files, "silent for", 15),
        (endless, "more than 64 MiB", 15),
        (drop_by_drop, "took more than 4 s", 10),
        (head_drop_by_drop, " s", 10),
    ],
)
def test_nobody_waits_without_end(tmp_path, answer, words, most):
    with answering(answer) as url:
        in_all = 30 if answer in (silent, silent_files, endless) else 4
        said, seconds = ask(tmp_path, url, in_all=in_all)
    assert said.startswith("1 o/n")
    assert words in said
    assert seconds < most


def test_a_hub_is_believed_and_weights_come_second(tmp_path):
    with running_hub() as hub:
        hub.repos["o/n"] = {"main": {"config.json": b"{}", "model.safetensors": b"abc"}}
        assert ask(tmp_path, hub.url)[0] == f"found {SHA}"
        assert not any("safetensors" in path for _, path in hub.requests)
        assert ask(tmp_path, hub.url, weights=True)[0] == f"found {SHA}"
        assert any("model.safetensors" in path for _, path in hub.requests)
    # What is in the cache does where there is no Hub, or one that says nothing.
    assert ask(tmp_path, "http://127.0.0.1:9", weights=True)[0] == f"found {SHA}"
    with answering(silent) as url:
        said, seconds = ask(tmp_path, url, weights=True)
    assert said == f"found {SHA}"
    assert seconds < 15
