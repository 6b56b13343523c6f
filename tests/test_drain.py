"""gateway.drain: the order of a stop, and that nothing that hangs or fails keeps it from its end."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent
from zope.interface import implementer

from gateway.agents.demo import DemoBackend, DemoConfig
from gateway.app.operations import StopOrder
from gateway.drain import AT_ONCE, RATE, STOP_S, STORE_S, Shutdown
from gateway.errors import StoreError
from gateway.interfaces import IAgentBackend
from gateway.model import RunRecord, RunState
from gateway.testing import FakeClock, memory_gateway, memory_store, result_of
from tests.app.faults import FaultyStore
from tests.net.gate import Client, Gate
from tests.net.wire import close_frame

STEP_S = 0.01
RUNS_S = 1.8
"""How long runs may go on, of the default grace."""


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

    def __init__(self, gate: Gate, listeners: Any = (), order: StopOrder | None = None) -> None:
        self.gate = gate
        self.ended_at: float | None = None
        self._began_at = gate.clock.seconds()
        self.shutdown = Shutdown(gate.wiring, lambda: None)
        self.shutdown.order = order
        work = Deferred.fromCoroutine(self.shutdown.run(listeners))
        work.addCallback(self._ended)

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


def stored(gate: Gate, run: str = "run") -> RunRecord:
    """Return a run as the store has it."""
    record: RunRecord | None = result_of(gate.wiring.store.get_run(run))
    assert record is not None
    return record


def seen(client: Client) -> list[Any]:
    """Return the names of the events that came, the state of chats, and the code of the close."""
    found: list[Any] = []
    for message in client.received():
        payload = message.get("payload", {})
        found.append(payload["state"] if message.get("event") == "chat" else message.get("event"))
    return found


def hang(client: Client, run: str = "run", text: str = "/hang", key: str = "main") -> None:
    """Start a run."""
    params = {"sessionKey": key, "message": text, "idempotencyKey": run}
    assert client.call("chat.send", params)["ok"]


@pytest.mark.parametrize(
    ("protocol", "expected", "payload"),
    [
        (3, None, {"reason": "deploy", "restartExpectedMs": None}),
        (4, None, {"reason": "deploy"}),
        (3, 2500, {"reason": "deploy", "restartExpectedMs": 2500}),
        (4, 2500, {"reason": "deploy", "restartExpectedMs": 2500}),
    ],
)
def test_what_clients_are_told(
    protocol: int, expected: int | None, payload: dict[str, Any]
) -> None:
    """Clients are told why, and when the gateway will be back; version 3 says null if that is not known."""
    gate = Gate()
    client = gate.join(protocol)
    client.frames()

    stop = Stop(gate, order=StopOrder(3.0, "deploy", expected))

    (told,) = client.received()
    assert (told["event"], told["payload"]) == ("shutdown", payload)
    answer_close(client)
    stop.until(0.1)


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
    stop.until(RUNS_S - STEP_S)
    assert seen(client) == ["shutdown"]
    stop.until(RUNS_S + 0.1)
    frames = client.frames()
    answer_close(client)
    stop.until(RUNS_S + 0.2)

    texts = [payload.decode() for opcode, payload in frames if opcode == 1]
    assert '"event":"chat"' in [text for text in texts if '"aborted"' in text][-1]
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


def test_store_that_takes_no_end() -> None:
    """Where the store does not take the end of a run, its client sees the end all the same, then 1012."""
    clock = FakeClock()
    store = FaultyStore(memory_store(clock))
    gate = Gate(store=store)
    client = gate.join()
    hang(client)
    store.hanging.add("finish_turn")

    stop = Stop(gate)
    stop.until(3.1)

    events = seen(client)
    assert events.count("aborted") == 1
    assert client.closed() == (1012, "service restart")
    store.release()
    answer_close(client)
    stop.until(3.2)
    assert stop.ended_at is not None


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


def test_idle_gateway_stops_at_once() -> None:
    """Without runs, a few clients are told and closed in the same turn."""
    gate = Gate()
    clients = [gate.join() for _ in range(5)]

    stop = Stop(gate)
    for client in clients:
        assert client.closed() == (1012, "service restart")
        answer_close(client)
    stop.until(0.05)

    assert stop.ended_at == pytest.approx(0.02, abs=0.015)


def test_run_that_ends_within_the_grace() -> None:
    """A run may finish within the grace: its client sees the whole answer, then the close, and at once."""
    gate = Gate()
    client, watcher = gate.join(), gate.join(3)
    hang(client, text="/tokens 20")

    stop = Stop(gate)
    stop.until(0.1)
    assert client.closed() is None
    assert watcher.closed() is None
    stop.until(1)

    for each in (client, watcher):
        assert "final" in seen(each)
        assert each.closed() == (1012, "service restart")
    assert stored(gate).state is RunState.DONE
    for each in (client, watcher):
        answer_close(each)
    stop.until(1.05)
    assert stop.ended_at is not None


def test_run_beyond_the_grace() -> None:
    """A run that goes on is ended when the runs' part of the grace is over, stored, told once."""
    gate = Gate()
    client = gate.join()
    hang(client)

    stop = Stop(gate, order=StopOrder(60.0))
    stop.until(58.75)
    assert client.closed() is None
    stop.until(58.9)

    events = seen(client)
    assert events.count("aborted") == 1
    assert client.closed() == (1012, "service restart")
    record = stored(gate)
    answer_close(client)
    stop.until(59.0)
    assert stop.ended_at is not None
    assert (record.state, record.stop_reason) == (RunState.ABORTED, "shutdown")


def test_waiting_run() -> None:
    """A run that waits for its turn is not begun, gets no end, and stays open in the store."""
    gate = Gate()
    client = gate.join()
    hang(client, "first")
    hang(client, "second")
    client.frames()

    stop = Stop(gate)
    stop.until(RUNS_S + 0.1)
    ends = [
        (message["payload"]["runId"], message["payload"]["state"])
        for message in client.received()
        if message.get("event") == "chat"
    ]
    assert stored(gate, "second").state is RunState.ACCEPTED
    answer_close(client)
    stop.until(RUNS_S + 0.2)

    assert ends == [("first", "aborted")]


def test_no_new_runs() -> None:
    """While the gateway drains, requests are served but for new runs, which are refused for a while."""
    gate = Gate()
    client = gate.join()
    hang(client)

    stop = Stop(gate)
    params = {"sessionKey": "other", "message": "hello", "idempotencyKey": "late"}
    refused = client.call("chat.send", params)["error"]
    assert (refused["code"], refused["retryable"]) == ("UNAVAILABLE", True)
    assert refused["retryAfterMs"] == 1000
    assert client.call("health")["ok"]

    stop.shutdown.hurry()
    stop.until(0.1)
    answer_close(client)
    stop.until(0.2)


def test_strangers_are_turned_away() -> None:
    """Connections that are not authenticated yet are closed at once, so that nobody new comes in."""
    gate = Gate()
    client = gate.join()
    hang(client)
    stranger = gate.open()

    stop = Stop(gate)

    assert stranger.closed() == (1012, "service restart")
    assert client.closed() is None
    stop.shutdown.hurry()
    stop.until(STOP_S)


def test_hurry() -> None:
    """A second signal leaves no more grace: the run is ended at once, with its one end, and all is over."""
    gate = Gate()
    client = gate.join()
    hang(client)

    stop = Stop(gate, order=StopOrder(60.0))
    stop.until(1)
    stop.shutdown.hurry()
    stop.until(1.05)

    assert seen(client).count("aborted") == 1
    assert client.closed() == (1012, "service restart")
    answer_close(client)
    stop.until(1.1)
    assert stop.ended_at is not None


def test_hurry_with_a_deaf_client() -> None:
    """In a hurry a client that does not read is not waited for."""
    gate = Gate()
    client = gate.join()
    client.server.pauseProducing()

    stop = Stop(gate, order=StopOrder(60.0))
    stop.until(1)
    stop.shutdown.hurry()
    stop.until(1 + 2)

    assert stop.ended_at is not None
    assert stop.ended_at < 1 + 2


def test_hurry_before_it_stops() -> None:
    """There is nothing to hurry in a gateway that does not stop."""
    gate = Gate()

    Shutdown(gate.wiring, lambda: None).hurry()

    assert gate.join().call("health")["ok"]


def test_no_grace() -> None:
    """Without any grace a run is ended at once, and its end still stored and told before the close."""
    gate = Gate()
    client = gate.join()
    hang(client)

    stop = Stop(gate, order=StopOrder(0.0))
    stop.until(0.05)

    assert "aborted" in seen(client)
    assert client.closed() == (1012, "service restart")
    assert stored(gate).state is RunState.ABORTED
    answer_close(client)
    stop.until(0.1)


class Crowd:
    """Connections that note when they were closed, in the factory of a gateway."""

    class Member:
        """One of them; it answers the close at once."""

        context = object()
        answering = False
        closing: object = None

        def __init__(self, crowd: Crowd, conn_id: str) -> None:
            self.crowd = crowd
            self.conn_id = conn_id
            self.waiting = False
            self.closed_at: float | None = None

        def close(self, cause: object, code: int, reason: str) -> None:
            """Note the time."""
            assert (code, reason) == (1012, "service restart")
            self.closed_at = self.crowd.gate.clock.seconds()
            self.crowd.gate.wiring.factory.forget(cast(Any, self))

    def __init__(self, gate: Gate, count: int) -> None:
        self.gate = gate
        self.members = [self.Member(self, f"c{number}") for number in range(count)]
        for member in self.members:
            gate.wiring.factory.remember(cast(Any, member))

    def closes(self) -> list[float]:
        """Return when they were closed, in order."""
        return sorted(each.closed_at for each in self.members if each.closed_at is not None)


def busiest(moments: list[float], seconds: float) -> int:
    """Return the most that happened within a stretch of time."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize(("grace", "over"), [(3.0, 2.5), (60.0, 19.9)])
def test_many_closes_are_spread(grace: float, over: float) -> None:
    """10,000 clients are closed evenly over most of the grace, or at 500 a second if there is time."""
    gate = Gate()
    crowd = Crowd(gate, 10_000)

    stop = Stop(gate, order=StopOrder(grace))
    stop.until(over + 0.1)

    moments = crowd.closes()
    assert len(moments) == 10_000
    assert moments[-1] == pytest.approx(over, abs=0.05)
    assert stop.ended_at == pytest.approx(over, abs=0.05)
    share = 10_000 / over
    assert busiest(moments, 1.0) < share * 1.05 + AT_ONCE
    assert busiest(moments[AT_ONCE:], 0.1) < share * 0.1 * 1.3
    assert moments[5_000] == pytest.approx(over / 2, rel=0.05)


def test_a_crowd_stays_while_a_run_goes() -> None:
    """While a run goes its watchers stay as long as there is time to spread their closes."""
    gate = Gate()
    client = gate.join()
    hang(client)
    crowd = Crowd(gate, 1_000)

    stop = Stop(gate, order=StopOrder(10.0))
    spread = (1_001 - AT_ONCE) / RATE
    stop.until(9.5 - spread - 0.05)
    assert crowd.closes() == []
    stop.until(8.75)
    assert 100 < len(crowd.closes()) < 900
    assert client.closed() is None
    stop.until(8.9)
    assert client.closed() == (1012, "service restart")
    answer_close(client)
    stop.until(10.1)

    assert len(crowd.closes()) == 1_000
    assert busiest(crowd.closes()[AT_ONCE:], 1.0) <= RATE * 1.05
    assert stop.ended_at == pytest.approx(9.5, abs=0.1)


def test_a_slow_one_in_a_crowd() -> None:
    """A client that still has something to read is closed when it has read it, or last."""
    gate = Gate()
    crowd = Crowd(gate, 10)
    crowd.members[0].waiting = crowd.members[1].waiting = True

    stop = Stop(gate)
    stop.until(1)
    assert len(crowd.closes()) == 8
    crowd.members[0].waiting = False
    stop.until(1.05)
    assert len(crowd.closes()) == 9
    stop.until(3.05)

    assert crowd.members[1].closed_at == pytest.approx(3.0, abs=0.05)
    assert stop.ended_at is not None


def test_asked_to_stop() -> None:
    """Who asks for the stop gets it from the next turn on; asked again, it is hurried."""
    gate = Gate()
    client = gate.join()
    hang(client)
    asked: list[str] = []
    shutdown = Shutdown(gate.wiring, lambda: asked.append("stop"))

    answer = client.call("gateway.drain", {"graceMs": 60_000, "reason": "deploy"})["payload"]
    assert answer == {
        "draining": True,
        "graceMs": 60_000,
        "runs": 1,
        "waitingRuns": 0,
        "connections": 1,
        "pid": 1,
    }
    assert asked == []
    params = {"sessionKey": "other", "message": "hello", "idempotencyKey": "late"}
    assert client.call("chat.send", params)["error"]["retryable"]
    gate.clock.advance(0)
    assert asked == ["stop"]

    ended: list[Any] = []
    Deferred.fromCoroutine(shutdown.run(())).addCallback(ended.append)
    told = [m for m in client.received() if m.get("event") == "shutdown"]
    assert told[0]["payload"] == {"reason": "deploy"}
    gate.clock.advance(1)
    assert client.call("gateway.drain")["payload"]["graceMs"] == 0
    for _ in range(5):
        gate.clock.advance(0.02)
    assert client.closed() == (1012, "service restart")
    answer_close(client)
    gate.clock.advance(0.02)
    assert ended == [None]
    assert asked == ["stop"]
