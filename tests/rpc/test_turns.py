"""``chat.send`` and ``chat.abort`` as clients of both versions use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.errors import BackendError, StoreError
from gateway.rpc.asking import GREETING
from gateway.testing import result_of
from tests.app.harness import WRITE, Client, Gate

Gates = Callable[..., Gate]
MAIN = "agent:main:main"
NOTHING = {"ok": True, "aborted": False, "runIds": []}


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def protocol_of(client: Client) -> int:
    """Return the version of a client."""
    return client.connection.protocol


def session_id(gate: Gate, key: str = MAIN) -> str:
    """Return the id of a session."""
    found: str = result_of(gate.store.get_session(key)).session_id
    return found


# -- sending


def test_what_a_backend_gets(gate: Gate, client: Client) -> None:
    """A message reaches its agent with what the client asked for."""
    client.send("hello", "Work", thinking="high", deliver=True, timeoutMs=2500)

    request = gate.live().request
    assert (request.run_id, request.session_key) == ("r1", "agent:main:work")
    assert (request.text, request.thinking, request.timeout_s) == ("hello", "high", 2.5)
    assert request.session_id == session_id(gate, "agent:main:work")
    assert request.attachments == ()


def test_the_answer_by_version(gate: Gate, client: Client) -> None:
    """Both versions learn that the run started; version 4 the message's place as well."""
    answer = client.send("hello").payload

    place = {"messageSeq": 1} if protocol_of(client) == 4 else {}
    assert answer == {"runId": "r1", "status": "started"} | place


def test_a_message_while_a_run_goes(gate: Gate, client: Client) -> None:
    """A message sent while a run goes is a run of its own, which goes when that has ended."""
    client.send("one", run="r1")
    second = client.send("two", run="r2").payload
    waiting = list(gate.backend.started)
    gate.live("r1").end()

    assert second["status"] == "started"
    assert waiting == ["r1"]
    assert gate.backend.started == ["r1", "r2"]


def test_a_repeat_of_what_was_aborted(gate: Gate, client: Client) -> None:
    """A repeat of a message whose run was aborted is answered in the words of its version."""
    client.send("hello")
    client.ok("chat.abort", {"sessionKey": "main"})

    answer = client.send("hello").payload

    if protocol_of(client) == 3:
        assert answer == {"runId": "r1", "status": "ok"}
    else:
        assert answer == {
            "runId": "r1",
            "status": "timeout",
            "summary": "aborted",
            "stopReason": "rpc",
            "endedAt": gate.clock.now_ms(),
        }


def test_a_repeat_of_what_failed(gate: Gate, client: Client) -> None:
    """A repeat of a message whose run failed is refused with that failure, beside its payload."""
    client.send("hello")
    gate.live().done.errback(BackendError("no money"))

    frame = client.send("hello").frame

    assert frame["error"] == {"code": "UNAVAILABLE", "message": "no money"}
    assert frame["payload"] == {"runId": "r1", "status": "error", "summary": "no money"}


def test_a_policy_that_denies(gate: Gate, client: Client) -> None:
    """A session whose send policy denies takes no messages, but can be stopped."""
    client.ok("sessions.patch", {"key": "main", "sendPolicy": "deny"})

    for call in (
        client.send("hello"),
        client.send("/new"),
        client.call("agent", {"message": "hello", "idempotencyKey": "r2"}),
    ):
        assert call.error["message"] == "send blocked by session policy"
    assert client.send("/stop").payload == NOTHING
    client.ok("sessions.patch", {"key": "main", "sendPolicy": None})
    assert client.send("hello").payload["status"] == "started"


# -- stopping


@pytest.mark.parametrize("word", ["/stop", "stop", "Stop!", " STOP ", "停止", "abort", "esc"])
def test_stop_words(gate: Gate, client: Client, word: str) -> None:
    """A message that only says stop aborts every run of its session and starts none."""
    client.send("one", run="r1")
    client.send("two", run="r2")
    client.send("other", "elsewhere", run="r3")

    answer = client.send(word, run="r4").payload

    assert answer == {"ok": True, "aborted": True, "runIds": ["r2", "r1"]}
    assert client.ends("r1") == client.ends("r2") == (["aborted"], ["end"])
    assert client.ends("r3") == ([], [])
    assert client.events("chat")[-1]["stopReason"] == "stop"
    assert gate.backend.started == ["r1", "r3"]


def test_nothing_to_stop(gate: Gate, client: Client) -> None:
    """Where nothing goes, stopping does nothing."""
    assert client.send("stop").payload == NOTHING
    assert gate.messages() == []


def test_words_that_are_meant(gate: Gate) -> None:
    """A client may ask that its text is not read as a command."""
    client = gate.client(4, scopes=WRITE)
    for run, text in (("r1", "stop"), ("r2", "/new"), ("r3", "/reset now")):
        client.send(text, run=run, suppressCommandInterpretation=True)

    assert [text for _, text in gate.messages()] == ["stop", "/new", "/reset now"]


def test_abort_one_of_a_session(gate: Gate, client: Client) -> None:
    """One run of a session can be aborted by its id; others go on."""
    client.send("one", run="r1")
    client.send("two", run="r2")

    assert client.ok("chat.abort", {"sessionKey": "main", "runId": "r1"}) == {
        "ok": True,
        "aborted": True,
        "runIds": ["r1"],
    }
    assert client.ends("r1") == (["aborted"], ["end"])
    assert gate.backend.started == ["r1", "r2"]


def test_abort_of_nothing(gate: Gate, client: Client) -> None:
    """A run that is not there, or is over, is none that can be aborted."""
    client.send("hello")
    gate.live().end()

    for params in ({"runId": "r1"}, {"runId": "nope"}, {}):
        assert client.ok("chat.abort", {"sessionKey": "main", **params}) == NOTHING


def test_abort_of_a_run_elsewhere(gate: Gate, client: Client) -> None:
    """A run is aborted only by the key of its own session."""
    client.send("hello")

    error = client.refused("chat.abort", {"sessionKey": "other", "runId": "r1"})

    assert error["message"] == "runId does not match sessionKey"
    assert len(gate.runs) == 1


# -- beginning anew


@pytest.mark.parametrize("command", ["new", "reset"])
def test_beginning_anew(gate: Gate, client: Client, command: str) -> None:
    """``/new`` and ``/reset`` stop what goes, begin the session anew, and say what follows."""
    client.ok("sessions.subscribe")
    client.send("before", run="r1")
    old = session_id(gate)

    answer = client.send(f"/{command} now this", run="r2").payload

    assert answer["status"] == "started"
    assert client.ends("r1") == (["aborted"], ["end"])
    assert gate.messages() == [("user", "now this")]
    assert (session_id(gate) == old) is (protocol_of(client) == 4)
    reasons = [event.get("reason") for event in client.events("sessions.changed")]
    assert command in reasons


def test_beginning_anew_without_a_word(gate: Gate, client: Client) -> None:
    """Without a message the agent is told to greet."""
    client.send("/new")

    assert gate.live().request.text == GREETING


def test_beginning_anew_is_for_admins(gate: Gate) -> None:
    """Who is no admin can't begin a session anew by a message, in either version."""
    for protocol, code in ((3, "INVALID_REQUEST"), (4, "FORBIDDEN")):
        client = gate.client(protocol, scopes=WRITE)
        client.send("before", run=f"r{protocol}")
        for call in (
            client.send("/new", run="x"),
            client.call("agent", {"message": "/reset", "idempotencyKey": "y"}),
        ):
            assert call.error["code"] == code
            assert call.error["message"] == "missing scope: operator.admin"
    assert len(gate.runs) == 2


def test_a_repeat_begins_nothing_anew(gate: Gate, client: Client) -> None:
    """A repeat of ``/new`` begins nothing anew: not while its run goes, not after, not after a restart."""
    client.send("/new hello")
    first = session_id(gate)
    while_it_goes = client.send("/new hello").payload["status"]
    gate.live().sink.text("answer")
    gate.live().end()
    after = client.send("/new hello").payload["status"]
    again = gate.restarted()
    after_a_restart = again.client(protocol_of(client)).send("/new hello").payload["status"]

    assert (while_it_goes, after, after_a_restart) == ("in_flight", "ok", "ok")
    assert session_id(gate) == first
    assert gate.messages() == [("user", "hello"), ("assistant", "answer")]


def test_a_bad_message_begins_nothing_anew(gate: Gate, client: Client) -> None:
    """A message that is refused leaves its session as it was."""
    client.send("before", run="r1")
    old = session_id(gate)

    client.send("/new hello", run="r2", attachments=[{"content": "!"}]).error  # noqa: B018
    client.send("/new hello", run="r" * 2000).error  # noqa: B018

    assert session_id(gate) == old
    assert client.ends("r1") == ([], [])


def test_a_reset_that_the_store_refuses(
    gate: Gate, client: Client, expected_failures: list[type[BaseException]]
) -> None:
    """Where the session can't begin anew there is no run, and the message may be sent again."""
    expected_failures.append(StoreError)
    gate.store.failing["update_session"] = StoreError("disk full")
    refused = client.send("/new hello").error
    gate.store.failing.clear()

    assert refused["retryable"]
    assert client.send("/new hello").payload["status"] == "started"
