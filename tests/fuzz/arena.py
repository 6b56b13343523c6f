"""One gateway in memory for one input, and what has to hold of it whatever the input was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import LogEvent, globalLogPublisher

from gateway.errors import CloseCause
from tests.net.gate import DEVICE, Client, Gate, closings

MAX_KNOWN = 6
NAMES = ("Id", "key", "Key", "id", "model", "hash", "name")
ALIKE = {"sessionKey": "key", "idempotencyKey": "runId"}
"""Names that mean the same."""
KNOWN = {
    "key": ["main"],
    "nodeId": [DEVICE.device_id],
    "deviceId": [DEVICE.device_id],
    "command": ["system.run", "system.notify", "/usr/bin/git status"],
    "role": ["operator", "node"],
    "decision": ["allow-once", "allow-always", "deny"],
    "host": ["node", "gateway"],
    "payloadJSON": ['{"ok":true}', '{"exitCode":0,"stdout":"x"}', "[", "null"],
    "event": [
        *("voice.transcript", "agent.request", "exec.started", "exec.finished", "exec.denied"),
        *("node.presence.alive", "node.presence.activity", "node.host.stats", "push.apns.register"),
        *("notifications.changed", "chat.subscribe", "chat.unsubscribe"),
    ],
}
"""What names stand for something from the start."""
OUR_FAULTS = {CloseCause.INTERNAL_ERROR.value, CloseCause.SEND_ERROR.value}


class Broken(AssertionError):
    """Something does not hold that must hold for any input."""


class Arena:
    """A gateway and those who attack it."""

    def __init__(self) -> None:
        self.log: list[LogEvent] = []
        self.gate = Gate()
        self.clients: list[Client] = []
        self._ended = 0
        self.known = {name: list(values) for name, values in KNOWN.items()}

    def open(self, host: str = "127.0.0.1", **headers: str) -> Client:
        """Open a WebSocket."""
        client = self.gate.open(host, **headers)
        self.clients.append(client)
        return client

    def lose(self, client: Client) -> None:
        """Cut a connection."""
        self.learn(client)
        self.clients.remove(client)
        self._ended += 1
        client.wire.lose()

    def learn(self, client: Client) -> None:
        """Read what a client was sent: no answer says that something broke; names are kept for later."""
        try:
            frames = client.received()
        except (AssertionError, ValueError) as error:
            raise Broken(f"bytes that no client can read: {error}") from error
        for frame in frames:
            if frame.get("type") == "res" and not frame.get("ok"):
                text = str(frame.get("error", {}).get("message"))
                if "internal error" in text or "the store failed" in text:
                    raise Broken(f"answered {text!r}")
            self.note(frame.get("payload") or {})

    def note(self, value: Any, depth: int = 4) -> None:
        """Remember the names in something, by what they are called."""
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, str) and str(name).endswith(NAMES):
                kept = self.known.setdefault(ALIKE.get(str(name), str(name)), [])
                if inner not in kept and len(kept) < MAX_KNOWN:
                    kept.append(inner)
            elif isinstance(inner, dict | list) and depth:
                self.note(inner, depth - 1)

    def finish(self) -> None:
        """End everything, and check that nothing is left and nothing went wrong."""
        gate, wiring = self.gate, self.gate.wiring
        for client in list(self.clients):
            self.lose(client)
        for run in list(wiring.services.runs._drives):
            wiring.services.runs.abort(run, "fuzz")
        gate.clock.advance(1)
        gate.clock.advance(90_000)
        self.check_log()
        edge = wiring.edge
        left = {
            "connections": len(wiring.factory.open_connections),
            "hub": len(wiring.services.hub),
            "strangers": len(edge.strangers),
            "deadlines": len(edge.deadlines) + len(edge.farewells) + len(edge.halfway),
            "runs": len(wiring.services.runs),
            "invocations": len(wiring.services.invocations),
            "held back": len(edge.delays),
            "followers": len(wiring.services.hub._followers) + len(wiring.services.hub._watched),
        }
        if any(left.values()):
            raise Broken(f"left behind: { {k: v for k, v in left.items() if v} }")

    def check_log(self) -> None:
        """No failure was logged, and every connection ended with a cause that is not our fault."""
        for event in self.log:
            failure = event.get("log_failure")
            if failure is not None:
                raise Broken(f"logged: {failure.getTraceback()}")
        lines = closings(self.log)
        if len(lines) != self._ended:
            raise Broken(f"{len(lines)} close lines of {self._ended} connections")
        for line in lines:
            if line["cause"] in OUR_FAULTS or line["cause"] not in set(CloseCause):
                raise Broken(f"closed with cause {line['cause']}")
            json.dumps({k: v for k, v in line.items() if not k.startswith("log_")})


@contextmanager
def arena() -> Iterator[Arena]:
    """Return a fresh gateway; check it when all is done."""
    made = Arena()
    observer: Any = made.log.append
    globalLogPublisher.addObserver(observer)
    try:
        yield made
        made.finish()
    finally:
        globalLogPublisher.removeObserver(observer)
        made.gate.wiring.store.stopService()
