"""gateway.drain: the order of a stop, and that nothing that hangs or fails keeps it from its end."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent
from zope.interface import implementer

from gateway.agents.demo import DemoBackend, DemoConfig
from gateway.drain import STOP_S, STORE_S, Drain
from gateway.errors import StoreError
from gateway.interfaces import IAgentBackend
from gateway.testing import FakeClock, memory_gateway, result_of
from tests.net.gate import Client, Gate
from tests.net.wire import close_frame

STEP_S = 0.01


@implementer(IAgentBackend)
class Agent(DemoBackend):
    """A demo agent whose stop ends as the test says."""

    def __init__(self, stopped: Deferred[None]) -> None:
        super().__init__(DemoConfig(), FakeClock())
        self.stopped = stopped

    def stopService(self) -> Any:
        super().stopService()
        return self.stopped


class Stop:
    """A stop that goes on while the test advances the clock."""

    def __init__(self, gate: Gate, listeners: Any = ()) -> None:
        self.gate = gate
        self.ended_at: float | None = None
        self._began_at = gate.clock.seconds()
        Deferred.fromCoroutine(Drain(gate.wiring, listeners).run()).addCallback(self._ended)

    def _ended(self, _: None) -> None:
        self.ended_at = self.gate.clock.seconds() - self._began_at

    def until(self, seconds: float) -> None:
        """Let so much time pass since the beginning, in small steps."""
        while self.gate.clock.seconds() - self._began_at < seconds:
            self.gate.clock.advance(STEP_S)


def answer_close(client: Client) -> None:
    """Answer the close frame, and be gone."""
    client.wire.receive(close_frame(1012))
    client.wire.lose()


def seen(client: Client) -> list[Any]:
    """Return the names of the events that came, the state of chats, and the code of the close."""
    found: list[Any] = []
    for message in client.received():
        payload = message.get("payload", {})
        found.append(payload["state"] if message.get("event") == "chat" else message.get("event"))
    return found


@pytest.mark.parametrize("protocol", [3, 4])
def test_order(protocol: int) -> None:
    """A client hears of the stop, then sees its run end, then the close; the store is closed last."""
    gate = Gate()
    client = gate.join(protocol)
    params = {"sessionKey": "main", "message": "/hang", "idempotencyKey": "run"}
    assert client.call("chat.send", params)["ok"]
    gate.clock.advance(1)
    client.frames()

    stop = Stop(gate)
    frames = client.frames()
    answer_close(client)
    stop.until(0.1)

    texts = [payload.decode() for opcode, payload in frames if opcode == 1]
    told = [text for text in texts if '"shutdown"' in text or '"aborted"' in text]
    assert '{"reason":"gateway stopping"}' in told[0]
    assert '"event":"chat"' in told[-1]
    assert [(opcode, payload) for opcode, payload in frames if opcode == 8] == [
        (8, b"\x03\xf4service restart")
    ]
    assert frames[-1][0] == 8
    assert stop.ended_at is not None
    with pytest.raises(StoreError, match="not open"):
        result_of(gate.wiring.store.get_session("agent:main:main"))


def test_client_that_does_not_answer() -> None:
    """A client that does not answer the close is cut after its grace, and the stop ends."""
    gate = Gate()
    client = gate.join()

    stop = Stop(gate)
    stop.until(0.9)
    assert stop.ended_at is None
    stop.until(1.5)

    assert ("abort",) in client.wire.log
    assert stop.ended_at == pytest.approx(1.2, abs=0.05)


def test_slow_client_gets_what_waits() -> None:
    """What waits for a slow client is sent before the close, if it reads within the grace."""
    gate = Gate()
    client = gate.join()
    client.frames()
    client.server.pauseProducing()

    stop = Stop(gate)
    stop.until(1)
    assert client.frames() == []
    client.server.resumeProducing()
    stop.until(1.1)
    frames = client.frames()
    answer_close(client)
    stop.until(1.3)

    assert [opcode for opcode, _ in frames] == [1, 8]
    assert b"gateway stopping" in frames[0][1]
    assert stop.ended_at == pytest.approx(1.1, abs=0.05)


def test_deaf_client_is_not_waited_for_for_ever() -> None:
    """A client that never reads is closed when the grace is over, and its queue discarded."""
    gate = Gate()
    client = gate.join()
    client.server.pauseProducing()

    stop = Stop(gate)
    stop.until(STOP_S)

    assert stop.ended_at is not None
    assert client.server.closing is not None
    assert client.server.closing.queued > 0


def test_hanging_agent() -> None:
    """An agent that does not stop is left behind in time for the store."""
    gate = Gate(backends={"main": Agent(Deferred())})

    stop = Stop(gate)
    stop.until(STOP_S - 2 * STEP_S)
    assert stop.ended_at is None
    stop.until(STOP_S + 2 * STEP_S)

    assert stop.ended_at == pytest.approx(STOP_S, abs=3 * STEP_S)


def test_failing_agent(
    logged_failures: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """An agent whose stop fails is logged, and everything else stops all the same."""
    expected_failures.append(OSError)
    gate = Gate(backends={"main": Agent(fail(OSError("broken")))})
    client = gate.join()

    stop = Stop(gate)
    answer_close(client)
    stop.until(0.1)

    assert [event["what"] for event in logged_failures] == ["agent main"]
    assert client.closed() == (1012, "service restart")
    assert stop.ended_at is not None


class HangingStore(Service):
    """Another store, but it does not close."""

    def __init__(self) -> None:
        self._store = memory_gateway().store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stopService(self) -> Any:
        return Deferred()


def test_hanging_store() -> None:
    """A store that does not close is given up when the time for the whole stop is over."""
    gate = Gate(store=HangingStore())

    stop = Stop(gate)
    stop.until(STOP_S + STORE_S)

    assert stop.ended_at == pytest.approx(STOP_S, abs=3 * STEP_S)


class Port:
    """A listener that stops as the test says."""

    spec = "127.0.0.1:1"

    def __init__(self, stopped: Any) -> None:
        self.stopped = stopped
        self.calls = 0

    def stopListening(self) -> Any:
        self.calls += 1
        return self.stopped


def test_ports_come_first(
    logged_failures: list[LogEvent], expected_failures: list[type[BaseException]]
) -> None:
    """Every port is closed before a client is told; one that fails does not keep the next open."""
    expected_failures.append(OSError)
    gate = Gate()
    client = gate.join()
    client.frames()
    closed: Deferred[None] = Deferred()
    ports = [Port(fail(OSError("broken"))), Port(closed), Port(None)]

    stop = Stop(gate, ports)
    assert [port.calls for port in ports] == [1, 1, 0]
    assert client.frames() == []
    closed.callback(None)
    assert [port.calls for port in ports] == [1, 1, 1]
    assert seen(client) == ["shutdown"]
    answer_close(client)
    stop.until(0.1)

    assert [event["what"] for event in logged_failures] == ["127.0.0.1:1"]
    assert stop.ended_at is not None
