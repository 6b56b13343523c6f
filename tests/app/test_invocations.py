"""What nodes are asked to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app.invocations import PROGRESS_CAP
from gateway.core.invocation import MIN_CHUNK_BYTES, Ask
from gateway.errors import Unavailable
from gateway.model import NodeSurface
from gateway.testing import result_of
from tests.app.asking import COMMANDS, EXEC_APPROVALS, answer, asked, cancelled, invoke, live_node
from tests.app.harness import WRITE, Client, Gate, assert_fits

VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


def nothing_left(gate: Gate) -> bool:
    """Whether no invocation, and no timer of one, is left."""
    invocations = gate.services.invocations
    held = len(invocations) + len(invocations._keys) + len(invocations._of_connection)
    return not held and invocations._timer is None


@VERSIONS
def test_a_command_is_answered_once(gate: Gate, protocol: int) -> None:
    """A command goes to the node alone, and its answer to who asked; what the node says again is ignored."""
    node, client, other = live_node(gate, protocol), gate.client(protocol), gate.client()
    call = invoke(client, params={"title": "x"}, timeoutMs=3000)
    request = asked(node)[0]
    first = answer(node, payloadJSON='{"a": [1]}')
    second = answer(node, payloadJSON='"late"')

    assert_fits(3, "NodeInvokeRequestEvent", request)
    assert request == {
        "id": request["id"],
        "nodeId": "n1",
        "command": "system.notify",
        "paramsJSON": '{"title":"x"}',
        "timeoutMs": 3000,
        "idempotencyKey": "k1",
    }
    assert "seq" not in node.frames[-1]
    assert (first, second) == ({"ok": True}, {"ok": True, "ignored": True})
    assert [frame["payload"] for frame in call.frames] == [
        {
            "ok": True,
            "nodeId": "n1",
            "command": "system.notify",
            "payload": {"a": [1]},
            "payloadJSON": '{"a": [1]}',
        }
    ]
    assert not asked(client)
    assert not asked(other)
    assert nothing_left(gate)


@pytest.mark.parametrize(
    ("result", "payload", "text"),
    [
        ({"payload": {"x": 1}}, {"x": 1}, None),
        ({"payload": {"x": 1}, "payloadJSON": None}, {"x": 1}, None),
        ({"payloadJSON": {"y": 2}}, {"y": 2}, None),
        ({"payload": 1, "payloadJSON": {"y": 2}}, 1, None),
        ({"payload": 1, "payloadJSON": "[2]"}, [2], "[2]"),
        ({"payload": 1, "payloadJSON": ""}, 1, None),
        ({"payloadJSON": "no json"}, {"payloadJSON": "no json"}, "no json"),
        ({"error": None}, None, None),
        ({}, None, None),
    ],
)
def test_what_an_answer_may_hold(gate: Gate, result: Any, payload: Any, text: Any) -> None:
    """JSON text wins over a value, null is nothing, a value in the text's place is a value, and what is no JSON is handed on."""  # noqa: E501
    node, call = live_node(gate), invoke(gate.client())
    answer(node, **result)

    assert (call.payload["payload"], call.payload["payloadJSON"]) == (payload, text)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"code": "BUSY", "message": "not now"}, "BUSY", "not now"),
        ({}, "UNAVAILABLE", "node invoke failed"),
        (None, "UNAVAILABLE", "node invoke failed"),
        ({"code": "C" * 999, "message": "m" * 9999}, "C" * 128, "m" * 4096),
    ],
)
def test_a_node_refuses(gate: Gate, error: Any, code: str, message: str) -> None:
    """What a node says of its failure is told in the words of the asker's version, and bounded."""
    node, old, new = live_node(gate), gate.client(3), gate.client(4, device_id="d")
    calls = [invoke(old), invoke(new)]
    answer(node, 0, ok=False, error=error)
    answer(node, 1, ok=False, error=error)

    shown = {"nodeError": {"code": code, "message": message}}
    assert calls[0].error == {"code": "UNAVAILABLE", "message": message, "details": shown}
    assert calls[1].error == {
        "code": "UNAVAILABLE",
        "message": f"{code}: {message}",
        "details": {**shown, "nodeCommandDispatched": True},
    }


@VERSIONS
def test_a_node_that_never_answers(gate: Gate, protocol: int) -> None:
    """A node that never answers costs its time and no more; a node of version 4 is told to leave it."""
    node, client = live_node(gate, protocol), gate.client(protocol)
    slow, quick = invoke(client), invoke(client, key="k2", timeoutMs=500)
    gate.clock.advance(0.499)
    before = len(quick.frames)
    gate.clock.advance(0.001)
    after, left = quick.error, len(slow.frames)
    gate.clock.advance(29.5)

    assert (before, left) == (0, 0)
    text = "TIMEOUT: node invoke timed out" if protocol == 4 else "node invoke timed out"
    assert after["message"] == slow.error["message"] == text
    assert after["details"]["nodeError"] == {"code": "TIMEOUT", "message": "node invoke timed out"}
    ids = [request["id"] for request in asked(node)]
    assert cancelled(node) == (ids[::-1] if protocol == 4 else [])
    assert [request["timeoutMs"] for request in asked(node)] == [30_000, 500]
    assert nothing_left(gate)


def test_the_longest_time(gates: Callable[..., Gate]) -> None:
    """No request can wait longer for a node than the limit says, and one without any time ends at once."""
    gate = gates(limits={"node_timeout_s": 5.0})
    node, client = live_node(gate), gate.client()
    long, none = invoke(client, timeoutMs=10**9), invoke(client, key="k2", timeoutMs=0)
    gate.turn()
    ended = none.error["details"]["nodeError"]["code"]
    gate.clock.advance(5)

    assert ended == "TIMEOUT"
    assert long.error["message"].startswith("TIMEOUT")
    assert [request["timeoutMs"] for request in asked(node)] == [5000, 0]


def test_a_node_that_goes(gate: Gate) -> None:
    """A node that goes fails everything it was asked, at once and once."""
    node, client = live_node(gate), gate.client()
    calls = [invoke(client, key=f"k{n}") for n in range(3)]
    node.leave()

    assert {call.error["message"] for call in calls} == {"node disconnected (system.notify)"}
    assert {len(call.frames) for call in calls} == {1}
    assert nothing_left(gate)
    gone = invoke(client, key="k9").error
    assert gone["details"]["code"] == "NOT_CONNECTED"


def test_an_older_connection_answers_what_it_was_asked(gate: Gate) -> None:
    """What was asked over a connection is answered over it alone, also after a newer one took its place."""
    older, client = live_node(gate), gate.client()
    first = invoke(client)
    newer = live_node(gate)
    second = invoke(client, key="k2")
    foreign = newer.ok(
        "node.invoke.result", {"id": asked(older)[0]["id"], "nodeId": "n1", "ok": True}
    )
    answer(older, payload=1)
    older.leave()

    assert foreign == {"ok": True, "ignored": True}
    assert (len(asked(older)), len(asked(newer))) == (1, 1)
    assert first.payload["payload"] == 1
    assert not second.frames
    answer(newer, payload=2)
    assert second.payload["payload"] == 2
    assert nothing_left(gate)


def test_who_asks_goes(gate: Gate) -> None:
    """The last one who waits takes the request back from the node; the key then tells what became of it."""
    node, client = live_node(gate), gate.client()
    calls = [invoke(client), invoke(client)]
    calls[0].cancel()
    still = len(gate.services.invocations)
    calls[1].cancel()

    assert still == 1
    assert cancelled(node) == [asked(node)[0]["id"]]
    assert answer(node)["ignored"]
    assert invoke(gate.client()).error["details"]["nodeError"]["code"] == "CANCELLED"
    assert nothing_left(gate)


def test_what_a_node_may_do_changes(gate: Gate) -> None:
    """What a node may not be asked any more ends, and what it may still be asked goes on."""
    node, client = live_node(gate), gate.client()
    kept, lost = invoke(client, "system.which"), invoke(client, key="k2")
    nodes = gate.services.nodes
    nodes.set_live("n1", node.connection.conn_id, NodeSurface(commands=("system.which",)))

    assert not kept.frames
    assert lost.error == {
        "code": "UNAVAILABLE",
        "message": "node pairing changed while invocation was active",
        "details": {"code": "PAIRING_CHANGED"},
        "retryable": True,
    }
    assert cancelled(node) == [asked(node)[1]["id"]]
    node.leave()


def test_the_gateway_stops(gate: Gate) -> None:
    """When the gateway stops every invocation ends, the nodes are told, and nothing more is asked."""
    node, client = live_node(gate), gate.client()
    call = invoke(client)
    gate.services.invocations.refuse()
    refused, going = invoke(client, key="k2").error, len(call.frames)
    gate.services.invocations.stop()

    assert (refused["message"], refused["retryable"]) == ("the gateway stops", True)
    assert going == 0
    assert (call.error["retryable"], call.error["retryAfterMs"]) == (True, 1000)
    assert cancelled(node) == [asked(node)[0]["id"]]
    assert nothing_left(gate)


def test_an_end_within_an_end(gate: Gate) -> None:
    """Who is answered may end what is about to end; each still ends once."""
    live_node(gate)
    invocations, client = gate.services.invocations, gate.client()
    calls = [invoke(client, key=f"k{n}") for n in range(3)]
    assert calls[0].working is not None
    calls[0].working.addCallback(lambda _none: invocations.stop())
    invocations.stop()

    assert [len(call.frames) for call in calls] == [1, 1, 1]
    assert nothing_left(gate)


@pytest.mark.parametrize(
    "params", [{}, {"runId": "r1"}, {"runId": "r1", "sessionKey": "work"}, {"runId": 5}]
)
def test_which_runs_a_node_was_asked_for(gate: Gate, params: dict[str, Any]) -> None:
    """It is known for a day which runs a node was asked for, and in which session."""
    node, invocations = live_node(gate, 3), gate.services.invocations
    invoke(gate.client(), "system.run", params=params)
    node.leave()

    session = params.get("sessionKey", "") if params.get("runId") == "r1" else None
    told = invocations.session_of_run("r1", "n1")
    assert told == (None if session is None else (session, gate.clock.seconds()))
    assert invocations.session_of_run("r1", "n2") is None
    gate.clock.advance(86_400)
    assert invocations.session_of_run("r1", "n1") is None


def test_what_is_approved_on_a_node(gate: Gate) -> None:
    """A node that may be asked to run programs may be asked for its approvals, by who has a method for it."""
    node = live_node(gate, commands=(*COMMANDS, *EXEC_APPROVALS))
    nodes = gate.services.nodes
    session, asker = nodes.connected[0], gate.client().connection.caller
    ask = Ask(
        node_id="n1",
        command="system.execApprovals.get",
        idempotency_key="k",
        fingerprint="f",
        timeout_s=1,
    )
    asking = Deferred.fromCoroutine(gate.services.invocations.invoke(asker, ask))
    nodes.set_live("n1", node.connection.conn_id, NodeSurface(commands=("system.run",)))
    before = asking.called
    nodes.set_live("n1", node.connection.conn_id, NodeSurface())

    assert session.offered.commands
    assert not before
    with pytest.raises(Unavailable, match="node pairing changed"):
        result_of(asking)


# -- keys


def test_a_repeated_key(gate: Gate) -> None:
    """A request that is repeated with its key waits for the same answer, and gets it afterwards again; the node is asked once."""  # noqa: E501
    node = live_node(gate)
    first, again = invoke(gate.client(), params=[1]), invoke(gate.client(3), params=[1])
    answer(node, payload=7)
    after = invoke(gate.client(), params=[1], timeoutMs=5)
    node.leave()

    assert first.payload == again.payload == after.payload
    assert after.payload["payload"] == 7
    assert len(asked(node)) == 1
    assert invoke(gate.client(), params=[1]).payload["payload"] == 7, "the node has gone"


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("change", [{"params": [2]}, {"command": "system.which"}, {"nodeId": "n2"}])
def test_a_key_for_something_else(gate: Gate, ended: bool, change: dict[str, Any]) -> None:
    """A key that was used for another request is refused, while that goes on and afterwards."""
    node, client = live_node(gate), gate.client()
    invoke(client, params=[1])
    if ended:
        answer(node)
    error = invoke(client, **{"params": [1], **change}).error

    assert error["details"] == {"code": "IDEMPOTENCY_KEY_REUSED"}
    assert len(asked(node)) == 1
    node.leave()


def test_keys_belong_to_who_uses_them(gate: Gate) -> None:
    """Nobody gets the answer of another's key."""
    node = live_node(gate)
    mine, theirs = invoke(gate.client(device_id="a")), invoke(gate.client(device_id="b"))
    answer(node, 0, payload="mine")
    answer(node, 1, payload="theirs")

    assert (mine.payload["payload"], theirs.payload["payload"]) == ("mine", "theirs")


def test_a_refused_key_is_free(gate: Gate) -> None:
    """A key of a request that never left the gateway can be used again."""
    client = gate.client(3)
    invoke(client)
    node = live_node(gate)
    call = invoke(client)
    answer(node)

    assert call.payload["ok"]


def test_keys_are_forgotten(gates: Callable[..., Gate]) -> None:
    """An answer is remembered for a time after its end; then the node is asked again."""
    gate = gates(limits={"idempotency_ttl_s": 60.0})
    node, client = live_node(gate), gate.client()
    invoke(client)
    answer(node)
    gate.clock.advance(60)
    swept = sum(registry.sweep(gate.clock.seconds()) for registry in gate.wiring.registries)
    invoke(client)

    assert swept >= 1
    assert len(asked(node)) == 2
    node.leave()


# -- bounds


def test_params_that_are_too_large(gates: Callable[..., Gate]) -> None:
    """Params beyond the limit are refused before anything leaves, with the limit."""
    gate = gates(limits={"node_params_bytes": 1024})
    node, client = live_node(gate), gate.client()
    error = invoke(client, params="x" * 1023).error
    call = invoke(client, params="x" * 1022)

    assert error["details"] == {"code": "PAYLOAD_TOO_LARGE", "maxBytes": 1024}
    assert len(asked(node)) == 1
    node.leave()
    assert not call.frame["ok"]


@pytest.mark.parametrize("how", ["payload", "payloadJSON"])
def test_an_answer_that_is_too_large(gates: Callable[..., Gate], how: str) -> None:
    """An answer beyond the limit fails the invocation and nothing else; both sides are told why."""
    gate = gates(limits={"node_result_bytes": 1024})
    node, client = live_node(gate), gate.client()
    call = invoke(client)
    told = node.refused(
        "node.invoke.result",
        {"id": asked(node)[0]["id"], "nodeId": "n1", "ok": True, how: "x" * 2000},
    )
    after = invoke(client, key="k2")
    answer(node)

    assert told["details"] == {"code": "PAYLOAD_TOO_LARGE", "maxBytes": 1024}
    assert call.error["details"]["nodeError"]["code"] == "PAYLOAD_TOO_LARGE"
    assert after.payload["ok"]
    assert nothing_left(gate)


def test_an_answer_that_would_grow(gates: Callable[..., Gate]) -> None:
    """A text counts with its escapes, which who asked gets twice; what is too long is not read."""
    gate = gates(limits={"node_result_bytes": 1024})
    node, client = live_node(gate), gate.client()
    call, text = invoke(client), "\x01" * 200
    params = {"id": asked(node)[0]["id"], "nodeId": "n1", "ok": True, "payloadJSON": text}
    told = node.refused("node.invoke.result", params)
    late = node.ok("node.invoke.result", params)
    invoke(client, key="k2")
    fits = answer(node, payloadJSON=text[:160])

    assert told["details"]["code"] == "PAYLOAD_TOO_LARGE"
    assert call.error["details"]["nodeError"]["code"] == "PAYLOAD_TOO_LARGE"
    assert late == {"ok": True, "ignored": True}
    assert fits == {"ok": True}
    assert gate.services.invocations.answers.bytes > 160 * 7


def test_how_many_may_wait(gates: Callable[..., Gate]) -> None:
    """So many commands may wait for one node, and so many in all; who asks more is told to come again."""
    gate = gates(limits={"node_pending_max": 3, "node_pending_per_node": 2})
    node, other, client = live_node(gate), live_node(gate, device_id="n2"), gate.client()
    calls = [invoke(client, key=f"k{n}") for n in range(3)]
    calls += [invoke(client, key=f"o{n}", nodeId="n2") for n in range(2)]

    assert calls[2].error["message"] == "too many commands of this node are waiting"
    assert calls[4].error["message"] == "too many commands of nodes are waiting"
    assert calls[2].error["retryable"] is calls[4].error["retryable"] is True
    assert (len(asked(node)), len(asked(other))) == (2, 1)
    node.leave()
    other.leave()
    assert nothing_left(gate)


def progress(node: Client, seq: int, chunk: str = "x") -> Any:
    """Let a node tell progress of the first thing that it was asked."""
    params = {"invokeId": asked(node)[0]["id"], "nodeId": "n1", "seq": seq, "chunk": chunk}
    return node.ok("node.invoke.progress", params)["ignored"]


def test_progress(gates: Callable[..., Gate]) -> None:
    """Progress in its order goes to who waits, wants it and keeps up; the rest, and too much, is ignored."""
    gate = gates(limits={"node_progress_bytes": 1024})
    node, other = live_node(gate), live_node(gate, device_id="n2")
    watching = gate.client(caps=[PROGRESS_CAP])
    slow, plain = gate.client(caps=[PROGRESS_CAP]), gate.client()
    calls = [invoke(client) for client in (watching, plain, slow)]
    slow.connection.waiting = True
    told = [progress(node, seq, chunk) for seq, chunk in [(0, "a"), (0, "a"), (2, "c"), (1, "é")]]
    told += [progress(node, 2, "x" * 513), progress(node, 2, "x" * 512), progress(node, 3)]
    foreign = {"invokeId": asked(node)[0]["id"], "nodeId": "n2", "seq": 3, "chunk": ""}

    assert told == [False, True, True, False, True, False, True]
    assert other.ok("node.invoke.progress", foreign)["ignored"]
    events = watching.events("node.invoke.progress")
    assert [(event["seq"], event["chunk"][:2]) for event in events] == [
        (0, "a"),
        (1, "é"),
        (2, "xx"),
    ]
    assert events[0]["idempotencyKey"] == "k1"
    assert not plain.events("node.invoke.progress")
    assert not slow.events("node.invoke.progress")
    watching.leave()
    answer(node, payload=1)
    assert {call.payload["payload"] for call in calls} == {1}
    assert progress(node, 3)


def test_empty_progress_is_bounded(gates: Callable[..., Gate]) -> None:
    """Pieces without a word count too: a node can not send its asker events without end."""
    gate = gates(limits={"node_progress_bytes": 4 * MIN_CHUNK_BYTES})
    node, watching = live_node(gate), gate.client(caps=[PROGRESS_CAP])
    call = invoke(watching)

    told = [progress(node, seq, "") for seq in range(6)]
    answer(node)

    assert told == [False] * 4 + [True] * 2
    assert len(watching.events("node.invoke.progress")) == 4
    assert call.payload["ok"]


def test_progress_for_who_has_gone(gate: Gate) -> None:
    """Progress for a client that is not in the hub any more goes nowhere."""
    node, client = live_node(gate), gate.client(caps=[PROGRESS_CAP])
    call = invoke(client)
    client.leave()

    assert not progress(node, 0)
    call.cancel()
    assert not client.events("node.invoke.progress")


def test_a_chunk_is_bounded_in_bytes(gate: Gate) -> None:
    """A piece of progress has at most 16,384 bytes, however few characters that are."""
    node = live_node(gate)
    params = {"invokeId": "i", "nodeId": "n1", "seq": 0}

    assert node.ok("node.invoke.progress", {**params, "chunk": "é" * 8192})["ignored"]
    error = node.refused("node.invoke.progress", {**params, "chunk": "é" * 8193})
    assert "at /chunk: must not have more than 16384 bytes" in error["message"]


# -- what is hard to read


def test_large_numbers_come_through(gate: Gate) -> None:
    """What a node answers is handed on as it is, with whole numbers that no double holds."""
    node, client = live_node(gate), gate.client()
    huge = [2**64, -(2**70), 10**4000]
    texts = [json.dumps(huge), json.dumps({"n": huge})]
    calls = [invoke(client, key=f"k{number}") for number in range(2)]

    answer(node, 0, payload=msgspec.Raw(texts[0].encode()))
    answer(node, 1, payloadJSON=texts[1])

    assert calls[0].payload["payload"] == huge
    assert (calls[1].payload["payload"], calls[1].payload["payloadJSON"]) == ({"n": huge}, texts[1])


@pytest.mark.parametrize("command", ["system.notify", "system.run"])
def test_params_that_are_nested_too_deeply(gate: Gate, command: str) -> None:
    """They are sent on, or refused for what they are, however little too deep they are."""
    live_node(gate)
    client, told = gate.client(), set()
    for depth in range(850, 1010):
        params = msgspec.Raw(b'{"x":' + b"[" * depth + b"]" * depth + b"}")
        call = invoke(client, command, key=f"k{depth}", params=params)
        if call.frames:
            told.add(call.error["message"])
        else:
            call.cancel()

    assert all(text.startswith("invalid node.invoke params: ") for text in told)


# -- others


def test_another_nodes_name(gate: Gate) -> None:
    """A node answers for itself alone."""
    node = live_node(gate)
    params = {"id": "zz", "nodeId": "other", "ok": True}
    progress_params = {"invokeId": "zz", "nodeId": "other", "seq": 0, "chunk": ""}

    assert node.refused("node.invoke.result", params)["message"] == "nodeId mismatch"
    assert node.refused("node.invoke.progress", progress_params)["message"] == "nodeId mismatch"


def test_more_about_a_refusal(gate: Gate) -> None:
    """A part of the gateway may add what it did about a node's refusal."""
    node = live_node(gate)
    gate.services.invocations.node_failed = lambda invocation, code: (
        {"code": "QUEUED", "command": invocation.command} if code == "ASLEEP" else None
    )
    calls = [invoke(gate.client(), key=key) for key in ("k1", "k2")]
    answer(node, 0, ok=False, error={"code": "ASLEEP"})
    answer(node, 1, ok=False, error={"code": "OTHER"})

    assert calls[0].error["details"]["code"] == "QUEUED"
    assert calls[0].error["details"]["nodeError"]["code"] == "ASLEEP"
    assert "code" not in calls[1].error["details"]


ASLEEP = {"code": "NODE_BACKGROUND_UNAVAILABLE", "message": "open the app"}


def test_what_a_node_does_in_the_foreground(gate: Gate) -> None:
    """What a node can not do in the background is kept for it, and who asked is told so; the same request is kept once."""  # noqa: E501
    node, client = live_node(gate), gate.client()
    first = invoke(client, params={"a": 1})
    answer(node, ok=False, error=ASLEEP)
    other = invoke(client, key="k2", params="x" * 300_000)
    answer(node, ok=False, error=ASLEEP)

    details = first.error["details"]
    assert details["code"] == "QUEUED_UNTIL_FOREGROUND"
    assert details["nodeError"] == ASLEEP
    assert "code" not in other.error["details"], "there is no room for it"
    actions = node.ok("node.pending.pull")["actions"]
    assert [(each["id"], each["command"], each["paramsJSON"]) for each in actions] == [
        (details["queuedActionId"], "system.notify", '{"a":1}')
    ]


def test_version_3_can_not_fetch_what_waits(gate: Gate) -> None:
    """Nothing is kept for a node of version 3, which does not ask for it."""
    node = live_node(gate, 3)
    call = invoke(gate.client())
    answer(node, ok=False, error=ASLEEP)

    assert call.error["details"] == {"nodeError": ASLEEP, "nodeCommandDispatched": True}


def test_the_session_of_a_request(gate: Gate) -> None:
    """A node of version 4 is told for which session it is asked; version 3 has no such field."""
    new = live_node(gate)
    invoke(gate.client(), sessionKey="agent:main:main", turnSourceThreadId=5)
    new.leave()
    old = live_node(gate, 3)
    invoke(gate.client(), key="k2", sessionKey="agent:main:main")
    old.leave()

    assert asked(new)[0]["sessionKey"] == "agent:main:main"
    assert "sessionKey" not in asked(old)[0]
    assert_fits(3, "NodeInvokeRequestEvent", asked(old)[0])


@VERSIONS
def test_running_programs_is_for_admins(gate: Gate, protocol: int) -> None:
    """Who may only write can ask for ordinary commands, and not for those that run programs."""
    node, client = live_node(gate), gate.client(protocol, scopes=WRITE)
    call = invoke(client)
    answer(node)
    error = invoke(client, "system.run", key="k2").error

    assert call.payload["ok"]
    assert error["message"] == "missing scope: operator.admin"
    assert len(asked(node)) == 1
