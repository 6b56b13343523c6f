"""A gateway by script: an Autobahn server whose answers a test decides, over iosim or a real port."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.test import iosim
from zope.interface import implementer

TOKEN = "t-secret-1"

HELLO: dict[str, Any] = {
    "type": "hello-ok",
    "protocol": 4,
    "server": {"version": "1.2.3", "connId": "c-1"},
    "features": {"methods": ["health", "chat.send", "chat.abort"], "events": ["tick", "chat"]},
    "auth": {"method": "token", "role": "operator", "scopes": ["operator.admin"]},
    "policy": {"tickIntervalMs": 30_000, "maxPayload": 26_214_400},
}


class ScriptedConnection(WebSocketServerProtocol):  # type: ignore[misc]
    """One connection of the scripted gateway."""

    def onOpen(self) -> None:
        self.factory.script.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.script.received(self, json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.script.closes.append((wasClean, code, reason))
        self.factory.script.live.discard(self)

    def send(self, **frame: Any) -> None:
        self.sendMessage(json.dumps(frame).encode())

    def event(self, name: str, payload: Any = None, seq: int | None = None) -> None:
        numbered = {} if seq is None else {"seq": seq}
        self.send(type="event", event=name, payload=payload, **numbered)

    def answer(self, frame: dict[str, Any], payload: Any = None) -> None:
        self.send(type="res", id=frame["id"], ok=True, payload=payload)

    def refuse(self, frame: dict[str, Any], code: str, message: str, **more: Any) -> None:
        error = {"code": code, "message": message, **more}
        self.send(type="res", id=frame["id"], ok=False, error=error)

    def chat(self, run_id: str, state: str, seq: int = 1, **payload: Any) -> None:
        text = payload.pop("text", None)
        if text is not None:
            block = {"type": "text", "text": text}
            payload["message"] = {"role": "assistant", "content": [block]}
        base = {"runId": run_id, "sessionKey": "agent:main:main", "seq": seq, "state": state}
        self.event("chat", {**base, **payload})

    def hang_up(self, code: int, reason: str) -> None:
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())


Handler = Callable[[ScriptedConnection, dict[str, Any]], None]


class Script:
    """What the scripted gateway does; handlers by method, the rest is unknown."""

    def __init__(self, **handlers: Handler) -> None:
        self.hello = HELLO
        self.challenge: dict[str, Any] | None = {"nonce": "n-1", "ts": 1_700_000_000_000}
        self.handlers: dict[str, Handler] = {
            "connect": self.connect,
            "health": lambda connection, frame: connection.answer(frame, {"ok": True}),
            **{name.replace("_", "."): handler for name, handler in handlers.items()},
        }
        self.frames: list[dict[str, Any]] = []
        self.connections: list[ScriptedConnection] = []
        self.live: set[ScriptedConnection] = set()
        self.closes: list[tuple[bool, int | None, str | None]] = []

    def opened(self, connection: ScriptedConnection) -> None:
        self.connections.append(connection)
        self.live.add(connection)
        if self.challenge is not None:
            connection.event("connect.challenge", self.challenge)

    def received(self, connection: ScriptedConnection, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        handler = self.handlers.get(frame["method"])
        if handler is None:
            connection.refuse(frame, "INVALID_REQUEST", f"unknown method: {frame['method']}")
        else:
            handler(connection, frame)

    def connect(self, connection: ScriptedConnection, frame: dict[str, Any]) -> None:
        auth = frame["params"].get("auth", {})
        if auth.get("token") == TOKEN:
            connection.answer(frame, self.hello)
            return
        missing = "token" not in auth
        code = "AUTH_TOKEN_MISSING" if missing else "AUTH_TOKEN_MISMATCH"
        message = f"unauthorized: gateway token {'missing' if missing else 'mismatch'}"
        connection.refuse(frame, "INVALID_REQUEST", message, details={"code": code})
        connection.hang_up(1008, message)

    @property
    def methods(self) -> list[str]:
        """The methods called so far, connect aside."""
        return [frame["method"] for frame in self.frames if frame["method"] != "connect"]

    def params(self, method: str) -> Any:
        """The params of the last call of a method."""
        return [frame for frame in self.frames if frame["method"] == method][-1].get("params")


def server_factory(script: Script, reactor: Any) -> Any:
    """Make the server's side. Its timers would run on a global reactor, so they are off."""
    factory = WebSocketServerFactory(reactor=reactor)
    factory.protocol = ScriptedConnection
    factory.noisy = False
    factory.script = script
    factory.setProtocolOptions(
        openHandshakeTimeout=0, closeHandshakeTimeout=0, autoPingInterval=0, failByDrop=False
    )
    return factory


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects a client to the scripted gateway in memory; ``flush`` moves the bytes."""

    def __init__(self, script: Script, clock: Any) -> None:
        self._factory = server_factory(script, clock)
        self.pump: Any = None

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        client = protocolFactory.buildProtocol(None)
        server = self._factory.buildProtocol(None)
        self.pump = iosim.connect(
            server,
            iosim.makeFakeServer(server),
            client,
            iosim.makeFakeClient(client),
            greet=False,
        )
        return succeed(client)

    def flush(self) -> None:
        self.pump.flush()

    def break_socket(self) -> None:
        """Lose the connection without a close frame."""
        for transport in (self.pump.clientIO, self.pump.serverIO):
            transport.disconnectReason = ConnectionLost()
        self.pump.serverIO.abortConnection()
        self.flush()
