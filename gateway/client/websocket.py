"""Autobahn's WebSocket client, reduced to what a driver wants to know.

Autobahn's own timers run on a global reactor, so all of them are off: whoever owns the connection
bounds how long it may take to open, to stay silent and to close.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol

import gateway
from gateway.client.loop import Owner
from gateway.client.options import MAX_FRAME_BYTES, Target

CLOSE_NO_STATUS = 1005


class _Protocol(WebSocketClientProtocol):  # type: ignore[misc]
    factory: ClientFactory

    def send(self, payload: bytes) -> None:
        self.sendMessage(payload)

    def close(self, code: int, reason: bytes) -> None:
        self.sendCloseFrame(code=code, reasonUtf8=reason)

    def abort(self) -> None:
        self.transport.abortConnection()

    def onOpen(self) -> None:
        self.factory.owner.upgraded(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.owner.frame_received(payload)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> Any:  # noqa: N803
        result = super().onCloseFrame(code, reasonRaw)
        if not self.failedByMe:
            seen = CLOSE_NO_STATUS if self.remoteCloseCode is None else self.remoteCloseCode
            self.factory.owner.ended(seen, self.remoteCloseReason or "")
        return result

    def sendCloseFrame(
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: N803
    ) -> None:
        super().sendCloseFrame(code=code, reasonUtf8=reasonUtf8, isReply=isReply)
        self.factory.owner.closing()
        if self.failedByMe and code is not None:
            self.factory.owner.ended(code, (reasonUtf8 or b"").decode("utf-8", "replace"))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.owner.lost(self.wasNotCleanReason or reason or "")


class ClientFactory(WebSocketClientFactory):  # type: ignore[misc]
    """Makes the one WebSocket of an owner."""

    protocol = _Protocol
    noisy = False

    def __init__(self, owner: Owner, target: Target, reactor: Any) -> None:
        agent = f"txgateway/{gateway.__version__}"
        super().__init__(target.request_url, useragent=agent, reactor=reactor)
        self.owner = owner
        if ":" in target.host:
            self.host = f"[{target.host}]"  # for the Host header
        self.setProtocolOptions(
            maxFramePayloadSize=MAX_FRAME_BYTES,
            maxMessagePayloadSize=MAX_FRAME_BYTES,
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            autoPingInterval=0,
        )
