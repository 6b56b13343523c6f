"""One run from its launch to its one end, whatever its backend and the store do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from gateway.app.drive import AGENT_FAILED, STORE_PATIENCE_S, UNENCODABLE
from gateway.app.sink import MAX_TEXT_CHARS
from gateway.core.run import RunOutput
from gateway.errors import BackendError, BackendErrorKind, StoreError
from gateway.model import RunResult, RunState, Usage
from gateway.testing import result_of
from tests.app.harness import Gate, Lines, Live

Gates = Callable[..., Gate]


def raises(error: Exception) -> Callable[[Live], Any]:
    """Return a script that raises before anything started."""

    def script(live: Live) -> Any:
        raise error

    return script


def says(live: Live) -> Deferred[RunResult]:
    """Answer at once."""
    live.sink.text("done")
    return succeed(RunResult(usage=Usage(input_tokens=1, output_tokens=2)))


def gives_up(live: Live) -> Deferred[RunResult]:
    """Cancel its own work."""
    live.done.cancel()
    return live.done


def overflows(live: Live) -> Deferred[RunResult]:
    """Say more than a run may, and go on."""
    live.sink.text("x" * (MAX_TEXT_CHARS + 1))
    live.sink.text("unheard")
    return live.done


ENDINGS: dict[str, tuple[Callable[[Live], Any], str, str]] = {
    "a result": (says, "final", "end"),
    "an error before the start": (raises(ZeroDivisionError()), "error", "error"),
    "a backend error before the start": (raises(BackendError("no")), "error", "error"),
    "a failure": (lambda live: fail(ValueError("no")), "error", "error"),
    "a cancellation of its own": (gives_up, "aborted", "end"),
    "nothing": (lambda live: None, "error", "error"),
    "another type": (lambda live: succeed("text"), "error", "error"),
    "a result that has no JSON form": (
        lambda live: succeed(RunResult(stop_reason=object())),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "a usage of another type": (
        lambda live: succeed(RunResult(usage="much")),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "a number beyond JSON": (
        lambda live: succeed(RunResult(usage=Usage(input_tokens=10**30))),
        "error",
        "error",
    ),
    "an error whose parts are of the wrong types": (
        lambda live: fail(BackendError(5, kind=7, detail=3)),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "too long an answer": (overflows, "error", "error"),
}


@pytest.mark.parametrize("script", ENDINGS)
def test_one_terminal_event(
    gates: Gates, script: str, expected_failures: list[type[BaseException]]
) -> None:
    """Exactly one terminal `chat` event and one lifecycle end per run, also when the session cannot be resolved, the backend raises before it starts, or its result can't be encoded."""  # noqa: E501
    expected_failures += [ZeroDivisionError, ValueError]
    start, chat, phase = ENDINGS[script]
    gate = gates(start)
    three, four = gate.client(3), gate.client(4)

    four.send("hello")
    gate.clock.advance(5)

    assert three.ends() == four.ends() == ([chat], [phase])
    assert len(gate.runs) == 0
    assert not gate.runs.busy("agent:main:main")


def test_a_session_that_can_not_be_resolved(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Exactly one terminal `chat` event and one lifecycle end per run, also when the session cannot be resolved, the backend raises before it starts, or its result can't be encoded."""  # noqa: E501
    expected_failures += [StoreError, LookupError]
    client = gate.client()

    for run, error in (("r1", StoreError("disk full")), ("r2", LookupError("which session?"))):
        gate.store.failing["accept_turn"] = error
        refused = client.send("hello", run=run).error

        assert refused["code"] == "UNAVAILABLE"
        assert client.ends(run) == (["error"], ["error"])
    gate.store.failing.clear()

    assert client.send("hello", run="r1").payload["status"] == "started"
    assert len(gate.runs) == 1


def test_an_agent_that_is_gone(gates: Gates) -> None:
    """A run whose agent is not configured any more ends with an error that names it."""
    gate = gates(others=["other"])
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    client.send("hello", key="agent:other:main")
    del gate.services.agents._agents["other"]

    gate.store.release()

    assert client.ends() == (["error"], ["error"])
    assert client.events("chat")[-1]["errorMessage"] == (
        'Agent "other" no longer exists in configuration'
    )


def test_the_error_of_a_backend(gates: Gates) -> None:
    """A backend's error reaches clients with its kind and detail, in version 3 with its text only."""
    detail = {"provider": "p", "httpStatus": 429, "secret": "s"}
    error = BackendError("slow down", kind=BackendErrorKind.RATE_LIMIT, detail=detail)
    gate = gates(raises(error))
    three, four = gate.client(3), gate.client(4)

    four.send("hello")

    assert four.events("chat")[-1] | {"seq": 0} == {
        "runId": "r1",
        "sessionKey": "agent:main:main",
        "seq": 0,
        "state": "error",
        "errorMessage": "slow down",
        "agentId": "main",
        "errorKind": "rate_limit",
        "errorDetail": {"provider": "p", "httpStatus": 429},
    }
    assert set(three.events("chat")[-1]) == {"runId", "sessionKey", "seq", "state", "errorMessage"}


def test_the_text_of_an_unforeseen_error_stays_here(
    gates: Gates, expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """What a backend did not mean to say is logged whole, and clients are told that it failed."""
    expected_failures.append(RuntimeError)
    gate = gates(raises(RuntimeError("password: hunter2")))
    client = gate.client()

    client.send("hello")

    assert client.events("chat")[-1]["errorMessage"] == AGENT_FAILED
    assert len(logged_failures) == 1


def test_an_unencodable_result_keeps_the_text(gates: Gates) -> None:
    """The text of a run whose result can't be encoded was said, and is kept."""

    def script(live: Live) -> Any:
        live.sink.text("partial")
        return succeed(RunResult(stop_reason=object()))  # type: ignore[arg-type]

    gate = gates(script)
    client = gate.client()
    client.send("hello")

    assert client.events("chat")[-1]["errorMessage"] == UNENCODABLE
    assert gate.messages() == [("user", "hello"), ("assistant", "partial")]


# -- abort, in every phase


def test_abort_while_accepting(gate: Gate) -> None:
    """A run that is aborted before the store has it ends as soon as the store has it, unstarted."""
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    call = client.send("hello")

    first = client.ok("chat.abort", {"sessionKey": "main"})
    second = client.ok("chat.abort", {"sessionKey": "main", "runId": "r1"})
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


# -- backends that do not behave


def test_a_backend_that_ignores_its_cancellation(gate: Gate) -> None:
    """A backend that goes on after an abort is not heard any more and keeps nothing of the run alive."""
    client = gate.client()
    deaf: Deferred[RunResult] = Deferred(lambda d: None)
    deaf.cancel = lambda: None  # type: ignore[method-assign]
    kept: list[Live] = []

    def script(live: Live) -> Any:
        kept.append(live)
        return deaf

    gate.backend.script = script
    client.send("hello")
    watched: list[ref[Any]] = [ref(gate.runs._drives["r1"]), ref(gate.runs.get("r1"))]
    client.ok("chat.abort", {"sessionKey": "main"})
    frames = len(client.frames)
    kept[0].sink.text("still here")
    kept[0].sink.replace("still here")
    kept[0].sink.emit("tool", {"phase": "start"})
    gate.clock.advance(2)
    gc.collect()

    assert len(client.frames) == frames
    assert [watch() for watch in watched] == [None, None]
    assert result_of(kept[0].sink.history(5)) == ()
    deaf.errback(RuntimeError("too late"))
    assert client.ends() == (["aborted"], ["end"])


def test_a_backend_whose_cancellation_raises(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A backend that fails to be cancelled does not keep the end of its run from being told."""
    expected_failures.append(ZeroDivisionError)
    client = gate.client()

    def broken(_: Any) -> None:
        raise ZeroDivisionError

    gate.backend.script = lambda live: Deferred(broken)
    client.send("hello")

    client.ok("chat.abort", {"sessionKey": "main"})

    assert client.ends() == (["aborted"], ["end"])
    assert len(gate.runs) == 0


def test_a_backend_that_ends_its_run_before_it_returns(gates: Gates) -> None:
    """Where the first text of a run ends it, the backend's work is cancelled when start() returns."""
    gate = gates(overflows)
    client = gate.client()

    client.send("hello")

    assert gate.live().cancelled
    assert client.ends() == (["error"], ["error"])
    assert "longer than" in client.events("chat")[-1]["errorMessage"]


# -- a store that does not behave


def test_the_end_waits_for_the_store_a_second(gate: Gate) -> None:
    """An end that the store does not take is announced after a second, and once only."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.hanging.add("finish_turn")
    gate.live().end()

    gate.clock.advance(STORE_PATIENCE_S - 0.01)
    before = client.ends()
    gate.clock.advance(0.02)
    after = client.ends()
    gate.store.release()

    assert before == ([], [])
    assert after == client.ends() == (["final"], ["end"])
    assert gate.messages()[-1] == ("assistant", "answer")


def test_a_late_store_still_tells_of_the_message(gate: Gate) -> None:
    """Who follows a session gets the answer's message when the store has it, if that is late."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.hanging.add("finish_turn")
    gate.live().end()
    gate.clock.advance(2)
    before = len(client.events("session.message"))

    gate.store.release()

    assert before == 1
    assert client.events("session.message")[-1]["messageSeq"] == 2


def test_a_hung_store_keeps_no_run(gate: Gate) -> None:
    """A store that never answers keeps nothing of the runs whose end it was given."""
    client = gate.client()
    client.send("hello")
    gate.store.hanging.add("finish_turn")
    watched: list[ref[Any]] = [ref(gate.runs._drives["r1"]), ref(gate.runs.get("r1"))]
    gate.live().end()
    gate.backend.live.clear()
    gate.clock.advance(2)
    gc.collect()

    assert [watch() for watch in watched] == [None, None]


def test_a_store_that_fails_at_the_end(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """An end that the store refuses is logged and announced at once."""
    expected_failures.append(StoreError)
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("answer")
    gate.store.failing["finish_turn"] = StoreError("disk full")

    gate.live().end()

    assert client.ends() == (["final"], ["end"])
    assert len(gate.runs) == 0


def test_what_the_store_gets(gate: Gate) -> None:
    """The end of a run is stored with the answer, its usage and every event not stored before."""
    client = gate.client()
    client.send("hello")
    gate.live().sink.text("an")
    gate.turn()
    gate.live().sink.text("swer")

    gate.live().end(
        stop_reason="length", usage=Usage(input_tokens=3, output_tokens=4), provider="p", model="m"
    )

    record = result_of(gate.store.get_run("r1"))
    assert (record.state, record.stop_reason, record.last_seq) == (RunState.DONE, "length", 4)
    events = result_of(gate.store.list_events("r1", after_seq=0, limit=10))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    session = result_of(gate.store.get_session("agent:main:main"))
    assert (session.input_tokens, session.output_tokens, session.total_tokens) == (3, 4, 7)
    (_, answer) = result_of(gate.store.list_messages(session.session_id, limit=10))
    assert answer.meta == {
        "provider": "p",
        "model": "m",
        "usage": {"input": 3, "output": 4, "totalTokens": 7},
    }
    assert gate.runs.log.lost == 0


def test_the_end_is_logged(gate: Gate) -> None:
    """Drives put nothing but texts and numbers into the log, so the log keeps no run alive."""
    gate.client().send("hello")

    with Lines() as lines:
        gate.live().end()

    (event,) = lines.events
    assert lines.texts == ["run ended run=r1 session=agent:main:main agent=main state=done"]
    assert event["durationMs"] == 0
    assert event["log_source"] is None
