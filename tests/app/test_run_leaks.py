"""Very many runs leave nothing behind."""

from __future__ import annotations

import gc
from collections.abc import Sized
from random import Random
from typing import Any

import pytest

from gateway.app.admission import Admitted
from gateway.app.drive import Drive
from gateway.app.periodic import Pruner
from gateway.app.sink import Sink
from gateway.app.turn import Turn
from gateway.core.events import Event
from gateway.core.run import Run, RunOutput
from gateway.errors import BackendError
from gateway.model import Message, Role, RunRequest
from tests.app.briefstore import BriefStore
from tests.app.harness import Call, Client, FakeConnection, Gate, Live, make_caller
from tests.unmeasured import unmeasured

RUNS = 20_000
AT_ONCE = 25
SESSIONS = 12
LOST = "lost client"
EXITS = ("success", "error", "abort", "timeout", "worker death", LOST)


class QuietConnection(FakeConnection):
    """Has its events encoded, and forgets them."""

    def deliver(self, event: Event) -> None:
        assert event.encoded(self.protocol, 1)


def make_turn(run_id: str, key: str, timeout_s: float | None) -> Turn:
    """Return a request for a run, as a method makes it."""
    request = RunRequest(
        run_id=run_id,
        session_key=f"agent:main:{key}",
        session_id="",
        agent_id="main",
        text="hello",
        timeout_s=timeout_s,
    )
    message = Message(message_id=run_id, role="user", content=[], timestamp_ms=0, run_id=run_id)
    return Turn(request, message, fingerprint=run_id, origin="chat", actor="a")


class Crowd:
    """A gateway, and clients that come, ask for some runs and are lost."""

    def __init__(self) -> None:
        self.random = Random(20_260_101)
        self.store = BriefStore()
        self.gate = Gate(self.script, store=self.store)
        self.runs = self.gate.runs
        self.connected = 0
        self.terminal: dict[str, int] = {}
        self.gate.runs.add_listener(self.count)

    def script(self, live: Live) -> Any:
        """Say something, sometimes; end when the test says so."""
        if self.random.random() < 0.1:
            live.sink.text("some text")
            live.sink.emit("tool", {"phase": "start", "name": "ls", "toolCallId": "t"})
            live.sink.text(" and more")
        return live.done

    def count(self, output: RunOutput) -> None:
        """Count the ends of each run."""
        if output.outcome is not None:
            run_id = output.run.run_id
            self.terminal[run_id] = self.terminal.get(run_id, 0) + 1

    def join(self, **who: Any) -> Client:
        """Connect a client, as the network would."""
        self.connected += 1
        caller = make_caller(f"c{self.connected}", 3 + self.connected % 2, **who)
        connection = QuietConnection(caller)
        self.gate.wiring.edge.attach(connection, Admitted(caller.principal), "1")
        return Client(self.gate, connection)

    def visitor(self) -> Client:
        """Connect a person's client that follows sessions, or a device that speaks."""
        kind = self.random.randrange(8)
        if kind == 0:
            return self.join(role=Role.NODE, scopes=(), device_id=f"d{self.connected}")
        mode = "ui" if kind == 1 else "cli"
        client = self.join(scopes=("operator.write",), caps=("tool-events",), mode=mode)
        client.ok("sessions.subscribe")
        client.ok("sessions.messages.subscribe", {"key": "s1"})
        for run_id in list(self.runs._drives)[:3]:
            client.ok("runs.follow", {"runId": run_id})
        return client

    def ask(self, run_id: str, key: str, visitor: Client) -> tuple[str, Call]:
        """Ask for a run as a client does; return its id and the request."""
        if not visitor.connection.caller.is_node:
            params = {"message": "hello", "idempotencyKey": run_id, "sessionKey": key}
            return run_id, visitor.call("agent", params)
        payload = {"text": f"words {run_id}", "eventId": run_id, "sessionKey": key}
        call = visitor.call("node.event", {"event": "voice.transcript", "payload": payload})
        return next(reversed(self.runs._drives)), call

    def start(self, first: int) -> list[tuple[str, str]]:
        """Start some runs; those who asked for the first of them are lost at once."""
        visitor, calls, going = self.visitor(), [], []
        exits = sorted(self.random.choices(EXITS, k=AT_ONCE), key=lambda exit_: exit_ != LOST)
        for number, exit_ in enumerate(exits, first):
            run_id, key = f"r{number}", f"s{self.random.randrange(SESSIONS)}"
            if exit_ == LOST:
                run_id, call = self.ask(run_id, key, visitor)
                calls.append(call)
            else:
                self.lose(visitor, calls)
                self.runs.start(make_turn(run_id, key, 1.0 if exit_ == "timeout" else None))
            going.append((run_id, exit_))
        self.lose(visitor, calls)
        self.random.shuffle(going)
        return going

    def lose(self, visitor: Client, calls: list[Call]) -> None:
        """Do what the loss of a connection does."""
        for call in calls:
            if call.working is not None and not call.working.called:
                call.cancel()
        calls.clear()
        visitor.leave()

    def end(self, run_id: str, exit_: str) -> None:
        """Let a run end, if its turn has come; a timeout is the clock's business."""
        live = self.gate.backend.live.get(run_id)
        if exit_ == "abort":
            self.runs.abort(run_id, "rpc")
        elif live is None or exit_ == "timeout":
            return
        elif exit_ == "error":
            live.done.errback(BackendError("it did not work"))
        elif exit_ == "worker death":
            live.done.errback(BackendError("the agent's process died"))
        else:
            live.end()

    def round(self, first: int) -> None:
        """Start some runs, and let them end in random order."""
        going = self.start(first)
        while going:
            for run_id, exit_ in going:
                if run_id in self.runs._drives:
                    self.end(run_id, exit_)
            self.gate.clock.advance(self.random.choice((0, 0.05, 0.4)))
            going = [entry for entry in going if entry[0] in self.runs._drives]
        self.gate.backend.live.clear()
        self.gate.backend.started.clear()


def alive(*kinds: type) -> dict[int, Any]:
    """Return the objects of some classes that are alive, by their identity."""
    gc.collect()
    return {id(thing): thing for thing in gc.get_objects() if isinstance(thing, kinds)}


@pytest.mark.timeout(180)
@unmeasured
def test_nothing_of_a_run_stays() -> None:
    """Sequence state of a run is gone when the run is gone: after 20,000 runs (in memory, on a Clock, registries swept by one timer each) that end by success, error, abort, timeout, worker death and lost client in random order, every registry is empty and no `Run` object is alive."""  # noqa: E501
    of_other_tests = alive(Run, Drive, Sink)
    crowd = Crowd()
    gate, services = crowd.gate, crowd.gate.services
    pruner = Pruner(gate.clock, gate.wiring.registries)
    pruner.startService()

    for first in range(0, RUNS, AT_ONCE):
        crowd.round(first)
    gate.clock.pump([60.0] * 7)

    assert len(crowd.terminal) == crowd.store.ended == RUNS
    assert set(crowd.terminal.values()) == {1}
    assert alive(Run, Drive, Sink).keys() <= of_other_tests.keys()
    runs = services.runs
    registries: dict[str, Sized] = {
        "runs": runs,
        "lanes": runs.lanes,
        "idempotency keys": runs.window.claims,
        "events that wait": runs.log,
        "requests that are looked at": runs.coming,
        "waits": runs._awaited,
        "voice": services.voice,
        "voice locks": services.voice._deciding,
        "presence": services.presence,
        "follows": services.follows,
        "live follows": services.follows._live,
        "ends on their way": runs.log._endings,
        "connections": services.hub,
        "budgets": services.hub._held,
        "followers": services.hub._followers,
        "watched sessions": services.hub._watched,
        "nodes": services.nodes,
        "open runs": crowd.store.runs,
    }
    assert {name: len(registry) for name, registry in registries.items()} == dict.fromkeys(
        registries, 0
    )
    assert len(gate.clock.getDelayedCalls()) == 1, "only the pruner's next pass is pending"
    pruner.stopService()
    assert gate.clock.getDelayedCalls() == []
