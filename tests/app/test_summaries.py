"""gateway.app.summaries: where an agent that starts afresh begins to read."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.summaries import MAX_SUMMARY_CHARS
from gateway.core.transcript import is_summary, text_of
from gateway.errors import StoreError
from gateway.model import Compaction, Message
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate

KEY = "agent:main:main"


@pytest.fixture
def client(gate: Gate) -> Client:
    """Return a client."""
    return gate.client()


def turn(gate: Gate, client: Client, run: str) -> None:
    """Have a whole turn."""
    client.send(f"u {run}", run=run)
    answer(gate, run)


def answer(gate: Gate, run: str) -> None:
    """Let the agent answer, and a moment pass."""
    gate.live(run).sink.text(f"a {run}")
    gate.live(run).end()
    gate.clock.advance(1)


def compact(gate: Gate, run: str, kept: int, text: str = "", **counts: Any) -> None:
    """Let the agent of a run shorten its conversation."""
    summary = text or f"summary of {run}"
    compaction = Compaction(summary=summary, kept_messages=kept, **counts)
    assert result_of(gate.live(run).sink.compacted(compaction)) is None


def read(gate: Gate, run: str, limit: int = 100) -> list[str]:
    """Return what a run that goes would read of the conversation."""
    messages: tuple[Message, ...] = result_of(gate.live(run).sink.history(limit))
    return [text_of(message.content) for message in messages]


def test_a_summary_stands_for_what_was_said(gate: Gate, client: Client) -> None:
    """Who starts afresh reads the summary, what was kept beside it, and all that came after it."""
    for run in ("r1", "r2", "r3"):
        turn(gate, client, run)
    client.send("u r4", run="r4")
    compact(gate, "r4", kept=1)
    own = read(gate, "r4")
    answer(gate, "r4")
    turn(gate, client, "r5")
    client.send("u r6", run="r6")

    assert own == ["summary of r4", "a r3"]
    assert read(gate, "r6") == ["summary of r4", "a r3", "u r4", "a r4", "u r5", "a r5"]
    assert read(gate, "r6", limit=3) == ["summary of r4", "u r5", "a r5"]
    assert read(gate, "r6", limit=1) == ["summary of r4"]
    said = [text for _, text in gate.messages()]
    assert said[:8] == ["u r1", "a r1", "u r2", "a r2", "u r3", "a r3", "u r4", "summary of r4"]


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 9])
def test_how_much_is_kept(gate: Gate, client: Client, kept: int) -> None:
    """The kept messages are the newest before the run's own; more than there are is all of them."""
    for run in ("r1", "r2"):
        turn(gate, client, run)
    client.send("u r3", run="r3")
    compact(gate, "r3", kept)
    answer(gate, "r3")
    client.send("u r4", run="r4")

    before = ["u r1", "a r1", "u r2", "a r2"]
    held = before[len(before) - min(kept, 4) :]
    assert read(gate, "r4") == ["summary of r3", *held, "u r3", "a r3"]
    (summary,) = [m for m in result_of(gate.live("r4").sink.history(9)) if is_summary(m)]
    assert summary.meta["keptMessages"] == min(kept, 4)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_messages_that_wait_are_not_lost(gate: Gate, client: Client, kept: int) -> None:
    """Messages of runs that wait stand before the answers to those before them, and are read later."""
    for run in ("r1", "r2", "r3"):
        client.send(f"u {run}", run=run)
    answer(gate, "r1")
    compact(gate, "r2", kept)
    answer(gate, "r2")
    own = read(gate, "r3")
    answer(gate, "r3")
    client.send("u r4", run="r4")

    held = ["u r1", "a r1"][2 - kept :]
    assert sorted(own) == sorted(["summary of r2", *held, "u r2", "a r2"])
    everything = ["summary of r2", *held, "u r2", "a r2", "u r3", "a r3"]
    assert sorted(read(gate, "r4")) == sorted(everything)
    assert read(gate, "r4")[0] == "summary of r2"


def test_the_newest_summary_counts(gate: Gate, client: Client) -> None:
    """A conversation that is shortened again is read from the newest summary on."""
    turn(gate, client, "r1")
    client.send("u r2", run="r2")
    compact(gate, "r2", kept=1)
    answer(gate, "r2")
    client.send("u r3", run="r3")
    compact(gate, "r3", kept=0, text="all again")
    first = read(gate, "r3")
    compact(gate, "r3", kept=5, text="nothing more")
    answer(gate, "r3")
    client.send("u r4", run="r4")

    assert first == ["all again"]
    assert read(gate, "r4") == ["nothing more", "u r3", "a r3"]


def test_kept_across_summaries(gate: Gate, client: Client) -> None:
    """What an earlier summary had kept is kept by the next one as far as that says so."""
    for run in ("r1", "r2"):
        client.send(f"u {run}", run=run)
    answer(gate, "r1")
    compact(gate, "r2", kept=0)
    answer(gate, "r2")
    client.send("u r3", run="r3")
    compact(gate, "r3", kept=2, text="again")
    answer(gate, "r3")
    client.send("u r4", run="r4")

    assert read(gate, "r4") == ["again", "u r2", "a r2", "u r3", "a r3"]


def test_what_the_agent_has_not_seen_is_kept(gate: Gate, client: Client) -> None:
    """A note that came into the transcript while the run went on is in no summary of it."""
    turn(gate, client, "r1")
    client.send("u r2", run="r2")
    gate.clock.advance(1)
    client.ok("chat.inject", {"sessionKey": "main", "message": "by the way"})
    compact(gate, "r2", kept=1)
    answer(gate, "r2")
    client.send("u r3", run="r3")

    assert read(gate, "r3") == ["summary of r2", "a r1", "u r2", "by the way", "a r2"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_as_clients_see_it(gate: Gate, protocol: int) -> None:
    """The transcript is shown whole, with a line where it was shortened; the session counts it."""
    client = gate.client(protocol)
    client.ok("sessions.subscribe", {})
    turn(gate, client, "r1")
    client.send("u r2", run="r2")
    compact(gate, "r2", kept=0, tokens_before=900, tokens_after=90)
    answer(gate, "r2")

    shown = client.ok("chat.history", {"sessionKey": "main"})["messages"]
    (line,) = [m for m in shown if m["role"] == "system"]
    row = client.ok("sessions.describe", {"key": "main"})["session"]

    assert len(shown) == 5
    assert line["content"] == [{"type": "text", "text": "summary of r2"}]
    assert line["__openclaw"]["kind"] == "compaction"
    assert ("seq" in line["__openclaw"]) is (protocol == 4)
    assert (line["tokensBefore"], line["tokensAfter"], line["keptMessages"]) == (900, 90, 0)
    assert not {"keptFrom", "openRuns", "kind"} & set(line)
    assert (row["compactionCount"], row["totalTokens"]) == (1, 90)
    reasons = [event.get("reason") for event in client.events("sessions.changed")]
    assert reasons.count("compact") == 1


@pytest.mark.parametrize("keep_id", [False, True])
def test_a_session_that_began_anew(gate: Gate, client: Client, keep_id: bool) -> None:
    """A summary that comes to the store after a reset is dropped, though the session kept its id."""
    turn(gate, client, "r1")
    client.send("u r2", run="r2")
    gate.store.hanging.add("newest_summary")
    noting = gate.live("r2").sink.compacted(Compaction(summary="late", kept_messages=0))
    gate.store.hanging.clear()
    gate.client(4 if keep_id else 3).ok("sessions.reset", {"key": "main"})
    gate.store.held.pop()()

    assert result_of(noting) is None
    assert "late" not in [text for _, text in gate.messages()]


def test_a_session_that_is_gone(gate: Gate, client: Client) -> None:
    """For a session that is gone, or has begun under another id, there is nothing to note."""
    client.send("u r1", run="r1")
    sink = gate.live("r1").sink
    result_of(gate.store.delete_session(KEY, delete_transcript=True))
    compact(gate, "r1", kept=0)
    gate.store.hanging.add("newest_summary")
    turn_back = gate.services.sessions.create(KEY)
    result_of(Deferred.fromCoroutine(turn_back))
    compact(gate, "r1", kept=0)
    gate.store.hanging.clear()
    client.call("chat.abort", {"sessionKey": "main", "runId": "r1"})

    assert result_of(sink.compacted(Compaction(summary="x", kept_messages=0))) is None
    assert result_of(sink.history(9)) == ()
    assert gate.messages() == []


def test_gone_meanwhile(gate: Gate, client: Client) -> None:
    """A session that is deleted while its summary is on the way stays deleted."""
    client.send("u r1", run="r1")
    gate.store.hanging.add("update_session")
    noting = gate.live("r1").sink.compacted(Compaction(summary="late", kept_messages=0))
    gate.store.hanging.clear()
    result_of(gate.store.delete_session(KEY, delete_transcript=True))
    gate.store.held.pop()()

    assert result_of(noting) is None
    assert result_of(gate.store.get_session(KEY)) is None


def test_what_can_not_be_stored_is_put_right(gate: Gate, client: Client) -> None:
    """A summary is text of bounded length, its counts are counts; what is not is put right or left out."""
    client.send("u r1", run="r1")
    compact(gate, "r1", kept=-3, text="\ud800" + "x" * MAX_SUMMARY_CHARS, tokens_before=-1)
    answer(gate, "r1")
    client.send("u r2", run="r2")

    summary = result_of(gate.live("r2").sink.history(9))[0]
    text = text_of(summary.content)
    assert (text[0], len(text)) == ("?", MAX_SUMMARY_CHARS)
    assert "tokensBefore" not in summary.meta


def test_a_summary_of_another_make(gate: Gate, client: Client) -> None:
    """A summary that does not say what is kept stands for nothing: all is read."""
    turn(gate, client, "r1")
    session = result_of(gate.store.get_session(KEY))
    foreign = Message(
        message_id="m",
        role="system",
        content=[{"type": "text", "text": "foreign"}],
        timestamp_ms=1,
        meta={"kind": "compaction", "keptFrom": "all", "openRuns": "none"},
    )
    result_of(gate.store.append_messages(session.session_id, [foreign]))
    client.send("u r2", run="r2")

    assert read(gate, "r2") == ["foreign", "u r1", "a r1"]


def test_a_store_that_fails(gate: Gate, client: Client) -> None:
    """The backend is told that its summary was not stored; nothing half of it is."""
    client.send("u r1", run="r1")
    gate.store.failing["update_session"] = StoreError("disk full")
    with Lines():
        failed = gate.live("r1").sink.compacted(Compaction(summary="x", kept_messages=0))
        with pytest.raises(StoreError, match="disk full"):
            result_of(failed)
    gate.store.failing.clear()

    assert [text for _, text in gate.messages()] == ["u r1"]


def test_a_long_transcript_is_read_in_pages(gate: Gate, client: Client) -> None:
    """However many messages are no history, as many as asked for are found."""
    session = None
    turn(gate, client, "r1")
    client.send("u r2", run="r2")
    session = result_of(gate.store.get_session(KEY))
    steering = [
        Message(
            message_id=f"m{number}",
            role="user",
            content=[{"type": "text", "text": "more"}],
            timestamp_ms=1,
            run_id="r2",
        )
        for number in range(20)
    ]
    result_of(gate.store.append_messages(session.session_id, steering))

    assert read(gate, "r2", limit=2) == ["u r1", "a r1"]
