"""Sessions: announced to those who follow, and their transcripts."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from gateway.errors import BackendError, StoreError
from gateway.model import Session
from gateway.testing import result_of
from tests.app.harness import Gate, assert_fits

KEY = "agent:main:main"


def run(coroutine: Any) -> Any:
    """Return what a coroutine gave, which did not wait."""
    return result_of(Deferred.fromCoroutine(coroutine))


# -- announcing


def test_who_gets_what(gate: Gate) -> None:
    """Followers of all sessions get changed rows and messages, watchers of one its messages, others nothing."""  # noqa: E501
    follower, watcher, elsewhere, plain = (gate.client() for _ in range(4))
    bare = gate.client(scopes=())
    follower.ok("sessions.subscribe")
    watcher.ok("sessions.messages.subscribe", {"key": "main"})
    elsewhere.ok("sessions.messages.subscribe", {"key": "other"})
    plain.send("hello")
    gate.live().sink.text("answer")
    gate.live().end()

    def seen(client: Any) -> list[str]:
        names = ("sessions.changed", "session.message")
        return [frame["event"] for frame in client.frames if frame["event"] in names]

    assert seen(follower) == [
        "session.message",
        "sessions.changed",
        "session.message",
        "sessions.changed",
    ]
    assert seen(watcher) == ["session.message"] * 2
    assert seen(elsewhere) == seen(plain) == seen(bare) == []
    watcher.ok("sessions.messages.unsubscribe", {"key": "main"})
    plain.send("hello", run="r2")
    assert seen(watcher) == ["session.message"] * 2


def test_what_a_message_event_says(gate: Gate) -> None:
    """A message is announced as histories show it, with its place in the transcript."""
    client = gate.client()
    client.ok("sessions.messages.subscribe", {"key": "main"})
    client.send("hello")
    gate.live().sink.text("answer")
    gate.live().end()

    user, assistant = client.events("session.message")
    assert user["sessionKey"] == assistant["sessionKey"] == KEY
    assert (user["messageSeq"], assistant["messageSeq"]) == (1, 2)
    assert user["senderIsOwner"]
    assert "senderIsOwner" not in assistant
    assert user["message"]["content"] == [{"type": "text", "text": "hello"}]
    assert assistant["message"]["__openclaw"]["runId"] == "r1"
    history = client.ok("chat.history", {"sessionKey": "main"})["messages"]
    assert history == [user["message"], assistant["message"]]


def test_what_a_changed_event_says(gate: Gate) -> None:
    """A change is announced with its reason or phase, its run, and the row as it is then."""
    client = gate.client()
    client.ok("sessions.subscribe")
    client.ok("sessions.create", {"key": "main"})
    client.ok("sessions.patch", {"key": "main", "label": "mine"})
    client.send("hello", run="r1")
    gate.live("r1").end()
    client.send("hello", run="r2")
    gate.live("r2").done.cancel()
    client.ok("sessions.reset", {"key": "main", "reason": "new"})
    client.ok("sessions.create", {"key": "a"})
    client.ok("sessions.delete", {"key": "a"})

    told = [
        (e.get("reason"), e.get("phase"), e.get("runId"), e["session"]["hasActiveRun"])
        for e in client.events("sessions.changed")
    ]
    assert told == [
        ("create", None, None, False),
        ("patch", None, None, False),
        ("send", None, "r1", True),
        (None, "end", "r1", False),
        ("send", None, "r2", True),
        (None, "end", "r2", False),
        ("new", None, None, False),
        ("create", None, None, False),
        ("delete", None, None, False),
    ]
    for frame in client.frames:
        assert_fits(4, "EventFrame", frame)


def test_a_failed_run_is_announced_as_such(gate: Gate) -> None:
    """The end of a run that failed changes its session with phase error."""
    client = gate.client()
    client.ok("sessions.subscribe")
    client.send("hello")

    gate.live().done.errback(BackendError("no"))

    assert client.events("sessions.changed")[-1]["phase"] == "error"


def test_a_session_that_is_gone_when_its_run_ends(gate: Gate) -> None:
    """A run whose session was deleted meanwhile ends without a row to announce."""
    client = gate.client()
    client.ok("sessions.subscribe")
    client.send("hello", key="a")
    result_of(gate.store.delete_session("agent:main:a", delete_transcript=True))
    gate.live().sink.text("answer")

    gate.live().end()

    assert client.ends() == (["final"], ["end"])
    assert [e.get("phase") for e in client.events("sessions.changed")] == [None]


def test_an_announcement_without_the_store(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Where the store fails the changed row is not announced, and the failure is logged."""
    expected_failures.append(StoreError)
    client = gate.client()
    client.ok("sessions.subscribe")
    client.send("hello")
    gate.store.failing["get_session"] = StoreError("disk full")

    gate.live().end()

    assert [e.get("phase") for e in client.events("sessions.changed")] == [None]


# -- transcripts


def test_a_note(gate: Gate) -> None:
    """A note is appended as the assistant's, shown as a final of its own, and announced."""
    client, three = gate.client(), gate.client(3)
    client.ok("sessions.create", {"key": "main"})
    client.ok("sessions.messages.subscribe", {"key": "main"})

    answer = client.ok("chat.inject", {"sessionKey": "main", "message": "note", "label": "cron"})

    assert gate.messages() == [("assistant", "[cron]\n\nnote")]
    for viewer in (client, three):
        (final,) = viewer.events("chat")
        assert (final["runId"], final["seq"], final["state"]) == (
            f"inject-{answer['messageId']}",
            0,
            "final",
        )
        assert final["message"]["content"][0]["text"] == "[cron]\n\nnote"
        assert_fits(viewer.connection.protocol, "ChatEvent", final)
    (event,) = client.events("session.message")
    assert event["message"]["model"] == "gateway-injected"
    assert client.ok("chat.inject", {"sessionKey": "main", "message": "plain"})["ok"]
    assert gate.messages()[-1] == ("assistant", "plain")


def test_a_note_for_nobody(gate: Gate) -> None:
    """A note needs a session; one that is deleted under it is not made again."""
    client = gate.client()
    refused = client.refused("chat.inject", {"sessionKey": "nope", "message": "x"})
    run(gate.services.sessions.touch("agent:main:nope"))

    assert refused["message"] == "session not found"
    assert run(gate.services.sessions.get("agent:main:nope")) is None


def test_the_text_of_an_answer(gate: Gate) -> None:
    """The text a run answered with is found in the transcript, empty where there is none."""
    client = gate.client()
    client.send("hello", run="r1")
    gate.live("r1").sink.text("answer")
    gate.live("r1").end()
    client.send("hello", run="r2")
    gate.live("r2").end()
    session = run(gate.services.sessions.get(KEY))

    texts = [run(gate.services.sessions.answer_text(session.session_id, r)) for r in ("r1", "r2")]
    assert texts == ["answer", ""]


def test_a_row_of_an_agent_that_is_gone(gate: Gate) -> None:
    """A session of an agent that is not configured any more is shown with the default agent's model."""
    session = Session(
        key="agent:gone:main", session_id="s", agent_id="gone", created_at_ms=0, updated_at_ms=0
    )

    row = gate.services.sessions.row(session)

    assert (row["agentId"], row["model"], row["isMain"]) == ("gone", "echo-1", True)
