"""``sessions.compact`` as clients of both versions use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from gateway.app.bindings import agent_session_of
from gateway.app.compacting import (
    ANEW,
    BUSY,
    COMPACT_S,
    FAILED,
    LANE_WAIT_S,
    NOTHING,
    SLOW,
    STOPPED,
)
from gateway.core.transcript import text_of
from gateway.errors import BackendError
from gateway.interfaces import ICompactingBackend, IRunSink
from gateway.model import ApprovalRequest, Compaction, RunRequest
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import WRITE, Client, Gate

KEY = "agent:main:main"
DONE = Compaction(summary="we talked", kept_messages=1, tokens_before=900, tokens_after=90)

Compact = Callable[[RunRequest, Any], Any]


def compacts(gate: Gate, compact: Compact) -> None:
    """Let the agent be one that can shorten its conversations."""
    setattr(gate.backend, "compact", compact)  # noqa: B010
    alsoProvides(gate.backend, ICompactingBackend)


@pytest.fixture
def client(gate: Gate) -> Client:
    """A client of version 4, in a session with two turns, which follows all sessions."""
    client = gate.client()
    for run in ("r1", "r2"):
        turn(gate, client, run)
    client.ok("sessions.subscribe", {})
    return client


def turn(gate: Gate, client: Client, run: str) -> None:
    """Have a whole turn."""
    client.send(f"u {run}", run=run)
    gate.live(run).sink.text(f"a {run}")
    gate.live(run).end()
    gate.clock.advance(1)


def read(gate: Gate, client: Client, run: str = "next") -> list[str]:
    """Return what an agent would read that starts afresh with a new run."""
    client.send("u next", run=run)
    messages = result_of(gate.live(run).sink.history(100))
    gate.live(run).end()
    gate.clock.advance(1)
    return [text_of(message.content) for message in messages]


def bound(gate: Gate) -> str | None:
    """Return what the agent calls the conversation."""
    session = result_of(gate.store.get_session(KEY))
    return agent_session_of(session, gate.services.agents.default.kind)


def test_a_summary_of_the_agent(gate: Gate, client: Client) -> None:
    """The agent is asked for a summary, which is noted; its own conversation goes on."""
    asked: list[RunRequest] = []

    def compact(request: RunRequest, sink: Any) -> Any:
        asked.append(request)
        return succeed(DONE)

    compacts(gate, compact)
    client.send("u r3", run="r3")
    gate.live("r3").sink.bind("thread-7")
    gate.live("r3").end()
    gate.clock.advance(1)
    client.ok("sessions.patch", {"key": "main", "model": "fake/echo-2"})

    answer = client.ok("sessions.compact", {"key": "main"})

    first = client.ok("chat.history", {"sessionKey": "main"})["messages"][4]
    assert answer == {
        "ok": True,
        "key": KEY,
        "compacted": True,
        "result": {
            "summary": "we talked",
            "firstKeptEntryId": first["__openclaw"]["id"],
            "tokensBefore": 900,
            "details": {"keptMessages": 1, "tokensAfter": 90},
        },
    }
    (request,) = asked
    assert (request.session_key, request.text, request.model) == (KEY, "", "fake/echo-2")
    assert (request.agent_session, bound(gate)) == ("thread-7", "thread-7")
    assert read(gate, client) == ["we talked", "u r3"]


def test_progress_is_told(gate: Gate, client: Client) -> None:
    """Those who follow the session are told when it begins and ends; meanwhile the session is busy."""
    working: Deferred[Any] = Deferred()
    compacts(gate, lambda request, sink: working)
    call = client.call("sessions.compact", {"key": "main"})
    client.send("u r3", run="r3")
    busy = client.ok("sessions.describe", {"key": "main"})["session"]["hasActiveRun"]
    before = list(gate.backend.started)
    working.callback(DONE)

    assert (busy, before) == (True, ["r1", "r2"])
    assert call.payload["compacted"] is True
    assert gate.backend.started == ["r1", "r2", "r3"]
    begin, end = client.events("session.operation")
    assert begin["operationId"] == end["operationId"]
    assert begin == {
        "operationId": begin["operationId"],
        "operation": "compact",
        "phase": "start",
        "sessionKey": KEY,
        "agentId": "main",
        "ts": begin["ts"],
    }
    assert (end["phase"], end["compacted"]) == ("end", True)
    assert "compact" in [e.get("reason") for e in client.events("sessions.changed")]


def test_messages_that_wait_are_read_later(gate: Gate, client: Client) -> None:
    """What waits while a session is shortened is in no summary: whoever comes after it reads it."""
    working: Deferred[Any] = Deferred()
    compacts(gate, lambda request, sink: working)
    client.call("sessions.compact", {"key": "main"})
    client.send("u r3", run="r3")
    working.callback(Compaction(summary="all", kept_messages=0))
    gate.live("r3").end()
    gate.clock.advance(1)

    assert read(gate, client) == ["all", "u r3"]


def test_it_waits_for_runs(gate: Gate, client: Client) -> None:
    """A run that goes ends first; one that goes on too long is told of."""
    compacts(gate, lambda request, sink: succeed(DONE))
    client.send("long", run="r3")
    call = client.call("sessions.compact", {"key": "main"})
    waits = not call.frames
    gate.live("r3").end()
    gate.clock.advance(1)
    assert waits
    assert call.payload["compacted"] is True

    client.send("longer", run="r4")
    call = client.call("sessions.compact", {"key": "main"})
    gate.clock.advance(LANE_WAIT_S)
    assert call.payload == {"ok": False, "key": KEY, "compacted": False, "reason": BUSY}
    gate.live("r4").end()
    gate.clock.advance(1)
    assert not gate.runs.busy(KEY)


def test_an_agent_that_can_not(gate: Gate, client: Client) -> None:
    """An agent that can not summarise is told of, with what can be done instead."""
    answer = client.ok("sessions.compact", {"key": "main"})

    assert (answer["ok"], answer["compacted"]) == (False, False)
    assert answer["reason"] == (
        'agent "main" can not summarise; send maxLines to keep only the last messages'
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "logged"),
    [
        (lambda: succeed(None), NOTHING, 0),
        (
            lambda: fail(BackendError("no key")),
            "no key; send maxLines to keep only the last messages",
            0,
        ),
        (lambda: fail(ZeroDivisionError()), FAILED, 1),
        (lambda: 1 / 0, FAILED, 1),
        (lambda: succeed("a summary"), FAILED, 1),
    ],
    ids=["nothing", "told", "failed", "raised", "nonsense"],
)
def test_what_an_agent_can_answer(
    gate: Gate,
    client: Client,
    outcome: Callable[[], Any],
    reason: str,
    logged: int,
    expected_failures: list[type[BaseException]],
) -> None:
    """Whatever an agent does, there is an answer that says why, and the session goes on."""
    expected_failures.append(ZeroDivisionError)
    compacts(gate, lambda request, sink: outcome())
    with Lines() as lines:
        answer = client.ok("sessions.compact", {"key": "main"})
    texts = [text for text in lines.texts if "its agent" in text]

    assert answer == {"ok": False, "key": KEY, "compacted": False, "reason": reason}
    assert len(texts) == logged
    assert client.events("session.operation")[-1]["reason"] == reason
    assert read(gate, client) == ["u r1", "a r1", "u r2", "a r2"]


def test_an_agent_that_takes_too_long(gate: Gate, client: Client) -> None:
    """An agent that does not come to an end is cancelled, and the session goes on."""
    cancelled: list[Any] = []
    compacts(gate, lambda request, sink: Deferred(cancelled.append))
    call = client.call("sessions.compact", {"key": "main"})
    gate.clock.advance(COMPACT_S)

    assert len(cancelled) == 1
    assert call.payload["reason"] == SLOW
    assert not gate.runs.busy(KEY)


def test_a_caller_that_goes(gate: Gate, client: Client) -> None:
    """Where the call is given up the agent is stopped, and the session is let go."""
    compacts(gate, lambda request, sink: Deferred())
    call = client.call("sessions.compact", {"key": "main"})
    call.cancel()

    assert not gate.runs.busy(KEY)


def begin_anew(gate: Gate) -> None:
    """Begin the session anew under its id, and let the agent work on."""
    result_of(Deferred.fromCoroutine(gate.services.sessions.reset(KEY, keep_id=True)))


def test_a_session_that_begins_anew(gate: Gate, client: Client) -> None:
    """A summary of what is no more is dropped."""
    working: Deferred[Any] = Deferred()
    compacts(gate, lambda request, sink: working)
    call = client.call("sessions.compact", {"key": "main"})
    begin_anew(gate)
    working.callback(DONE)

    assert call.payload["reason"] == ANEW
    assert gate.messages() == []


ABORTS = [
    ("chat.abort", {"sessionKey": "main"}),
    ("chat.send", {"sessionKey": "main", "message": "stop", "idempotencyKey": "s"}),
    ("sessions.abort", {"key": "main"}),
    ("sessions.abort", {"key": "main", "clearQueued": True}),
    ("sessions.reset", {"key": "main"}),
]


@pytest.mark.parametrize(("method", "params"), ABORTS)
def test_it_is_stopped(gate: Gate, client: Client, method: str, params: dict[str, Any]) -> None:
    """What aborts a session ends its compaction too, and only the messages behind it that it means to."""
    working: Deferred[Any] = Deferred()
    compacts(gate, lambda request, sink: working)
    call = client.call("sessions.compact", {"key": "main"})
    client.send("u r3", run="r3")
    answer = client.ok(method, params)

    alone = params == {"key": "main"} and method == "sessions.abort"
    assert (call.payload["compacted"], call.payload["reason"]) == (False, STOPPED)
    assert gate.backend.started[2:] == (["r3"] if alone else [])
    assert client.ends("r3")[0] == ([] if alone else ["aborted"])
    operation = client.events("session.operation")[0]["operationId"]
    assert answer.get("abortedRunId", operation) == operation
    assert operation in answer.get("runIds", [operation])
    if alone:
        gate.live("r3").end()
    gate.clock.advance(1)
    assert not gate.runs.busy(KEY)


def test_a_cut_is_not_stopped(gate: Gate, client: Client) -> None:
    """What is over in a moment can not be stopped; nothing behind it is aborted in its place."""
    gate.store.hanging.add("newest_summary")
    call = client.call("sessions.compact", {"key": "main", "maxLines": 1})
    gate.store.hanging.clear()
    client.send("u r3", run="r3")
    answer = client.ok("sessions.abort", {"key": "main"})
    gate.store.release()

    assert answer["status"] == "no-active-run"
    assert call.payload["compacted"]
    assert gate.backend.started[2:] == ["r3"]


def test_a_binding_to_a_session_that_begins_anew(gate: Gate, client: Client) -> None:
    """What the agent calls the conversation that is over is not kept for the one that begins."""
    kept: list[Any] = []
    working: Deferred[Any] = Deferred()

    def compact(request: RunRequest, sink: Any) -> Any:
        kept.append(sink)
        return working

    compacts(gate, compact)
    client.call("sessions.compact", {"key": "main"})
    before = result_of(gate.store.get_session(KEY))
    begin_anew(gate)
    kept[0].bind("of what is over")
    working.callback(None)

    after = result_of(gate.store.get_session(KEY))
    assert before is not None
    assert after is not None
    assert after.session_id == before.session_id
    assert bound(gate) is None


def test_a_session_that_goes_while_it_is_waited_for(gate: Gate, client: Client) -> None:
    """A session that there is not, or not any more, has nothing to shorten."""
    compacts(gate, lambda request, sink: succeed(DONE))
    nobody = client.ok("sessions.compact", {"key": "nobody"})
    client.send("u", key="errand", run="r3")
    call = client.call("sessions.compact", {"key": "errand"})
    result_of(gate.store.delete_session("agent:main:errand", delete_transcript=True))
    gate.live("r3").end()
    gate.clock.advance(1)

    assert nobody["reason"] == NOTHING
    assert call.payload["reason"] == NOTHING


def test_the_sink_of_a_compaction(gate: Gate, client: Client) -> None:
    """The agent reads the history and binds as in a run; there is nobody to talk to or to ask."""
    read_by_it: list[str] = []
    kept: list[Any] = []

    def compact(request: RunRequest, sink: Any) -> Any:
        verifyObject(IRunSink, sink)
        kept.append(sink)
        sink.text("hello")
        sink.replace("hello")
        sink.emit("compaction", {"phase": "start"})
        sink.bind("thread-8")
        read_by_it.extend(text_of(m.content) for m in result_of(sink.history(100)))
        assert result_of(sink.ask(ApprovalRequest(command="rm"))) is None
        assert result_of(sink.compacted(DONE)) is None
        return succeed(None)

    compacts(gate, compact)
    answer = client.ok("sessions.compact", {"key": "main"})
    kept[0].bind("too late")

    assert answer["result"]["summary"] == "we talked"
    assert read_by_it == ["u r1", "a r1", "u r2", "a r2"]
    assert bound(gate) == "thread-8"
    assert read(gate, client) == ["we talked", "a r2"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_cut_to_the_last_messages(gate: Gate, client: Client, protocol: int) -> None:
    """With maxLines the agent starts afresh with the last messages; the transcript stays complete."""
    client.send("u r3", run="r3")
    gate.live("r3").sink.bind("thread-7")
    gate.live("r3").end()
    gate.clock.advance(1)
    caller = gate.client(protocol)

    answer = caller.ok("sessions.compact", {"key": "main", "maxLines": 2})
    again = caller.ok("sessions.compact", {"key": "main", "maxLines": 2})

    assert answer == {"ok": True, "key": KEY, "compacted": True, "kept": 2}
    assert again == {"ok": True, "key": KEY, "compacted": False, "kept": 2}
    assert bound(gate) is None
    assert len(gate.messages()) == 6
    left_out = "Earlier messages were left out: the conversation was cut to its last 2."
    assert read(gate, client) == [left_out, "a r2", "u r3"]


def test_version_3_keeps_many(gate: Gate, client: Client) -> None:
    """Without a number version 3 keeps 400 messages; of a session that there is not, none."""
    old = gate.client(3)

    assert old.ok("sessions.compact", {"key": "main"}) == {
        "ok": True,
        "key": KEY,
        "compacted": False,
        "kept": 4,
    }
    nobody = old.ok("sessions.compact", {"key": "nobody"})
    assert (nobody["ok"], nobody["compacted"], nobody["reason"]) == (True, False, NOTHING)


def test_cut_while_it_begins_anew(gate: Gate, client: Client) -> None:
    """A reset that comes between leaves nothing to cut."""
    gate.store.hanging.add("update_session")
    call = client.call("sessions.compact", {"key": "main", "maxLines": 1})
    gate.store.hanging.clear()
    client.ok("sessions.reset", {"key": "main"})
    gate.store.held.pop()()

    assert call.payload["reason"] == ANEW


def test_who_may(gate: Gate, client: Client) -> None:
    """It is for admins, and for sessions of agents that there are."""
    assert gate.client(scopes=WRITE).refused("sessions.compact", {"key": "main"})
    error = client.refused("sessions.compact", {"key": "agent:nobody:main"})
    assert error["code"] == "INVALID_REQUEST"


def test_nobody_follows(gate: Gate) -> None:
    """Where nobody follows the session nobody is told, and it is shortened all the same."""
    client = gate.client()
    turn(gate, client, "r1")

    assert client.ok("sessions.compact", {"key": "main", "maxLines": 1})["compacted"] is True
    assert client.events("session.operation") == []
