"""A whole gateway in memory, and clients that speak to it over wires in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.core.deviceproof import DeviceIdentity, SignedContext
from gateway.net.websocket import GatewayProtocol
from gateway.testing import TOKEN, FakeClock, memory_gateway
from gateway.wiring import Wiring
from tests.net.wire import Wire, masked, upgrade

CLI = {"id": "cli", "version": "1.0", "platform": "linux", "mode": "cli"}
UI = {"id": "test", "version": "1.0", "platform": "linux", "mode": "ui"}
SCOPES = ["operator.admin"]


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (opcode, payload) of whole messages; fragments are joined, control frames stand between."""
    at = 0
    pending: tuple[int, bytes] | None = None
    while at < len(data):
        first, length = data[at], data[at + 1]
        assert not length & 0x80, "a server does not mask"
        at += 2
        if length == 126:
            length, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        elif length == 127:
            length, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        payload, at = data[at : at + length], at + length
        opcode = first & 0x0F
        if opcode >= 8:
            yield opcode, payload
            continue
        kind, before = pending or (opcode, b"")
        pending = (kind, before + payload)
        if first & 0x80:
            yield pending
            pending = None


class Client:
    """One client: its wire, the server's protocol at the other end, what it received."""

    def __init__(self, gate: Gate, wire: Wire, **headers: str) -> None:
        self.gate = gate
        self.wire = wire
        factory = gate.wiring.factory
        self.server: GatewayProtocol = wire.connect(factory.buildProtocol(wire.getPeer()))
        wire.receive(upgrade(**headers))
        head, _, rest = wire.sent.partition(b"\r\n\r\n")
        self.response = head.decode()
        self._seen = len(head) + 4
        del rest
        self._ids = 0

    def frames(self) -> list[tuple[int, bytes]]:
        """Return the frames that came since the last call."""
        data = self.wire.sent[self._seen :]
        self._seen += len(data)
        return list(server_frames(data))

    def received(self) -> list[dict[str, Any]]:
        """Return the JSON messages that came since the last call."""
        return [json.loads(payload) for opcode, payload in self.frames() if opcode == 1]

    def closed(self) -> tuple[int, str] | None:
        """Return code and reason of the close frame, if one came."""
        for opcode, payload in self.frames():
            if opcode == 8:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                return code, payload[2:].decode()
        return None

    def raw(self, data: bytes | str, **how: Any) -> None:
        """Send one message of these bytes."""
        self.wire.receive(masked(data.encode() if isinstance(data, str) else data, **how))

    def send(self, **frame: Any) -> None:
        """Send one JSON message."""
        self.raw(json.dumps(frame))

    def request(self, method: str, params: Any = None) -> str:
        """Send a request; return its id."""
        self._ids += 1
        frame_id = f"r{self._ids}"
        frame: dict[str, Any] = {"type": "req", "id": frame_id, "method": method}
        if params is not None:
            frame["params"] = params
        self.send(**frame)
        return frame_id

    def call(self, method: str, params: Any = None) -> dict[str, Any]:
        """Send a request; return its first response, events left aside."""
        frame_id = self.request(method, params)
        answers = [m for m in self.received() if m["type"] == "res" and m["id"] == frame_id]
        return answers[0]

    def connect(
        self,
        protocol: int = 4,
        *,
        device: DeviceIdentity | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Answer the challenge; return the response to ``connect``."""
        challenge = self.received()[0]
        nonce = challenge["payload"]["nonce"]
        filled: dict[str, Any] = {
            "minProtocol": protocol,
            "maxProtocol": protocol,
            "client": CLI,
            "role": "operator",
            "scopes": SCOPES,
            "auth": {"token": TOKEN},
        } | params
        if device is not None:
            context = SignedContext(
                client_id=filled["client"]["id"],
                client_mode=filled["client"]["mode"],
                role=filled["role"],
                scopes=tuple(filled["scopes"]),
                token=filled["auth"].get("token"),
                platform=filled["client"]["platform"],
            )
            proof = device.prove(context, nonce=nonce, signed_at_ms=self.gate.clock.now_ms())
            filled["device"] = {
                "id": proof.id,
                "publicKey": proof.public_key,
                "signature": proof.signature,
                "signedAt": proof.signed_at_ms,
                "nonce": proof.nonce,
            }
        frame_id = self.request("connect", filled)
        answers = [m for m in self.received() if m.get("id") == frame_id]
        return answers[0]


class Gate:
    """The gateway of one test."""

    def __init__(self, **how: Any) -> None:
        self.clock = FakeClock()
        self.wiring: Wiring = memory_gateway(clock=self.clock, **how)

    def open(self, host: str = "127.0.0.1", **headers: str) -> Client:
        """Open a WebSocket; the challenge is there, unanswered."""
        return Client(self, Wire(host), **headers)

    def join(self, protocol: int = 4, **params: Any) -> Client:
        """Open a WebSocket and let it in."""
        client = self.open()
        answer = client.connect(protocol, **params)
        assert answer["ok"], answer
        return client
