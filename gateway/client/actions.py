"""What the core of a client tells its driver, and what a driver hands on to its user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.client.chat import RunEvent
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


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is away; the client tries to come back in ``retry_in_s`` seconds."""

    error: ClientError
    retry_in_s: float
    attempts: int
    """Attempts since a connection was last healthy, the coming one included."""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection is back. Runs and subscriptions go on; of other events any number is missing."""

    hello: Hello


Notice = Event | Gap | Disconnected | Reconnected
"""What listeners hear."""


class Dial(NamedTuple):
    """Make a connection."""

    attempt: int


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

    event: Notice


class RunSaid(NamedTuple):
    """A run that is being read went on, or ended."""

    run_id: str
    events: list[RunEvent]


class RunFailed(NamedTuple):
    """A run can not be read to its end."""

    run_id: str
    error: ClientError


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


Action = (
    Dial
    | Send
    | Opened
    | Accepted
    | Answered
    | Failed
    | Received
    | RunSaid
    | RunFailed
    | Ignored
    | Close
    | Lost
)


class Ask(NamedTuple):
    """A request that the client makes for itself. What its answer causes is carried out in turn."""

    method: str
    params: dict[str, Any]
    answered: Callable[[Any, float], list[Action | Ask]]
    """Called with the payload and the time."""
    failed: Callable[[ClientError, float], list[Action | Ask]]
    timeout: float | None = None
    resend: bool = False
    """Send it again on the next connection, where this one ends before the answer."""


Steps = list[Action | Ask]
