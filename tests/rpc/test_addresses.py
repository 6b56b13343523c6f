"""Where a message comes from, and where its answer belongs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.transcript import text_of
from gateway.model import InputProvenance, ReplyAddress
from gateway.testing import result_of
from tests.app.harness import WRITE, Client, Gate
from tests.app.test_recovery import recovered

SOURCE = {"kind": "inter_session", "sourceSessionKey": "agent:main:a", "sourceTool": "send"}


def ask(client: Client, run: str = "r1", **params: Any) -> Any:
    """Start a run with ``agent``."""
    return client.call("agent", {"message": "hello", "idempotencyKey": run, **params})


# -- addresses


def test_the_address_of_a_chat_message(gate: Gate) -> None:
    """The address of chat.send is its originating fields."""
    gate.client().send(
        "hello",
        originatingChannel="webchat",
        originatingTo=" you ",
        originatingAccountId="a",
        originatingThreadId="t",
    )

    assert gate.live().request.reply == ReplyAddress(
        channel="webchat", to="you", account_id="a", thread_id="t"
    )


def test_no_address(gate: Gate) -> None:
    """Without such fields there is none; ``last`` names no channel."""
    gate.client().send("hello", run="r1", key="a", originatingChannel="last", originatingTo=" ")
    ask(gate.client(), "r2", channel="last", sessionKey="b")

    assert gate.live("r1").request.reply is None
    assert gate.live("r2").request.reply is None


def test_the_address_of_an_agents_answer(gate: Gate) -> None:
    """The reply fields of ``agent`` go before where the message came from; the final answer has them."""
    call = ask(
        gate.client(),
        channel="webchat",
        to="me",
        replyTo="you",
        accountId="a",
        replyAccountId="b",
        threadId="t",
    )
    gate.live().end()

    reply = ReplyAddress(channel="webchat", to="you", account_id="b", thread_id="t")
    assert gate.live().request.reply == reply
    assert call.payload["result"]["meta"]["deliveryContext"] == {
        "channel": "webchat",
        "to": "you",
        "accountId": "b",
        "threadId": "t",
    }


def test_a_channel_that_does_not_exist(gate: Gate) -> None:
    """What is to be delivered to a channel that does not exist is refused; an address alone is kept."""
    client = gate.client()
    refused = [
        client.send("hello", deliver=True, originatingChannel="telegram").error,
        ask(client, channel="telegram").error,
        ask(client, replyChannel="telegram", deliver=True).error,
    ]

    assert [error["message"] for error in refused] == [
        "invalid chat.send params: unknown channel: telegram",
        "invalid agent params: unknown channel: telegram",
        "invalid agent params: unknown channel: telegram",
    ]
    client.send("hello", originatingChannel="telegram")
    assert gate.live().request.reply == ReplyAddress(channel="telegram")


def test_the_address_survives_a_restart(gate: Gate) -> None:
    """A message that waited through a restart is answered to the address that it came with."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2", originatingTo="you", systemInputProvenance=SOURCE)

    again = gate.restarted()
    recovered(again)

    request = again.live("r2").request
    assert request.reply == ReplyAddress(to="you")
    assert request.provenance is not None


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.sampled_from(("end", "move")), st.integers(0, 5), st.integers(0, 1)),
)


@settings(max_examples=40)
@given(steps=st.lists(STEPS, max_size=20))
def test_an_address_is_that_of_the_message(steps: list[Any]) -> None:
    """However users and sessions take turns, a run keeps its address and its watchers those it may have."""
    gate = Gate()
    users = [
        gate.client(device_id=f"d{n}", scopes=WRITE, caps=["session-scoped-events"])
        for n in range(3)
    ]
    outsider = gate.client(scopes=())
    watched: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    sent: dict[str, tuple[ReplyAddress, str]] = {}
    for number, (step, who, at) in enumerate(steps):
        run, key = f"r{number}", f"agent:main:s{at}"
        if step == "send":
            if key not in watched[who]:
                watched[who].add(key)
                users[who].ok("sessions.messages.subscribe", {"key": key})
            mode = ("followup", "collect", "interrupt")[number % 3]
            to = f"user {who}"
            users[who].send("hello", key, run, originatingTo=to, queueMode=mode)
            sent[run] = (ReplyAddress(to=to), key)
        elif step == "end":
            going = [each for each in gate.backend.live.values() if not each.done.called]
            if going:
                going[who % len(going)].end()
        elif result_of(gate.store.get_session(key)) is not None:
            result_of(
                gate.store.update_session(key, lambda s: replace(s, last_channel="elsewhere"))
            )
    for _ in range(30):
        gate.clock.advance(1)
        for each in list(gate.backend.live.values()):
            if not each.done.called:
                each.end()

    for run, live in gate.backend.live.items():
        assert live.request.reply == sent[run][0]
        assert all(sent[other][0] == sent[run][0] for other in live.request.collected)
    for who, user in enumerate(users):
        seen = {e["runId"] for name in ("chat", "agent") for e in user.events(name)}
        assert seen <= {run for run, (_, key) in sent.items() if key in watched[who]}
        for run in {run for run, (reply, _) in sent.items() if reply.to == f"user {who}"}:
            assert len(user.ends(run)[0]) == 1
    assert outsider.events("chat") == outsider.events("agent") == []
    gate.close()


# -- provenance


def stored_meta(gate: Gate) -> dict[str, Any]:
    """Return what the transcript keeps beside the first message."""
    session = result_of(gate.store.get_session("agent:main:main"))
    (message, *_) = result_of(gate.store.list_messages(session.session_id, limit=5))
    assert message.content == [{"type": "text", "text": "hello"}]
    meta: dict[str, Any] = message.meta
    return meta


def test_a_message_of_another_session(gate: Gate) -> None:
    """A message that says that it comes from another session is kept as such, and shown so to the agent."""
    client = gate.client(scopes=WRITE)
    ask(client, inputProvenance=SOURCE)

    request = gate.live().request
    assert request.provenance == InputProvenance(
        kind="inter_session", source_session_key="agent:main:a", source_tool="send"
    )
    assert request.text.startswith("[This message was sent by another session")
    assert request.text.endswith("]\n\nhello")
    assert stored_meta(gate) == {"provenance": SOURCE}
    (shown,) = client.ok("chat.history", {"sessionKey": "main"})["messages"]
    assert (shown["provenance"], shown["content"][0]["text"]) == (SOURCE, "hello")


def test_the_history_of_later_runs_says_it_too(gate: Gate) -> None:
    """An agent that asks for the history is told there what was not the user's."""
    client = gate.client()
    ask(client, inputProvenance=SOURCE)
    gate.live().end()
    client.send("next", run="r2")

    (message, *_) = result_of(gate.live("r2").sink.history(5))

    assert message.content[0]["text"].startswith("[This message was sent by another session")
    assert text_of(message.content).count("[This message was sent by another session") == 1


def test_a_bridge_says_where_a_message_comes_from(gate: Gate) -> None:
    """An admin's bridge may say where a chat message comes from; the agent gets its receipt as well."""
    gate.client().send("hello", systemInputProvenance=SOURCE, systemProvenanceReceipt="receipt 5")

    assert gate.live().request.text.startswith("receipt 5\n\n[This message was sent by another")
    assert stored_meta(gate) == {"provenance": SOURCE}


@pytest.mark.parametrize(
    "claim", [{"systemInputProvenance": SOURCE}, {"systemProvenanceReceipt": "receipt"}]
)
def test_nobody_else_may_say_it(gate: Gate, claim: dict[str, Any]) -> None:
    """Who is no admin can't say of a chat message that it comes from elsewhere."""
    error = gate.client(scopes=WRITE).send("hello", **claim).error

    assert error["details"]["missingScope"] == "operator.admin"
    assert gate.backend.started == []
