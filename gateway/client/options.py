"""What a client tells the gateway of itself, and where the gateway is."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import gateway
from gateway.client.errors import InvalidUrl
from gateway.client.retry import Reconnect
from gateway.client.tokens import Credentials, TokenStore
from gateway.core.deviceproof import DeviceIdentity
from gateway.model import ClientInfo, Role

MAX_FRAME_BYTES: Final = 26_214_400
"""The largest message either side may send (protocol: transport)."""

CLIENT_PROTOCOLS: Final = (3, 4)

OPERATOR_SCOPES: Final = (
    "operator.admin",
    "operator.read",
    "operator.write",
    "operator.approvals",
    "operator.pairing",
)
"""Every scope that both protocol versions know."""


def client_info(client_id: str, mode: str) -> ClientInfo:
    """Describe this program; ``client_id`` and ``mode`` are of the protocol's closed lists."""
    return ClientInfo(id=client_id, version=gateway.__version__, platform=sys.platform, mode=mode)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client connects and how long it waits. Times are in seconds."""

    client: ClientInfo = field(default_factory=lambda: client_info("gateway-client", "backend"))
    credentials: Credentials = field(default_factory=Credentials)
    device: DeviceIdentity | None = None
    role: Role = Role.OPERATOR
    scopes: tuple[str, ...] = ("operator.read", "operator.write")
    caps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """What a node can do."""
    min_protocol: int = CLIENT_PROTOCOLS[0]
    max_protocol: int = CLIENT_PROTOCOLS[1]
    """The gateway picks the highest version of this range that it speaks."""
    handshake_timeout: float = 15.0
    """From the start of the connection to ``hello-ok``."""
    request_timeout: float = 30.0
    """For requests that give none; those that expect a final answer wait without limit."""
    close_timeout: float = 1.0
    """How long the other side may take to end a closed connection before it is cut."""
    max_requests: int = 1000
    """Requests, and runs, that may be waiting at once."""
    max_events: int = 1000
    """Events kept for a reader that lags behind; older ones become a gap."""
    reconnect: Reconnect | None = None
    """How to come back after the connection was lost, ``None`` to end with it."""
    tokens: TokenStore | None = None
    """Where the device's tokens are kept; without one, a token lives as long as the client."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a gateway's address."""

    url: str
    """For messages: without the query, which may hold a secret."""
    request_url: str = field(repr=False)
    """For the request: with the query."""
    host: str
    port: int
    secure: bool

    @property
    def private(self) -> bool:
        """Whether nobody else can listen, or pretend to be the gateway."""
        return self.secure or self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_url(url: str) -> Target:
    """Take ``ws[s]://HOST[:PORT][/PATH]`` apart. Raises InvalidUrl.

    Credentials in an address would end up in logs and messages, so they are refused.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidUrl(f"not a URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidUrl("credentials do not belong into the URL; give the token on its own")
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise InvalidUrl(f"not a gateway URL: {shown}: expected ws://HOST:PORT or wss://HOST:PORT")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidUrl("not a gateway URL: it has characters that a URL may not contain")
    secure = parts.scheme == "wss"
    asked = f"{shown}?{parts.query}" if parts.query else shown
    return Target(shown, asked, parts.hostname, port or (443 if secure else 80), secure)


def new_id() -> str:
    """Return a fresh id for a request that must not be repeated by accident."""
    return str(uuid4())
