"""Makes the connections, and looks after all of them with one timer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.python.failure import Failure

from gateway.net.edge import Edge
from gateway.net.facts import facts_of
from gateway.net.fastpath import disable_handshake_logging, prepare
from gateway.net.websocket import GatewayProtocol

SWEEP_S = 5.0
"""How often the connections are looked after: with 20 s of silence and 20 s of patience, a dead peer
is found within 45 s."""


class GatewayFactory(WebSocketServerFactory):  # type: ignore[misc]
    """The factory of all WebSocket connections of a gateway."""

    noisy = False
    protocol = GatewayProtocol

    def __init__(self, edge: Edge, reactor: object) -> None:
        disable_handshake_logging()
        super().__init__(server="", reactor=reactor)
        self.edge = edge
        limits = edge.limits
        self.setProtocolOptions(
            failByDrop=False,
            echoCloseCodeReason=False,
            utf8validateIncoming=True,
            maxFramePayloadSize=limits.preauth_payload_bytes,
            maxMessagePayloadSize=limits.preauth_payload_bytes,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,  # the edge has one timer for all who close
            autoPingInterval=0,
            autoPingTimeout=0,
            tcpNoDelay=True,
            webStatus=False,
            serveFlashSocketPolicy=False,
            allowNullOrigin=True,  # the door judges every origin, and tells in its own words
        )
        prepare(self, edge.clock)
        self._connections: dict[GatewayProtocol, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def open_connections(self) -> list[GatewayProtocol]:
        """Every connection that has a transport, oldest first."""
        return list(self._connections)

    def remember(self, connection: GatewayProtocol) -> None:
        """The connection has a transport now."""
        self._connections[connection] = None

    def forget(self, connection: GatewayProtocol) -> None:
        """The connection has no transport any more."""
        self._connections.pop(connection, None)

    def describe(self, limit: int, prefix: str) -> tuple[list[dict[str, Any]], int]:
        """Return facts of open connections, the newest first, and how many there are in all.

        Only of those whose id begins with ``prefix``. It is made when asked for: at most ``limit``
        connections are looked at closely.
        """
        newest_first: Iterable[GatewayProtocol] = reversed(self._connections)
        total = len(self)
        if prefix:
            newest_first = [c for c in newest_first if c.conn_id.startswith(prefix)]
            total = len(newest_first)
        return [facts_of(connection) for connection in islice(newest_first, limit)], total

    def sweep(self) -> None:
        """Look after every connection; one that fails ends, and the others are looked after."""
        now = self.edge.clock.seconds()
        for connection in self.open_connections:
            try:
                connection.sweep(now)
            except Exception:
                connection.on_error(Failure())
        self.edge.metrics.outbox_bytes = self.edge.outboxes.held
