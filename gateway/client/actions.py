"""What the core of a client tells its driver, and what a driver hands on to its user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.client.errors import ClientError


@dataclass(frozen=True, slots=True)
class Hello:
    """What ``hello-ok`` told. A gateway may leave out nearly all of it."""

    protocol: int
    server_version: str
    conn_id: str
    methods: tuple[str, ...]
    events: tuple[str, ...]
    scopes: tuple[str, ...] | None
    """The scopes granted, ``None`` where the gateway does not tell."""
    device_token: str | None = field(repr=False)
    tick_interval_s: float
    max_payload: int
    payload: dict[str, Any] = field(repr=False)
    """The whole of it."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the gateway. ``seq`` counts what was broadcast to this connection."""

    name: str
    payload: Any = None
    seq: int | None = None
    state_version: Any = None


@dataclass(frozen=True, slots=True)
class Gap:
    """``missed`` events were lost before the one that follows."""

    missed: int


class Send(NamedTuple):
    """Send one text message."""

    frame: bytes


class Opened(NamedTuple):
    """The handshake is done."""

    hello: Hello


class Accepted(NamedTuple):
    """A request that expects a final answer got its first one."""

    request_id: str
    payload: Any


class Answered(NamedTuple):
    """A request got its answer."""

    request_id: str
    payload: Any


class Failed(NamedTuple):
    """A request failed."""

    request_id: str
    error: ClientError


class Received(NamedTuple):
    """An event, or a hole where events should have been."""

    event: Event | Gap


class Ignored(NamedTuple):
    """A message that makes no sense; for the log."""

    why: str


class Close(NamedTuple):
    """Close the connection with this code and reason."""

    code: int
    reason: str


class Lost(NamedTuple):
    """It is over, and why. Comes once, after everything that waited has failed."""

    error: ClientError


Action = Send | Opened | Accepted | Answered | Failed | Received | Ignored | Close | Lost
