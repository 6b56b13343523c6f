"""What an agent is asked: its message, those collected with it, the settings of the session."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.batch import MAX_FILES, SEPARATOR, alike, collected, fits, launched
from gateway.model import (
    REQUEST_MAX_BYTES,
    Attachment,
    InputProvenance,
    QueueMode,
    ReplyAddress,
    RunRequest,
    Session,
)


def request(run: str = "r1", text: str = "hello", **more: Any) -> RunRequest:
    """Return a request."""
    names = {"session_key": "agent:main:main", "session_id": "", "agent_id": "main"}
    return RunRequest(run_id=run, text=text, **{**names, **more})


def session(**settings: Any) -> Session:
    """Return a session with settings."""
    return Session(
        key="agent:main:main",
        session_id="s",
        agent_id="main",
        created_at_ms=0,
        updated_at_ms=0,
        settings=settings,
    )


def files(count: int, size: int = 1) -> tuple[Attachment, ...]:
    """Return attachments."""
    return (Attachment(mime_type="text/plain", data=b"x" * size),) * count


@pytest.mark.parametrize(
    ("difference", "same"),
    [
        ({"session_id": "other"}, True),
        ({"attachments": files(1)}, True),
        ({"thinking": "high"}, False),
        ({"timeout_s": 3.0}, False),
        ({"extra_system_prompt": "be brief"}, False),
        ({"queue_mode": QueueMode.COLLECT}, False),
        ({"reply": ReplyAddress(to="somebody")}, False),
        ({"provenance": InputProvenance(kind="inter_session")}, False),
        ({"receipt": "r"}, False),
        ({"agent_id": "other"}, False),
    ],
)
def test_what_may_be_answered_together(difference: dict[str, Any], same: bool) -> None:
    """Only requests that differ in nothing but their content are answered together."""
    assert alike(request(), request("r2", "other", **difference)) is same


def test_how_much_is_put_together() -> None:
    """No more is put together than one request may hold."""
    assert fits([request(attachments=files(MAX_FILES))])
    assert not fits([request(attachments=files(MAX_FILES)), request(attachments=files(1))])
    assert fits([request(text="x", attachments=files(1, REQUEST_MAX_BYTES - 1))])
    assert not fits([request(text="xy", attachments=files(1, REQUEST_MAX_BYTES - 1))])


def test_texts_and_files_are_joined_in_order() -> None:
    """What is put together has all texts and files in order, and names the runs that they came from."""
    first = request(attachments=files(1))
    one = collected(first, [request("r2", ""), request("r3", "three", attachments=files(2))])

    assert (one.run_id, one.text) == ("r1", f"hello{SEPARATOR}three")
    assert (len(one.attachments), one.collected) == (3, ("r2", "r3"))
    assert collected(first, []) is first


def test_nothing_is_put_together_twice() -> None:
    """A message that a request holds already is not added again."""
    one = collected(request(), [request("r2", "two")])

    again = collected(one, [request("r2", "two"), request("r3", "three")])

    assert again.text == f"hello{SEPARATOR}two{SEPARATOR}three"
    assert again.collected == ("r2", "r3")
    assert collected(one, [request("r2", "two")]) is one


def test_the_settings_of_the_session() -> None:
    """A run has the model and the thinking level that its session has when it starts."""
    run = launched(request(), session(model="p/large", thinkingLevel="high"), "own")
    assert (run.model, run.thinking) == ("p/large", "high")
    assert launched(request(), session(model="small"), "own").model == "own/small"
    bare = launched(request(), session(), "own", session_id="s", agent_session="a")
    assert (bare.model, bare.thinking, bare.session_id) == (None, None, "s")
    assert bare.agent_session == "a"
    assert launched(request(), None, "own") == request()


def test_what_the_request_asks_for_goes_first() -> None:
    """What a request says itself goes before the settings of its session."""
    asked = request(thinking="low", model="p/tiny")

    run = launched(asked, session(model="p/large", thinkingLevel="high"), "own")

    assert (run.model, run.thinking) == ("p/tiny", "low")


def test_what_is_not_the_users_is_said() -> None:
    """What a backend gets of another session's message says so, before its text."""
    run = launched(request(provenance=InputProvenance(kind="inter_session")), None, "own")

    assert run.text.startswith("[This message was sent by another session")
    assert run.text.endswith("\n\nhello")
