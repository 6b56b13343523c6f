"""Who calls over HTTP: where a request comes from, and whether its bearer token is right.

The bearer token is the shared token or password. Wrong ones are counted with those of WebSockets. An
HTTP answer is never held back: where a refusal would be, the next credential is not looked at yet.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request

from gateway.core.access import Peer
from gateway.core.attempts import Credential
from gateway.core.credentials import Unverified
from gateway.core.proxies import Unattributed
from gateway.core.setupcode import SetupCode, is_link_code
from gateway.errors import Unavailable
from gateway.net.port import host_of

if TYPE_CHECKING:
    from gateway.net.edge import Edge

_SHARED = (Credential.SHARED,)
_BOOTSTRAP = (Credential.BOOTSTRAP,)


class Standing(Enum):
    """How a caller stands."""

    TRUSTED = "trusted"
    UNKNOWN = "unknown"
    """It showed no credential, or a wrong one."""
    LOCKED = "locked"
    """Too many wrong credentials came from there: this one was not looked at."""
    BUSY = "busy"
    """Too many passwords are being compared."""
    UNATTRIBUTED = "unattributed"
    """It came through a proxy that nobody knows."""


class Verdict(NamedTuple):
    """How a caller stands, when it may try again, and a sentence about it."""

    standing: Standing
    retry_after_s: int = 0
    text: str = ""

    @property
    def trusted(self) -> bool:
        """Whether it showed the right credential."""
        return self.standing is Standing.TRUSTED


UNKNOWN = Verdict(Standing.UNKNOWN)
TRUSTED = Verdict(Standing.TRUSTED)


class Callers:
    """Judges HTTP requests by the door's policy of the moment."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def peer(self, request: Request) -> Peer:
        """Return where a request comes from. Raises Unattributed."""
        headers = {
            name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        peer = self._edge.peer_of(Peer(host_of(request.client)), headers)
        return self._edge.proxies.attribute(peer, headers)

    def misdirected(self, request: Request) -> bool:
        """Whether a local request calls the gateway by a name that it does not have."""
        hosts = self._edge.policy.hosts
        address = host_of(request.client)
        names = request.requestHeaders.getRawHeaders(b"host") or []
        return hosts is not None and any(
            hosts.refuses(Peer(address, host=name.decode("latin-1"))) for name in names
        )

    def authorize(self, request: Request) -> Verdict | Deferred[Verdict]:
        """Judge the bearer token; a Deferred where a password has to be compared with its hash."""
        auth = self._edge.policy.auth
        try:
            peer = self.peer(request)
        except Unattributed as error:
            return Verdict(Standing.UNATTRIBUTED, text=str(error))
        if auth.mode == "none":
            return TRUSTED
        if not auth.shares_secret:
            return TRUSTED if auth.check(None, None, peer).ok else UNKNOWN
        bearer = bearer_of(request)
        if not bearer:
            return UNKNOWN
        locked = self._locked(peer)
        if locked is not None:
            return locked
        try:
            return self._known(peer, auth.check(bearer, None).ok)
        except Unverified as wanted:
            comparing = Deferred.fromCoroutine(self._edge.verify(wanted.candidate))
            return comparing.addCallbacks(lambda right: self._compared(peer, right), _busy)

    def _locked(self, peer: Peer) -> Verdict | None:
        """Return the verdict on who has to wait, None where the credential is looked at."""
        wait_s = self._edge.guard.wait_s(peer, _SHARED, paced=True)
        if wait_s <= 0:
            return None
        return Verdict(Standing.LOCKED, ceil(wait_s), "too many failed attempts; retry later")

    def _compared(self, peer: Peer, right: bool) -> Verdict:
        """Judge what was compared, unless others that were compared meanwhile locked it out."""
        return self._locked(peer) or self._known(peer, right)

    def join(self, request: Request, link_code: str) -> SetupCode | Verdict:
        """Return what a join link leads to, or how the caller stands. Vain tries count as setup codes do."""
        try:
            peer = self.peer(request)
        except Unattributed as error:
            return Verdict(Standing.UNATTRIBUTED, text=str(error))
        if not is_link_code(link_code):
            return UNKNOWN
        guard = self._edge.guard
        wait_s = guard.wait_s(peer, _BOOTSTRAP, paced=True)
        if wait_s > 0:
            return Verdict(Standing.LOCKED, ceil(wait_s), "too many failed attempts; retry later")
        found = self._edge.services.setup_codes.follow(link_code)
        if found is None:
            guard.failed(peer, _BOOTSTRAP)
            return UNKNOWN
        guard.succeeded(peer, _BOOTSTRAP)
        return found

    def _known(self, peer: Peer, right: bool) -> Verdict:
        if right:
            self._edge.guard.succeeded(peer, _SHARED)
            return TRUSTED
        self._edge.guard.failed(peer, _SHARED)
        return UNKNOWN


Authorize = Callable[[Request], Verdict | Deferred[Verdict]]
"""Judges the credential of a request."""
Join = Callable[[Request, str], SetupCode | Verdict]
"""Follows a join link by its code."""


def no_links(request: Request, link_code: str) -> SetupCode | Verdict:
    """Know no join link."""
    return UNKNOWN


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


def _busy(failure: Failure) -> Verdict:
    failure.trap(Unavailable)
    return Verdict(Standing.BUSY, 2, failure.getErrorMessage())
