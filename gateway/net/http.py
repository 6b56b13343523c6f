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
/metrics               Prometheus text, for who proves that they may
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
from importlib.resources import files
from typing import Any, Final, Protocol

from twisted.internet.address import UNIXAddress
from twisted.web.error import UnsupportedMethod
from twisted.web.http import Request
from twisted.web.resource import Resource

from gateway.core.access import is_loopback
from gateway.net.site import json, plain

_READ: Final = (b"GET", b"HEAD")
_STYLE: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)
_PROXY_HEADERS: Final = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
)


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
    if any(request.requestHeaders.hasHeader(name) for name in _PROXY_HEADERS):
        return False
    peer = request.client
    return isinstance(peer, UNIXAddress) or is_loopback(getattr(peer, "host", ""))


Authorize = Callable[[str | None], bool]
"""Whether a bearer token (None: there was none) is the shared secret, or none is asked for."""


def is_trusted(request: Request, authorize: Authorize) -> bool:
    """Return whether a caller may know how the gateway is inside."""
    if is_local(request):
        return True
    bearer = bearer_of(request)
    return bearer is not None and authorize(bearer)


class _Readable(Resource):
    """A resource that can be read and has nothing below it."""

    def render(self, request: Any) -> Any:
        """Refuse other methods, and forbid that the answer is kept."""
        if request.method not in _READ:
            raise UnsupportedMethod(_READ)
        request.setHeader(b"Cache-Control", b"no-store")
        return self.body(request)

    def body(self, request: Request) -> bytes:
        """Return the body, having set status and headers."""
        raise UnsupportedMethod(())

    def getChild(self, path: bytes, request: Any) -> Resource:
        """Return what is below: nothing."""
        return NotFound()


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

    def body(self, request: Request) -> bytes:
        """Return ``{ok, status}``."""
        live = self._probes.live()
        status = "live" if live else "stalled"
        return json(request, 200 if live else 503, {"ok": live, "status": status})


class Ready(_Readable):
    """Whether the gateway can serve now."""

    def __init__(self, probes: Probes, authorize: Authorize) -> None:
        super().__init__()
        self._probes = probes
        self._authorize = authorize

    def body(self, request: Request) -> bytes:
        """Return ``{ready}``, to trusted callers with what is wrong and why, and how the loop is."""
        failing = self._probes.failing()
        value: dict[str, Any] = {"ready": not failing}
        if is_trusted(request, self._authorize):
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


class Startup(_Readable):
    """Whether the start has come to its end."""

    def __init__(self, probes: Probes, authorize: Authorize) -> None:
        super().__init__()
        self._probes = probes
        self._authorize = authorize

    def body(self, request: Request) -> bytes:
        """Return ``{ok, status}``, to trusted callers with what it waits for."""
        started = self._probes.started()
        value: dict[str, Any] = {"ok": started, "status": "started" if started else "starting"}
        if is_trusted(request, self._authorize):
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

    def body(self, request: Request) -> bytes:
        """Return the text, or 401."""
        if not self._authorize(bearer_of(request)):
            request.setHeader(b"WWW-Authenticate", b'Bearer realm="gateway"')
            error = {"message": "Unauthorized", "type": "unauthorized"}
            return json(request, 401, {"error": error})
        request.setHeader(b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")
        return self._exposition()


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

    def body(self, request: Request) -> bytes:
        """Return the page."""
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-cache")
        request.setHeader(b"X-Frame-Options", b"DENY")
        request.setHeader(b"Content-Security-Policy", self._policy)
        return self._html


def bearer_of(request: Request) -> str | None:
    """Return the token of a request's one Authorization header of type Bearer."""
    values = request.requestHeaders.getRawHeaders(b"authorization") or []
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(b" ")
    try:
        return token.strip().decode() if scheme.lower() == b"bearer" else None
    except UnicodeDecodeError:
        return None


def make_root(
    probes: Probes,
    *,
    authorize: Authorize,
    exposition: Callable[[], bytes],
) -> Resource:
    """Return the tree of all resources.

    :param authorize: whether a bearer token (None: there was none) may read the metrics
        and what is wrong.
    :param exposition: returns the metrics as Prometheus text.
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
    return root
