"""The client library: a sans-IO core, and drivers for Twisted and for asyncio.

:mod:`gateway.client.link` knows the protocol and neither sockets nor clocks; a driver,
:mod:`gateway.client.twisted` or :mod:`gateway.client.aio`, carries out what it says. The names here are
those that do not depend on a driver.
"""

from __future__ import annotations

from gateway.client.actions import Disconnected, Event, Gap, Hello, Notice, Reconnected
from gateway.client.chat import Outcome, RunEnded, RunEvent, TextDelta, TextReplaced
from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    GaveUp,
    InvalidUrl,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
    RunLost,
    UnexpectedAnswer,
)
from gateway.client.options import OPERATOR_SCOPES, ClientOptions, client_info, parse_url
from gateway.client.retry import Reconnect
from gateway.client.tokens import Credentials, MemoryTokens, TokenStore
from gateway.model import Position

__all__ = [
    "OPERATOR_SCOPES",
    "ClientError",
    "ClientOptions",
    "ConnectFailed",
    "ConnectRefused",
    "ConnectionLost",
    "Credentials",
    "Disconnected",
    "Event",
    "Gap",
    "GaveUp",
    "Hello",
    "InvalidUrl",
    "MemoryTokens",
    "Notice",
    "Outcome",
    "Position",
    "Reconnect",
    "Reconnected",
    "RequestFailed",
    "RequestNotSent",
    "RequestTimeout",
    "RunEnded",
    "RunEvent",
    "RunLost",
    "TextDelta",
    "TextReplaced",
    "TokenStore",
    "UnexpectedAnswer",
    "client_info",
    "parse_url",
]
