"""A whole gateway in memory, and clients that speak to it over wires in memory."""

from __future__ import annotations

import json
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from gateway.config import Config
from gateway.core.attempts import FIRST_DELAY_S
from gateway.core.deviceproof import DeviceIdentity, SignedContext, signed_token
from gateway.limits import LimitsConfig
from gateway.net.websocket import GatewayProtocol
from gateway.testing import TOKEN, FakeClock, memory_gateway
from gateway.wiring import Wiring
from tests.net.wire import Wire, masked, upgrade

CLI = {"id": "cli", "version": "1.0", "platform": "linux", "mode": "cli"}
UI = {"id": "test", "version": "1.0", "platform": "linux", "mode": "ui"}
SCOPES = ["operator.admin"]
TOKENS = ("token", "deviceToken", "bootstrapToken")
"""The fields of ``auth`` that a device signs: the first that is there."""
DEVICE = DeviceIdentity.from_seed(b"\x07" * 32)


def closings(log: list[LogEvent]) -> list[LogEvent]:
    """Return the close lines."""
    return [event for event in log if str(event.get("log_format", "")).startswith("closed conn=")]


def boom(*args: Any, **kwargs: Any) -> Any:
    """Fail as nobody foresaw."""
    raise ZeroDivisionError("boom")


class FrameReader:
    """Puts a server's bytes together to messages; fails on what RFC 6455 does not allow."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind = 0
        self._pieces: list[bytes] = []
        self._closed = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (opcode, payload) of what is whole now; fragments are joined."""
        data = self._rest + data
        found = []
        at = 0
        while (end := self._end_of_frame(data, at)) is not None:
            assert not self._closed, "nothing may follow the close frame"
            first, payload = data[at], data[end[0] : end[1]]
            at, opcode = end[1], first & 0x0F
            if opcode >= 8:
                self._closed = opcode == 8
                found.append((opcode, payload))
                continue
            assert (opcode == 0) == bool(self._pieces), "a message within another"
            self._kind = opcode or self._kind
            self._pieces.append(payload)
            if first & 0x80:
                found.append((self._kind, b"".join(self._pieces)))
                self._pieces.clear()
        self._rest = data[at:]
        return found

    @staticmethod
    def _end_of_frame(data: bytes, at: int) -> tuple[int, int] | None:
        """Return where the payload of the frame there starts and ends, if it is whole."""
        head = data[at : at + 10]
        if len(head) < 2:
            return None
        length, start = head[1], at + 2
        assert not length & 0x80, "a server does not mask"
        if length > 125:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[at + 2 : start], "big")
        return (start, start + length) if start + length <= len(data) else None


class KernelQueue:
    """The bytes that the kernel holds for a peer, in real sockets of this machine: one packet each."""

    PACKET = b"x" * 1000

    def __init__(self, client: Client) -> None:
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.wire.getHandle = lambda: self._near  # type: ignore[attr-defined]

    def fill(self, packets: int) -> None:
        """Let the kernel hold so many packets more."""
        for _ in range(packets):
            self._near.send(self.PACKET)

    def drain(self) -> None:
        """Let the peer take one packet."""
        self._far.recv(len(self.PACKET))

    def close(self) -> None:
        """Close the sockets."""
        self._near.close()
        self._far.close()


class Client:
    """One client: its wire, the server's protocol at the other end, what it received."""

    def __init__(self, gate: Gate, wire: Wire, **headers: str) -> None:
        self.gate = gate
        self.wire = wire
        factory = gate.wiring.factory
        self.server: GatewayProtocol = wire.connect(factory.buildProtocol(wire.getPeer()))
        wire.receive(upgrade(**headers))
        head, _, _ = wire.sent.partition(b"\r\n\r\n")
        self.response = head.decode()
        self._seen = len(head) + 4
        self._reader = FrameReader()
        self._close: tuple[int, str] | None = None
        self._ids = 0

    @property
    def status(self) -> str:
        """The status line of the upgrade's response."""
        return self.response.splitlines()[0]

    def frames(self) -> list[tuple[int, bytes]]:
        """Return the frames that came since the last call."""
        data = self.wire.sent[self._seen :]
        self._seen += len(data)
        found = self._reader.feed(data)
        for opcode, payload in found:
            if opcode == 8:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self._close = code, payload[2:].decode()
        return found

    @staticmethod
    def decoded(payload: bytes) -> dict[str, Any]:
        """Return a JSON message."""
        message: dict[str, Any] = json.loads(payload)
        return message

    def received(self) -> list[dict[str, Any]]:
        """Return the JSON messages that came since the last call."""
        return [self.decoded(payload) for opcode, payload in self.frames() if opcode == 1]

    def closed(self) -> tuple[int, str] | None:
        """Return code and reason of the close frame, if one has come."""
        self.frames()
        return self._close

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
        """Answer the challenge; return the response to ``connect``, one that is held back included."""
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
                token=signed_token(*map(filled["auth"].get, TOKENS)),
                platform=filled["client"]["platform"],
                device_family=filled["client"].get("deviceFamily"),
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
        while len(self.gate.wiring.edge.delays):
            self.gate.clock.advance(FIRST_DELAY_S)
        answers = [m for m in self.received() if m.get("id") == frame_id]
        return answers[0] if answers else {}


class Gate:
    """The gateway of one test."""

    def __init__(self, **how: Any) -> None:
        self.clock = FakeClock()
        self.wiring: Wiring = memory_gateway(clock=self.clock, **how)

    def stall_store(self) -> list[Any]:
        """Let the store keep changes of devices waiting; return what lets it answer: each call, all after."""
        store, waiting = self.wiring.store, []
        real = store.update_pairing

        def later(device_id: str, change: Any) -> Deferred[Any]:
            done: Deferred[Any] = Deferred()

            def go() -> None:
                store.update_pairing = real  # type: ignore[method-assign]
                real(device_id, change).chainDeferred(done)

            waiting.append(go)
            return done

        store.update_pairing = later  # type: ignore[method-assign]
        return waiting

    def open(self, host: str = "127.0.0.1", **headers: str) -> Client:
        """Open a WebSocket; the challenge is there, unanswered."""
        return Client(self, Wire(host), **headers)

    def join(self, protocol: int = 4, *, host: str = "127.0.0.1", **params: Any) -> Client:
        """Open a WebSocket and let it in."""
        client = self.open(host)
        answer = client.connect(protocol, **params)
        assert answer["ok"], answer
        return client


def limited(**limits: Any) -> Gate:
    """Return a gateway with other limits."""
    return Gate(config=Config(limits=LimitsConfig(**limits)))
