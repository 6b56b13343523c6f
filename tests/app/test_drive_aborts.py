"""Aborts and timeouts, in every phase of a run."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.run import RunOutput
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.harness import Gate

Gates = Callable[..., Gate]


def test_abort_while_accepting(gate: Gate) -> None:
    """A run aborted before the store has it ends unstarted, for the first reason, once the store has it."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    call = client.send("hello")

    first = client.ok("chat.abort", {"sessionKey": "main"})
    second = client.send("/stop", run="r2").payload
    before = client.ends()
    gate.store.release()

    assert first == second == {"ok": True, "aborted": True, "runIds": ["r1"]}
    assert before == ([], [])
    assert call.payload["status"] == "started"
    assert client.ends() == (["aborted"], ["end"])
    assert client.events("chat")[-1]["stopReason"] == "rpc"
    assert gate.backend.started == []


def test_abort_while_waiting_in_the_lane(gate: Gate) -> None:
    """A run that waits for its turn can be aborted; the one that goes is not touched."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    client.send("three", run="r3")

    client.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})

    assert client.ends("r2") == (["aborted"], ["end"])
    assert client.ends("r1") == ([], [])
    gate.live("r1").end()
    assert gate.backend.started == ["r1", "r3"]


def test_abort_while_running(gate: Gate) -> None:
    """A running run is aborted at once: its backend is cancelled, its partial text is sent and kept."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("par")
    gate.live().sink.text("tial")

    client.ok("chat.abort", {"sessionKey": "main"})

    assert gate.live().cancelled
    assert client.ends() == (["aborted"], ["end"])
    final = client.events("chat")[-1]
    assert final["message"]["content"] == [{"type": "text", "text": "partial"}]
    assert gate.messages()[-1] == ("assistant", "partial")
    session = result_of(gate.store.get_session("agent:main:main"))
    assert session.aborted_last_run


def test_abort_of_a_run_that_is_about_to_be_announced(gate: Gate) -> None:
    """A run that has ended, and whose end is not yet told, is none that an abort ends."""
    client = gate.client()
    client.send("hello")
    gate.store.hanging.add("finish_turn")
    gate.live().end()

    aborted = client.ok("chat.abort", {"sessionKey": "main"})
    gate.store.release()

    assert aborted == {"ok": True, "aborted": False, "runIds": []}
    assert client.ends() == (["final"], ["end"])


def test_the_first_end_counts(gate: Gate) -> None:
    """A run that has ended does not end again, however it is asked to."""
    client = gate.client()
    client.send("hello")
    drive = gate.runs._drives["r1"]
    drive.finish(RunState.DONE)
    drive.finish(RunState.FAILED, error="again")
    drive.abort("again")

    assert client.ends() == (["final"], ["end"])


def test_a_listener_that_aborts(gate: Gate) -> None:
    """A run that a listener ends on its first event never reaches its backend."""
    client = gate.client()

    def listener(output: RunOutput) -> None:
        gate.runs.abort("r1", "listener")

    gate.runs.add_listener(listener)

    client.send("hello")

    assert client.ends() == (["aborted"], ["end"])
    assert gate.backend.started == []


def test_timeout(gate: Gate) -> None:
    """A run that takes too long is aborted with the reason timeout."""
    client = gate.client()
    client.send("hello", timeoutMs=1500)

    gate.clock.advance(1.4)
    before = client.ends()
    gate.clock.advance(0.2)

    assert before == ([], [])
    assert client.ends() == (["aborted"], ["end"])
    assert client.events("chat")[-1]["stopReason"] == "timeout"
    assert gate.live().cancelled


def test_the_agents_timeout(gate: Gate) -> None:
    """A request that says nothing has the agent's timeout, and 0 asks for the longest there is."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", key="other", run="r2", timeoutMs=0)

    gate.clock.advance(601)

    assert client.ends("r1") == (["aborted"], ["end"])
    assert client.ends("r2") == ([], [])
    gate.clock.advance(86_400)
    assert client.ends("r2") == (["aborted"], ["end"])


def test_an_agent_without_a_timeout(gate: Gate) -> None:
    """An agent with timeout 0 is given all the time it wants."""
    object.__setattr__(gate.services.agents.default, "timeout_s", 0)
    gate.client().send("hello")

    assert gate.clock.getDelayedCalls() == [
        call for call in gate.clock.getDelayedCalls() if call.getTime() <= gate.clock.seconds()
    ]
