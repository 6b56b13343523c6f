# mypy: disallow-untyped-calls=False
"""The HTTP side of the port: probes, metrics, and a page that says what this is.

=====================  ===========================================================================
GET, HEAD              answer
=====================  ===========================================================================
/                      the page of gateway/ui/index.html
/health, /healthz      200 ``{ok, status: "live"}``, 503 ``{ok: false, status: "stalled"}``
/ready, /readyz        200 or 503 ``{ready}``; to trusted callers also ``failing``, ``uptimeMs`` and,
                       while not ready, ``state: "starting" | "degraded" | "draining"``, ``reasons`` by name;
                       ``eventLoop`` where it is watched
/startup, /startupz    200 or 503 ``{ok, status: "started" | "starting"}``; to trusted callers also
                       ``version``, ``uptimeMs`` and, while starting, ``pendingReason``
/metrics               Prometheus text, for who proves that they may; else 401, 429 with Retry-After after
                       too many wrong credentials, 403 through a proxy that is not known
/j/CODE                to GET the setup code of a join link, once: ``{url, bootstrapToken, expiresAtMs,
                       profile}``; 404 where there is none (any more), 429 after too many, 403 as above
anything else          404 ``Not Found``; another method on a path above: 405 with ``Allow``
=====================  ===========================================================================

A caller is trusted who is local, its address being loopback and no proxy having put its own headers in, or
who brings the shared secret as its bearer token.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, Protocol

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http import Request
from twisted.web.resource import Resource

from gateway.core.access import is_loopback
from gateway.core.proxies import FORWARDED_HEADERS
from gateway.core.setupcode import SetupCode, setup_payload
from gateway.net.callers import (
    TRUSTED,
    UNKNOWN,
    Authorize,
    Join,
    Standing,
    Verdict,
    bearer_of,
    no_links,
)
from gateway.net.site import NOT_DONE_YET, json, plain

_log = Logger()

_READ: Final = (b"GET", b"HEAD")
_REFUSALS: Final = {
    Standing.UNKNOWN: (401, "Unauthorized", "unauthorized"),
    Standing.LOCKED: (429, "Too Many Requests", "rate_limited"),
    Standing.BUSY: (503, "Service Unavailable", "unavailable"),
    Standing.UNATTRIBUTED: (403, "Forbidden", "proxy_attribution_required"),
}
_STYLE: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


class Probes(Protocol):
    """What the probes ask of the gateway. All of it is cheap and raises nothing."""

    version: str

    def live(self) -> bool:
        """Whether the process does its work, as far as it can tell itself."""

    def started(self) -> bool:
        """Whether the start has come to its end."""

    def failing(self) -> list[str]:
        """Names of what is not ready; empty when the gateway can serve."""

    def reasons(self) -> dict[str, str]:
        """Why, by name, for those of :meth:`failing` that can tell."""

    def uptime_ms(self) -> int:
        """Milliseconds since the start."""

    def event_loop(self) -> dict[str, Any] | None:
        """How the event loop does (protocol: health), None where nothing watches it."""


def is_local(request: Request) -> bool:
    """Return whether a request comes from this host, and through no proxy."""
    if any(request.requestHeaders.hasHeader(name) for name in FORWARDED_HEADERS):
        return False
    peer = request.client
    return isinstance(peer, UNIXAddress) or is_loopback(getattr(peer, "host", ""))


class _Readable(Resource):
    """A resource that can be read and has nothing below it."""

    def render(self, request: Any) -> Any:
        """Refuse other methods, and forbid that the answer is kept."""
        if request.method not in _READ:
            raise UnsupportedMethod(_READ)
        request.setHeader(b"Cache-Control", b"no-store")
        verdict = self.judge(request)
        if not isinstance(verdict, Deferred):
            return self.body(request, verdict)
        verdict.addCallback(partial(self.body, request)).addCallbacks(
            partial(_finish, request), partial(_fail, request)
        )
        return NOT_DONE_YET

    def judge(self, request: Request) -> Verdict | Deferred[Verdict]:
        """Return how the caller stands; who shows everybody the same does not ask."""
        return UNKNOWN

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return the body, having set status and headers."""
        raise UnsupportedMethod(())

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Return what is below: nothing."""
        return NotFound()


class _Inside(_Readable):
    """A resource that tells more to those who may know how the gateway is inside: who is local, too."""

    def __init__(self, probes: Probes, authorize: Authorize) -> None:
        super().__init__()
        self._probes = probes
        self._authorize = authorize

    def judge(self, request: Request) -> Verdict | Deferred[Verdict]:
        """Return how the caller stands."""
        if is_local(request):
            return TRUSTED
        return UNKNOWN if bearer_of(request) is None else self._authorize(request)


class NotFound(_Readable):
    """Whatever there is not, by any method."""

    def render(self, request: Any) -> bytes:
        """Answer 404."""
        return plain(request, 404)


class Live(_Readable):
    """Whether the process works."""

    def __init__(self, probes: Probes) -> None:
        super().__init__()
        self._probes = probes

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return ``{ok, status}``."""
        live = self._probes.live()
        status = "live" if live else "stalled"
        return json(request, 200 if live else 503, {"ok": live, "status": status})


class Ready(_Inside):
    """Whether the gateway can serve now."""

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return ``{ready}``, to trusted callers with what is wrong and why, and how the loop is."""
        failing = self._probes.failing()
        value: dict[str, Any] = {"ready": not failing}
        if verdict.trusted:
            value |= {"failing": failing, "uptimeMs": self._probes.uptime_ms()}
            if failing:
                value["state"] = _state(failing, started=self._probes.started())
                value["reasons"] = self._probes.reasons()
            if (event_loop := self._probes.event_loop()) is not None:
                value["eventLoop"] = event_loop
        return json(request, 503 if failing else 200, value)


def _state(failing: Sequence[str], *, started: bool) -> str:
    if "draining" in failing:
        return "draining"
    return "degraded" if started else "starting"


class Startup(_Inside):
    """Whether the start has come to its end."""

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return ``{ok, status}``, to trusted callers with what it waits for."""
        started = self._probes.started()
        value: dict[str, Any] = {"ok": started, "status": "started" if started else "starting"}
        if verdict.trusted:
            value |= {"version": self._probes.version, "uptimeMs": self._probes.uptime_ms()}
            if not started:
                value["pendingReason"] = self._pending()
        return json(request, 200 if started else 503, value)

    def _pending(self) -> str:
        reasons = self._probes.reasons()
        said = (
            f"{name}: {reasons[name]}" if name in reasons else name
            for name in self._probes.failing()
        )
        return ", ".join(said) or "starting"


class Exposition(_Readable):
    """The metrics, for a bearer whose token is accepted."""

    def __init__(self, authorize: Authorize, exposition: Callable[[], bytes]) -> None:
        super().__init__()
        self._authorize = authorize
        self._exposition = exposition

    def judge(self, request: Request) -> Verdict | Deferred[Verdict]:
        """Return how the caller stands; being local is not enough."""
        return self._authorize(request)

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return the text, or why it is not told."""
        if not verdict.trusted:
            return _refused(request, verdict)
        request.setHeader(b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")
        return self._exposition()


class Links(_Readable):
    """What is above all join links, and is nothing itself."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self._join = join

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Answer 404."""
        return plain(request, 404)

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Return the link of this code."""
        return Link(self._join, path.decode("latin-1"))


class Link(_Readable):
    """A join link. Who only looks whether it is there (HEAD) does not use it up."""

    def __init__(self, join: Join, link_code: str) -> None:
        super().__init__()
        self._join = join
        self._link_code = link_code

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return the JSON of the setup code, or why not."""
        found = UNKNOWN if request.method != b"GET" else self._join(request, self._link_code)
        if isinstance(found, SetupCode):
            return json(request, 200, setup_payload(found))
        return plain(request, 404) if found is UNKNOWN else _refused(request, found)


class Page(_Readable):
    """The page at the root; its own style is all that it may load."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self._html = html
        styles = [
            f"'sha256-{b64encode(hashlib.sha256(style).digest()).decode()}'"
            for style in _STYLE.findall(html)
        ]
        self._policy = (
            f"default-src 'none'; style-src {' '.join(styles)}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def body(self, request: Request, verdict: Verdict) -> bytes:
        """Return the page."""
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-cache")
        request.setHeader(b"X-Frame-Options", b"DENY")
        request.setHeader(b"Content-Security-Policy", self._policy)
        return self._html


def _refused(request: Request, verdict: Verdict) -> bytes:
    """Answer who may not see a resource."""
    status, message, kind = _REFUSALS[verdict.standing]
    if status == 401:
        request.setHeader(b"WWW-Authenticate", b'Bearer realm="gateway"')
    if verdict.retry_after_s:
        request.setHeader(b"Retry-After", b"%d" % verdict.retry_after_s)
    return json(request, status, {"error": {"message": verdict.text or message, "type": kind}})


def _finish(request: Request, body: bytes) -> None:
    """Send a body that came later, unless nobody waits for it any more."""
    channel: Any = request.channel
    if channel is None or channel.successor is not None:
        return
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.write(body)
    request.finish()


def _fail(request: Request, failure: Failure) -> None:
    _log.failure("request {path} failed", failure=failure, path=request.path)
    _finish(request, plain(request, 500))


def make_root(
    probes: Probes,
    authorize: Authorize,
    exposition: Callable[[], bytes],
    join: Join = no_links,
) -> Resource:
    """Return the tree of all resources.

    :param authorize: judges whether a request may read the metrics and what is wrong.
    :param exposition: returns the metrics as Prometheus text.
    :param join: follows join links.
    """
    root = NotFound()
    root.putChild(b"", Page(files("gateway").joinpath("ui/index.html").read_bytes()))
    for name, probe in (
        (b"health", Live(probes)),
        (b"ready", Ready(probes, authorize)),
        (b"startup", Startup(probes, authorize)),
    ):
        root.putChild(name, probe)
        root.putChild(name + b"z", probe)
    root.putChild(b"metrics", Exposition(authorize, exposition))
    root.putChild(b"j", Links(join))
    return root
