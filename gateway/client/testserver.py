"""A fake gateway over WebSocket: on a port, or on any pair of Twisted transports.

::

    port = reactor.listenTCP(0, server_factory(gateway, reactor), interface="127.0.0.1")
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny

from gateway.client.testing import FakeConnection, FakeGateway


class _Connection(WebSocketServerProtocol):  # type: ignore[misc]
    """One connection; it is its own :class:`~gateway.client.testing.Peer`."""

    factory: Any
    connection: FakeConnection | None = None

    def onConnect(self, request: Any) -> None:
        status = self.factory.gateway.http_status
        if status is not None:
            raise ConnectionDeny(status, "refused by the test")

    def onOpen(self) -> None:
        self.connection = self.factory.gateway.accept(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.gateway.received(self.connection, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.connection is not None:
            self.factory.gateway.gone(self.connection)
            self.factory.closes.append((code, reason))

    def send(self, text: bytes) -> None:
        self.sendMessage(text)

    def close(self, code: int, reason: str) -> None:
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())

    def cut(self) -> None:
        self.transport.abortConnection()


def server_factory(gateway: FakeGateway, reactor: Any) -> Any:
    """Return a factory of the gateway's connections; its ``closes`` has the code and reason of each end.

    Autobahn's own timers would run on a global reactor, so they are off.
    """
    factory = WebSocketServerFactory(reactor=reactor)
    factory.protocol = _Connection
    factory.noisy = False
    factory.gateway = gateway
    factory.closes = []
    factory.setProtocolOptions(
        openHandshakeTimeout=0, closeHandshakeTimeout=0, autoPingInterval=0, failByDrop=False
    )
    return factory
