"""The client library: a sans-IO core, and a driver for Twisted.

:mod:`gateway.client.core` knows the protocol and neither sockets nor clocks; a driver such as
:mod:`gateway.client.twisted` carries out what it says. The names here are those that do not depend on
a driver.
"""

from __future__ import annotations

from gateway.client.actions import Event, Gap, Hello
from gateway.client.chat import Outcome, RunEnded, RunEvent, TextDelta, TextReplaced
from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    InvalidUrl,
    RequestFailed,
    RequestNotSent,
    RequestTimeout,
)
from gateway.client.options import (
    OPERATOR_SCOPES,
    ClientOptions,
    Credentials,
    client_info,
    parse_url,
)

__all__ = [
    "OPERATOR_SCOPES",
    "ClientError",
    "ClientOptions",
    "ConnectFailed",
    "ConnectRefused",
    "ConnectionLost",
    "Credentials",
    "Event",
    "Gap",
    "Hello",
    "InvalidUrl",
    "Outcome",
    "RequestFailed",
    "RequestNotSent",
    "RequestTimeout",
    "RunEnded",
    "RunEvent",
    "TextDelta",
    "TextReplaced",
    "client_info",
    "parse_url",
]
