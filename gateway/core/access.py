"""Roles and scopes, the shared credential, where a client comes from: decisions without I/O.

Default deny: a scope that is not granted is missing, whatever the client declared.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

ADMIN: Final = "operator.admin"
UNIX_ADDRESS: Final = "unix"
"""What stands for the address of a peer on a Unix socket."""
PAIRING: Final = "operator.pairing"
READ: Final = "operator.read"
WRITE: Final = "operator.write"

KNOWN_SCOPES: Final = frozenset(
    {
        ADMIN,
        READ,
        WRITE,
        "operator.approvals",
        "operator.pairing",
        "operator.questions",
        "operator.talk",
        "operator.talk.secrets",
        "operator.sessions.read",
        "operator.sessions.write",
    }
)

_IMPLIED: Final[dict[str, tuple[str, ...]]] = {
    WRITE: (READ, "operator.talk", "operator.sessions.read", "operator.sessions.write"),
    READ: ("operator.sessions.read",),
    "operator.sessions.write": ("operator.sessions.read",),
}


def effective_scopes(granted: Iterable[str]) -> frozenset[str]:
    """Return every scope that the granted ones satisfy (admin: all; write: read; ...)."""
    scopes = {scope for scope in granted if scope in KNOWN_SCOPES}
    if ADMIN in scopes:
        return KNOWN_SCOPES
    return frozenset(scopes.union(*(_IMPLIED.get(scope, ()) for scope in scopes)))


def covers(approved: Iterable[str], requested: Iterable[str]) -> bool:
    """Whether approved scopes cover all requested ones. An empty request is always covered.

    Admin covers every operator scope, also one that this gateway does not know (and never grants).
    """
    held = set(approved)
    if ADMIN in held:
        return all(scope.startswith("operator.") or scope in held for scope in requested)
    return set(requested) <= effective_scopes(held) | held


def same_secret(given: str, expected: str) -> bool:
    """Compare two secrets in a time that depends on neither."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def digest_of(secret: str) -> str:
    """Return the SHA-256 digest (hex) that is stored instead of a token of high entropy."""
    return _digest(secret).hex()


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a connection comes from: the client's address and what its upgrade request said.

    The address is the socket's, or what a trusted proxy said of its client.
    """

    address: str
    port: int = 0
    host: str | None = None
    origin: str | None = None
    user_agent: str | None = None
    forwarded: bool = False
    """Whether it came through a proxy."""
    user: str | None = None
    """Who it is, as a proxy says that is believed."""
    user_refusal: str | None = None
    """Why what the proxy says of that is not believed: one of the reasons of mode trusted-proxy."""

    @property
    def local(self) -> bool:
        """Whether it is a direct client on this machine: loopback or a Unix socket, and no proxy."""
        return not self.forwarded and is_local_address(self.address)


def is_local_address(address: str) -> bool:
    """Whether who connects from there is on this machine: a Unix socket has no other peers."""
    return address == UNIX_ADDRESS or is_loopback(address)


def is_loopback(address: str) -> bool:
    """Whether an address is loopback; IPv4-mapped IPv6 counts as the IPv4 address. A name is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
NULL_ORIGIN: Final = "null"
"""What a page without an origin of its own sends (a file, a sandboxed frame): it names nobody."""


@dataclass(frozen=True, slots=True)
class _Origin:
    """An origin in the form it is compared in: lower case, without its scheme's default port."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> _Origin | None:
        """Read strictly what a browser sends (RFC 6454 section 6.2): no path, user or blank, ASCII only."""
        if not text.isascii() or (match := _ORIGIN.fullmatch(text.lower())) is None:
            return None
        scheme, host, digits = match.groups()
        port = None if digits is None else int(digits)
        if port == _DEFAULT_PORTS.get(scheme):
            port = None
        return cls(scheme, host, port) if port is None or 0 < port < 65_536 else None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"

    @property
    def loopback(self) -> bool:
        """Whether it is a page that this machine serves: localhost, a name under it, or an address."""
        if self.scheme not in _DEFAULT_PORTS:
            return False
        host = self.host
        return host == "localhost" or host.endswith(".localhost") or is_loopback(host.strip("[]"))


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """Which web pages may open a connection: exact origins, or any loopback page for a local client."""

    allowed: frozenset[str] = frozenset()
    """As :func:`normal_origins` returns them."""
    allow_any: bool = False
    """Whether every page may (``"*"``): for a gateway behind a door of its own."""

    def refusal(self, peer: Peer, *, browser: bool) -> str | None:
        """Return why the origin is refused, or None.

        ``browser`` says that the client is one that runs in a browser and must send an Origin. The
        reasons are ``origin missing or invalid`` and ``origin not allowed``.
        """
        if peer.origin is None:
            return "origin missing or invalid" if browser else None
        if peer.origin == NULL_ORIGIN and NULL_ORIGIN in self.allowed:
            return None
        origin = _Origin.parse(peer.origin)
        if origin is None:
            return "origin missing or invalid"
        if self.allow_any or str(origin) in self.allowed or (peer.local and origin.loopback):
            return None
        return "origin not allowed"

    def lists(self, peer: Peer) -> bool:
        """Whether the origin of a peer is one of those that are named."""
        origin = None if peer.origin is None else _Origin.parse(peer.origin)
        return origin is not None and str(origin) in self.allowed


def normal_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return configured origins in the form they are compared in; what is no origin is left out."""
    normal = (text if text == NULL_ORIGIN else _Origin.parse(text) for text in origins)
    return frozenset(str(origin) for origin in normal if origin is not None)
