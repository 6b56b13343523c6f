"""``agent`` and ``agent.wait``: turns that are answered twice, and waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import BackendError, StoreError
from gateway.model import Usage
from tests.app.harness import Call, Client, Gate

Gates = Callable[..., Gate]
MAIN = "agent:main:main"


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def ask(client: Client, run: str = "r1", **params: Any) -> Call:
    """Ask for a turn."""
    return client.call("agent", {"message": "hello", "idempotencyKey": run, **params})


def protocol_of(client: Client) -> int:
    """Return the version of a client."""
    return client.connection.protocol


# -- agent


def test_two_answers(gate: Gate, client: Client) -> None:
    """A turn is answered when it is accepted, and with the same id when it has ended."""
    call = ask(client)
    accepted = dict(call.payload)
    gate.clock.advance(2)
    gate.live().sink.text("the ")
    gate.live().sink.text("answer")
    gate.live().end(usage=Usage(input_tokens=1, output_tokens=2), provider="p", model="m")

    four = {"sessionKey": MAIN, "agentId": "main"} if protocol_of(client) == 4 else {}
    assert (
        accepted
        == {
            "runId": "r1",
            "status": "accepted",
            "acceptedAt": gate.clock.now_ms() - 2000,
        }
        | four
    )
    final = call.payload
    session = final["result"]["meta"]["agentMeta"].pop("sessionId")
    assert session == gate.live().request.session_id
    assert final == {
        "runId": "r1",
        "status": "ok",
        "summary": "completed",
        "result": {
            "payloads": [{"text": "the answer", "mediaUrl": None}],
            "meta": {
                "durationMs": 2000,
                "aborted": False,
                "agentMeta": {
                    "provider": "p",
                    "model": "m",
                    "usage": {"input": 1, "output": 2, "totalTokens": 3},
                },
            },
        },
    }
    assert len(call.frames) == 2


def test_a_turn_without_words(gate: Gate, client: Client) -> None:
    """A turn that said nothing has no payloads."""
    call = ask(client)
    gate.live().end()

    assert call.payload["result"]["payloads"] == []


def test_a_turn_that_fails(gate: Gate, client: Client) -> None:
    """The second answer to a turn that failed is a refusal with a payload."""
    call = ask(client)
    gate.live().done.errback(BackendError("no money"))

    assert [frame["ok"] for frame in call.frames] == [True, False]
    assert call.error == {"code": "UNAVAILABLE", "message": "no money"}
    assert call.frame["payload"] == {"runId": "r1", "status": "error", "summary": "no money"}


def test_a_turn_that_is_aborted(gate: Gate, client: Client) -> None:
    """The second answer to a turn that was aborted says so, with what was said until then."""
    call = ask(client)
    gate.live().sink.text("partial")
    client.ok("chat.abort", {"sessionKey": "main"})

    assert (call.payload["status"], call.payload["summary"]) == ("ok", "aborted")
    assert call.payload["result"]["meta"]["aborted"]
    assert call.payload["result"]["payloads"][0]["text"] == "partial"


def test_a_turn_aborted_while_it_is_accepted(gate: Gate, client: Client) -> None:
    """A turn that is aborted before the store has it is answered twice all the same."""
    gate.store.hanging.add("accept_turn")
    call = ask(client)
    client.ok("chat.abort", {"sessionKey": "main"})
    gate.store.release()

    assert [frame["payload"]["status"] for frame in call.frames] == ["accepted", "ok"]
    assert call.payload["result"]["meta"]["durationMs"] == 0


def test_an_answer_without_the_store(
    gate: Gate, client: Client, expected_failures: list[type[BaseException]]
) -> None:
    """The text of a turn reaches who asked even where the store did not keep it."""
    expected_failures.append(StoreError)
    call = ask(client)
    gate.store.failing["finish_turn"] = StoreError("disk full")
    gate.store.failing["list_messages"] = StoreError("disk full")
    gate.live().sink.text("answer")
    gate.live().end()

    assert call.payload["result"]["payloads"][0]["text"] == "answer"


def test_a_repeated_turn(gate: Gate, client: Client) -> None:
    """A repeat while the turn goes is answered twice as well; after its end once, with the text."""
    first, second = ask(client), ask(client)
    gate.live().sink.text("answer")
    gate.live().end()
    third = ask(client)

    assert [frame["payload"]["status"] for frame in second.frames] == ["accepted", "ok"]
    assert [frame["payload"]["status"] for frame in third.frames] == ["ok"]
    assert third.payload["result"]["payloads"] == first.payload["result"]["payloads"]
    assert gate.backend.started == ["r1"]


def test_a_client_that_is_lost(gate: Gate, client: Client) -> None:
    """A turn goes on when who asked for it is gone, and is known to who comes back."""
    call = ask(client)
    call.cancel()
    client.leave()
    gate.live().sink.text("answer")
    gate.live().end()
    again = ask(gate.client())

    assert len(call.frames) == 1
    assert gate.messages()[-1] == ("assistant", "answer")
    assert again.payload["status"] == "ok"
    assert gate.runs._awaited == {}


def test_a_turn_that_never_ends(gate: Gate, client: Client) -> None:
    """Who waits a day for the end of a turn is told that it did not come."""
    object.__setattr__(gate.services.agents.default, "timeout_s", 0)
    call = ask(client)
    gate.clock.advance(24 * 3600)

    assert call.error["message"] == "the run did not end in time"
    assert call.error["retryable"]


def test_what_a_turn_may_say(gate: Gate, client: Client) -> None:
    """A turn may bring files, a prompt of its own, a level of thinking and a timeout in seconds."""
    ask(
        client,
        attachments=[{"fileName": "a.txt", "mimeType": "text/plain", "content": "aGk="}],
        extraSystemPrompt="be brief",
        thinking="low",
        timeout=7,
        channel="webchat",
        replyChannel="last",
        lane="main",
        inputProvenance={"kind": "external_user"},
    )

    request = gate.live().request
    assert (request.extra_system_prompt, request.thinking, request.timeout_s) == (
        "be brief",
        "low",
        7,
    )
    assert request.attachments[0].file_name == "a.txt"


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"channel": "marschat"}, "unknown channel: marschat"),
        ({"replyChannel": "marschat"}, "unknown channel: marschat"),
        ({"agentId": "nope"}, 'unknown agent id "nope"'),
        ({"agentId": "other", "sessionKey": MAIN}, 'agent "other" does not match'),
        ({"sessionKey": "agent:"}, 'malformed session key "agent:"'),
        ({"sessionKey": "agent:nope:x"}, 'Agent "nope" no longer exists'),
        ({"message": " \n"}, "message must not be blank"),
        ({"message": "a\x00"}, "null bytes"),
        ({"attachments": [{"fileName": "x", "content": "!"}]}, "attachment x: invalid base64"),
        ({"sessionId": "s" * 200}, "at /sessionId: too long"),
    ],
)
def test_turns_that_are_refused(gates: Gates, params: dict[str, Any], text: str) -> None:
    """A turn for somebody who is not there, or with nothing to say, is refused with the reason."""
    gate = gates(others=["other"])
    for protocol in (3, 4):
        error = ask(gate.client(protocol), **params).error

        assert error["code"] == "INVALID_REQUEST"
        assert text in error["message"]


def test_whose_session(gates: Gates) -> None:
    """Without a session a turn is in the main one, of the agent it names or the default one."""
    gate = gates(others=["other"])
    client = gate.client()
    ask(client, "r1")
    ask(client, "r2", agentId=" Other ")
    ask(client, "r3", sessionKey="work", agentId="main")
    ask(client, "r4", sessionKey="agent:other:x", agentId="other")

    assert [drive.run.session_key for drive in gate.runs._drives.values()] == [
        MAIN,
        "agent:other:main",
        "agent:main:work",
        "agent:other:x",
    ]


def test_a_session_by_its_id(gate: Gate, client: Client) -> None:
    """A turn that names a session by its id goes to that session; a key wins over an id."""
    client.ok("sessions.create", {"key": "work"})
    known = client.ok("sessions.describe", {"key": "work"})["session"]["sessionId"]
    ask(client, "r1", sessionId=known)
    ask(client, "r2", sessionId=known, sessionKey="other")

    assert gate.live("r1").request.session_key == "agent:main:work"
    assert gate.live("r2").request.session_key == "agent:main:other"


# -- agent.wait


def test_waiting_for_a_run(gate: Gate, client: Client) -> None:
    """Who waits for a run is told how it ended, however often and whenever it asks."""
    waits = [client.call("agent.wait", {"runId": "r1", "timeoutMs": 60_000})]
    client.send("hello")
    waits += [client.call("agent.wait", {"runId": "r1"}) for _ in range(3)]
    gate.clock.advance(2)
    gate.live().end(stop_reason="length")
    waits.append(client.call("agent.wait", {"runId": "r1", "timeoutMs": 0}))

    reason = {"stopReason": "length"} if protocol_of(client) == 4 else {}
    for call in waits:
        assert (
            call.payload
            == {
                "runId": "r1",
                "status": "ok",
                "startedAt": gate.clock.now_ms() - 2000,
                "endedAt": gate.clock.now_ms(),
            }
            | reason
        )


@pytest.mark.parametrize(("timeout", "seconds"), [({}, 30), ({"timeoutMs": 500}, 0.5)])
def test_waiting_in_vain(
    gate: Gate, client: Client, timeout: dict[str, int], seconds: float
) -> None:
    """Who waits too long is told so, after 30 seconds unless it said otherwise."""
    call = client.call("agent.wait", {"runId": "r1", **timeout})
    gate.clock.advance(seconds - 0.1)
    before = list(call.frames)
    gate.clock.advance(0.2)

    assert before == []
    assert call.payload == {"runId": "r1", "status": "timeout"}


@pytest.mark.parametrize("ending", ["error", "abort"])
def test_waiting_for_other_ends(gate: Gate, client: Client, ending: str) -> None:
    """A run that failed is waited for as an error, one that was aborted as a timeout."""
    call = client.call("agent.wait", {"runId": "r1"})
    client.send("hello")
    if ending == "error":
        gate.live().done.errback(BackendError("no"))
        assert (call.payload["status"], call.payload["error"]) == ("error", "no")
    else:
        client.ok("chat.abort", {"sessionKey": "main"})
        assert call.payload["status"] == "timeout"
        assert "error" not in call.payload


def test_a_run_that_never_began(gate: Gate, client: Client) -> None:
    """A run that was aborted while it waited has an end, and no beginning."""
    client.send("one", run="r1")
    client.send("two", run="r2")
    call = client.call("agent.wait", {"runId": "r2"})
    client.ok("chat.abort", {"sessionKey": "main", "runId": "r2"})

    assert "startedAt" not in call.payload
    assert call.payload["endedAt"] == gate.clock.now_ms()


def test_waiting_after_a_restart(gate: Gate, client: Client) -> None:
    """A run that ended before a restart is known to who waits for it afterwards."""
    client.send("hello")
    gate.live().end()
    again = gate.restarted().client(protocol_of(client))

    assert again.ok("agent.wait", {"runId": "r1"})["status"] == "ok"


def test_a_wait_that_is_lost(gate: Gate, client: Client) -> None:
    """A wait ends with its connection."""
    call = client.call("agent.wait", {"runId": "r1"})
    call.cancel()

    assert call.frames == []
    assert gate.runs._awaited == {}
    assert gate.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        (3, {"status": "timeout"}),
        (4, {"status": "pending", "timeoutPhase": "queue", "providerStarted": False}),
    ],
)
def test_a_wait_for_what_has_not_begun(gate: Gate, protocol: int, answer: dict[str, Any]) -> None:
    """Who waits in vain for a run that waits itself is told so in protocol 4; of one that goes he is not."""
    client = gate.client(protocol)
    client.send("one", run="r1")
    client.send("two", run="r2")

    goes = client.call("agent.wait", {"runId": "r1", "timeoutMs": 0})
    waits = client.call("agent.wait", {"runId": "r2", "timeoutMs": 0})
    gate.clock.advance(0)

    assert goes.payload == {"runId": "r1", "status": "timeout"}
    assert waits.payload == {"runId": "r2", **answer}
