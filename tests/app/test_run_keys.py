"""The same key, the same run."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import StoreError, VersionConflict
from gateway.model import RunState
from gateway.testing import result_of
from tests.app.harness import Gate

Gates = Callable[..., Gate]
CONFLICT = {
    "code": "INVALID_REQUEST",
    "message": "idempotency key was used for another request",
    "details": {"reason": "chat-request-conflict"},
}


def test_the_same_key(gate: Gate, gates: Gates) -> None:
    """The same idempotency key returns the same run, also while it runs and after it ended; another content under the same key is refused."""  # noqa: E501
    client = gate.client()
    first = client.send("hello").payload
    while_it_runs = client.send("hello").payload
    other_while_it_runs = client.send("something else").error
    gate.live().sink.text("answer")
    gate.live().end()
    after_it_ended = client.send("hello").payload
    other_after_it_ended = client.send("something else").error

    again = gate.restarted()
    newcomer = again.client()
    after_a_restart = newcomer.send("hello").payload
    and_again = newcomer.send("hello").payload
    other_after_a_restart = newcomer.send("something else").error

    assert first == {"runId": "r1", "status": "started", "messageSeq": 1}
    assert while_it_runs == {"runId": "r1", "status": "in_flight"}
    assert after_it_ended == after_a_restart == and_again == {"runId": "r1", "status": "ok"}
    assert other_while_it_runs == other_after_it_ended == other_after_a_restart == CONFLICT
    assert gate.backend.started == ["r1"]
    assert again.backend.started == []
    assert gate.messages() == [("user", "hello"), ("assistant", "answer")]
    assert len(again.runs) == len(again.runs.lanes) == 0


def test_another_content_first_after_a_restart(gate: Gate) -> None:
    """After a restart other content under a key that was used is refused, and the run is still known."""
    gate.client().send("hello")
    gate.live().end()
    client = gate.restarted().client()

    assert client.send("something else").error == CONFLICT
    assert client.send("hello").payload == {"runId": "r1", "status": "ok"}


def test_the_same_key_while_the_store_takes_it(gate: Gate) -> None:
    """A repeat that comes before the store has the run is answered for that run."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    first = client.send("hello")
    second = client.send("hello")
    gate.store.release()

    assert first.payload["status"] == "started"
    assert second.payload["status"] == "in_flight"
    assert gate.backend.started == ["r1"]


def test_the_key_lives_from_the_end_of_its_run(gate: Gate) -> None:
    """A key is remembered for its time to live after the end; then the store still knows the run."""
    client = gate.client()
    client.send("hello", timeoutMs=0)
    gate.clock.advance(1000)
    gate.runs.window.claims.sweep(gate.clock.seconds())
    running = client.send("hello").payload["status"]
    gate.live().end()
    gate.clock.advance(301)
    gate.runs.window.claims.sweep(gate.clock.seconds())

    assert running == "in_flight"
    assert "r1" not in gate.runs.window.claims
    assert client.send("hello").payload["status"] == "ok"
    assert gate.backend.started == ["r1"]


def test_a_repeat_of_a_run_that_was_interrupted(gate: Gate) -> None:
    """A repeat of a run whose end was never stored is told so, and the run is ended in the store."""
    gate.client().send("hello")
    gate.turn()
    again = gate.restarted()
    client = again.client()

    refused = client.send("hello")

    assert refused.error["message"] == "interrupted by a restart"
    assert refused.frame["payload"]["status"] == "error"
    assert result_of(again.store.get_run("r1")).state is RunState.FAILED


def test_who_waits_for_a_repeat(gate: Gate) -> None:
    """Who waits for a run that turns out to be a repeat is told how that ended."""
    gate.client().send("hello")
    gate.live().end()
    again = gate.restarted()
    client = again.client()
    waiting = again.runs.wait("r1", 60)
    again.store.hanging.add("get_run")
    call = client.call("agent", {"message": "hello", "idempotencyKey": "r1"})
    repeat = client.call("agent", {"message": "hello", "idempotencyKey": "r1"})

    again.store.release()

    assert call.payload["status"] == repeat.payload["status"] == "ok"
    outcome = result_of(waiting)
    assert outcome is not None
    assert outcome.state is RunState.DONE


def test_a_repeat_that_can_not_be_looked_up(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A repeat for which the store fails may be tried again, and who waits for it is not left waiting."""
    expected_failures.append(StoreError)
    gate.client().send("hello")
    gate.live().end()
    again = gate.restarted()
    client = again.client()
    waiting = again.runs.wait("r1", 60)
    again.store.failing["get_run"] = StoreError("disk full")

    refused = client.send("hello").error
    outcome = result_of(waiting)
    again.store.failing.clear()

    assert refused["code"] == "UNAVAILABLE"
    assert refused["retryable"]
    assert client.events("chat") == []
    assert outcome is not None
    assert outcome.state is RunState.FAILED
    assert client.send("hello").payload == {"runId": "r1", "status": "ok"}


def test_a_run_that_is_gone_again(gate: Gate, expected_failures: list[type[BaseException]]) -> None:
    """A run that the store knew of a moment ago, and does not any more, may be tried again."""
    expected_failures.append(StoreError)
    gate.store.failing["accept_turn"] = VersionConflict("stored already")

    assert gate.client().send("hello").error["retryable"]
    assert len(gate.runs) == len(gate.runs.window.claims) == 0
