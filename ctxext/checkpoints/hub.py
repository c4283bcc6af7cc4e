"""Ask the Hub, or whoever answers in its place, and look at every answer before it is used.

A proxy's login page, a broken mirror or a stranger's server may answer instead. What comes back
never decides where something is written, and nobody waits for it without end:

- a request that stays without an answer for `HF_HUB_DOWNLOAD_TIMEOUT` seconds (10 by itself) is
  given up, and repeated by huggingface_hub for at most six times as long;
- so is one whose answer begins, and then does not go on, six times as long after the first such;
- all of a repository's small files together may take thirty times as long, and a Hub that asks to
  wait longer than that is not waited for.
"""

import importlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ctxext.errors import CtxextError, first_line
from ctxext.runs.json_file import too_deep

SILENT, IN_ALL = 6, 30  # times HF_HUB_DOWNLOAD_TIMEOUT
_UPLOAD = 120.0  # seconds that the Hub may look at what was uploaded before it answers
_API_BYTES = 64 * 1024 * 1024
_SHA = re.compile(r"[0-9a-f]{40}")
_SECONDS = re.compile(r"\bt=(\d+)")  # of a header that tells of a limit
_PROGRESS = 1024 * 1024  # bytes of a body that count, where it stops later
_ETAG = re.compile(r'(W/)?"?\w[\w.:+=-]{0,200}"?')
_HUB_HOSTS = ("huggingface.co", "hf.co")
# What huggingface_hub does with an answer of another form: it is read without checks.
NOT_OF_A_HUB = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RecursionError,
)


class HubAnswer(CtxextError):
    """The Hub answered what no Hub answers, or not in time."""


_WAY_OUT = "check the network and HF_ENDPOINT; HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer"
_LATER = "try again later; HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer"
_LOGIN_PAGE = "check the network (a login page?) and HF_ENDPOINT"


class HubSilent(HubAnswer):
    """The Hub did not answer in time; what is in the cache may do."""


class _Patience:
    """How long one fetch has waited, whichever thread asks.

    Attributes:
        timeout: seconds until a request without an answer is given up.
        silent: seconds until all of them are, with their repetitions.
        in_all: seconds that everything may take.
        brief: seconds until an answer that has begun is given up, where it does not go on.
        refused: the status of the last answer, where that was "too many requests" or an error of
            the Hub's own.
    """

    def __init__(self, timeout: float, silent: float, in_all: float, brief: float) -> None:
        self.timeout, self.silent, self.in_all, self.brief = timeout, silent, in_all, brief
        self.refused: int | None = None
        self._stalled: float | None = None  # since when answers begin and do not go on
        self._ends = time.monotonic() + in_all
        self._unanswered: float | None = None  # since when nothing was heard
        self._lock = threading.Lock()

    def ask(self) -> None:
        """Begin to wait for an answer, or for more of one.

        Raises:
            HubAnswer: there was none for too long.
        """
        now = time.monotonic()
        with self._lock:
            self._unanswered = self._unanswered or now
            waited = now - self._unanswered
            stalled = now - self._stalled if self._stalled is not None else 0.0
        if waited > self.silent:
            raise HubSilent(f"the Hub was silent for {waited:.0f} s", _WAY_OUT)
        if stalled > SILENT * self.brief:
            raise HubSilent(f"the Hub began to answer and stopped for {stalled:.0f} s", _WAY_OUT)
        if self.is_over:
            raise self.error

    def hear(self) -> None:
        """Note an answer, or more of one."""
        with self._lock:
            self._unanswered = None

    def stall(self) -> None:
        """Note an answer that began and did not go on."""
        with self._lock:
            self._stalled = self._stalled or time.monotonic()

    def go_on(self) -> None:
        """Note that an answer went on as it should."""
        with self._lock:
            self._stalled = None

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._ends

    @property
    def error(self) -> HubSilent:
        return HubSilent(f"the Hub took more than {self.in_all:.0f} s for small files", _WAY_OUT)


_held: list[Callable[[], Any]] = []  # factories of the blocks that are open, the newest last


@contextmanager
def asking_hub(*, small: bool = False, upload: bool = False) -> Iterator[None]:
    """Limit how long requests of huggingface_hub in this block may take, and check their answers.

    Args:
        small: whether everything together has an end too.
        upload: whether the Hub may think longer, about what was sent.

    Raises:
        HubAnswer: an answer is of no Hub, leads elsewhere, or does not come.
    """
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils._http import default_client_factory

    brief = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    timeout = max(brief, _UPLOAD if upload else 0.0)
    silent = math.inf if upload else SILENT * timeout
    patience = _Patience(timeout, silent, IN_ALL * timeout if small else math.inf, brief)

    def held() -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        hooks["request"].append(lambda request: _before(request, patience))
        hooks["response"].append(lambda response: _after(response, patience))
        client.event_hooks = hooks
        return client

    # An answer that comes a byte at a time passes every other timeout: its connection is closed.
    alarm = threading.Timer(patience.in_all + 1, close_session) if small else None
    if alarm is not None:
        alarm.daemon = True
        alarm.start()
    _held.append(held)
    _use_newest()
    try:
        yield
    except hub_failures() as error:
        # A connection that the alarm closed looks like this to who reads from it.
        if patience.is_over and not isinstance(error, HubAnswer):
            raise patience.error from error
        # A library that asks on takes a refusal for a file that is not there.
        said = isinstance(error, (HubAnswer, network_errors()[0]))
        if patience.refused is not None and not said:
            raise HubAnswer(f"the Hub answers {patience.refused}", _LATER) from error
        raise
    finally:
        if alarm is not None:
            alarm.cancel()
        _held.remove(held)
        _use_newest()


def _use_newest() -> None:
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    set_client_factory(_held[-1] if _held else default_client_factory)


def network_errors() -> tuple[type[Exception], ...]:
    """List what huggingface_hub raises where the network fails or the Hub says no."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return HTTPError, OSError  # the first is httpx's or httpx2's


def hub_failures() -> tuple[type[Exception], ...]:
    """List what huggingface_hub raises where something is wrong with the network or an answer."""
    return *network_errors(), *NOT_OF_A_HUB, HubAnswer


def _before(request: Any, patience: _Patience) -> None:
    patience.ask()
    waits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        key: waits.get(key) or patience.timeout for key in ("connect", "read", "write", "pool")
    }


def _after(response: Any, patience: _Patience) -> None:
    """Check an answer's head, before a client writes what it says somewhere.

    Raises:
        HubAnswer: it is none of a Hub.
    """
    patience.hear()
    _check_refusal(response, patience)
    # The body has to come as quickly as that of any other answer.
    (response.request.extensions.get("timeout") or {}).update(read=patience.brief)
    asked = urlsplit(str(response.request.url))
    # Small files come from /api/resolve-cache/.
    is_api = asked.path.startswith("/api/") and not asked.path.startswith("/api/resolve-cache/")
    if response.has_redirect_location:
        _check_redirect(response, asked.hostname, is_api)
    for name in ("etag", "x-linked-etag"):
        if name in response.headers and not _ETAG.fullmatch(response.headers[name]):
            raise _no_hub(f"a header {name} that is no hash")
    commit = response.headers.get("x-repo-commit")
    if commit is not None and not _SHA.fullmatch(commit):
        raise _no_hub("a commit that is no hash")
    response.stream = _counted_stream(response.stream, patience, _API_BYTES if is_api else None)
    lists = response.request.method == "GET" or "/paths-info/" in asked.path
    if is_api and response.is_success and lists:
        _check_listing(response.read())


def _check_refusal(response: Any, patience: _Patience) -> None:
    """Note an answer that says no for now.

    Raises:
        HubAnswer: it asks to wait longer than anything may take; the client would.
    """
    status = response.status_code
    patience.refused = status if status == 429 or status >= 500 else None
    if patience.refused is None:
        return
    asked = _SECONDS.findall(response.headers.get("ratelimit", ""))
    asked += re.findall(r"^\d+$", response.headers.get("retry-after", ""))
    if any(int(seconds[:18]) > IN_ALL * patience.brief for seconds in asked):
        raise HubAnswer(f"the Hub answers {status}, and to ask again in {asked[-1][:18]} s", _LATER)


def _check_redirect(response: Any, host: str | None, is_api: bool) -> None:
    """Refuse another host for what says which files there are; the files may lie elsewhere."""
    target = urlsplit(response.headers["location"])
    if target.scheme not in ("", "http", "https"):
        raise _no_hub("a redirect that is no web address")
    known = target.hostname in (None, host) or any(
        target.hostname == name or str(target.hostname).endswith(f".{name}") for name in _HUB_HOSTS
    )
    if is_api and not known:
        raise HubAnswer(f"the Hub sends on to {str(target.hostname)[:100]}, which is another host")


def _check_listing(body: bytes) -> None:
    """Check that names and commits in an answer of the API stay inside the cache.

    Raises:
        HubAnswer: one does not, or it is no JSON.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_hub("a page that is no JSON") from error
    if not isinstance(answer, dict | list) or too_deep(answer):
        raise _no_hub("JSON of another form")
    if isinstance(answer, dict):
        sha = answer.get("sha")
        if sha is not None and not (isinstance(sha, str) and _SHA.fullmatch(sha)):
            raise _no_hub("a commit that is no hash")
    entries = answer if isinstance(answer, list) else answer.get("siblings") or []
    for entry in entries if isinstance(entries, list) else ():
        name = entry.get("path", entry.get("rfilename")) if isinstance(entry, dict) else None
        if name is not None and not _stays_inside(name):
            raise _no_hub("a file name that leaves the repository")


def _stays_inside(name: Any) -> bool:
    if not isinstance(name, str) or name.startswith("/") or "\\" in name or "\0" in name:
        return False
    return not {"", ".", ".."} & set(name.split("/"))


def _no_hub(what: str) -> HubAnswer:
    return HubAnswer(f"who answers for the Hub sent {what}", _LOGIN_PAGE)


def _counted_stream(stream: Any, patience: _Patience, most: int | None) -> Any:
    """Wrap the body of an answer, to give it up when it is too long or does not come."""
    library = importlib.import_module(network_errors()[0].__module__.partition(".")[0])

    class Counted(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            patience.ask()
            try:
                for chunk in stream:
                    patience.hear()
                    size += len(chunk)
                    if most is not None and size > most:
                        raise _no_hub(f"more than {most >> 20} MiB about a repository")
                    if size > _PROGRESS:
                        patience.go_on()
                    yield chunk
                    patience.ask()
            except network_errors():
                patience.stall()
                raise
            patience.hear()
            patience.go_on()

        def close(self) -> None:
            stream.close()

    return Counted()


def not_fetched(what: str, error: Exception) -> CtxextError:
    """Write the error for what could not be fetched, by one of `hub_failures`."""
    failed = f"{what} could not be fetched"
    if isinstance(error, HubAnswer):
        return CtxextError(f"{failed}: {error}", error.hint)
    if isinstance(error, network_errors()):
        return CtxextError(f"{failed}: {first_line(error)}")
    return no_hub(failed, error)


def no_hub(failed: str, error: Exception) -> CtxextError:
    """Write the error for what huggingface_hub raised where an answer had another form.

    Args:
        failed: what did, as the beginning of a sentence.
        error: one of `NOT_OF_A_HUB`.
    """
    return CtxextError(
        f"{failed}: the answer is not one of a Hub ({type(error).__name__})", _LOGIN_PAGE
    )
