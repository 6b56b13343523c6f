"""What nodes ask agents."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from gateway.app.nodeagent import BY_DEVICE
from gateway.app.nodeturns import MAX_CHARS
from gateway.core.provenance import annotated
from tests.app.harness import Call, Client, Gate, assert_fits


def ask(node: Client, message: Any = "hello", **payload: Any) -> Call:
    """Send a request to an agent."""
    body = {"event": "agent.request", "payload": {"message": message, **payload}}
    return node.call("node.event", body)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_request_starts_a_run(gate: Gate, protocol: int) -> None:
    """A request starts a run in the node's own session, which knows that a device asks."""
    node, watcher = gate.node(protocol), gate.client(7 - protocol)

    assert ask(node, " hello ").payload == {"ok": True}

    (run_id,) = gate.backend.started
    request = gate.live(run_id).request
    assert request.session_key == "agent:main:node-n1"
    assert request.text == annotated("hello", BY_DEVICE) != "hello"
    assert (request.thinking, request.timeout_s) == (None, None)
    assert gate.messages("agent:main:node-n1") == [("user", "hello")]
    gate.live(run_id).end()
    assert watcher.ends(run_id) == (["final"], ["end"])


def test_what_it_may_say(gate: Gate) -> None:
    """Session, thinking level, time and files are heeded; a command is a text like any other."""
    content = b64encode(b"data").decode()
    ask(
        gate.node(),
        "/reset",
        sessionKey="Kitchen",
        thinking="high",
        timeoutSeconds=90.7,
        attachments=[{"fileName": "a.txt", "content": content}],
    )

    (request,) = [live.request for live in gate.backend.live.values()]
    assert request.session_key == "agent:main:kitchen"
    assert (request.thinking, request.timeout_s) == ("high", 90.0)
    assert [(file.file_name, file.data) for file in request.attachments] == [("a.txt", b"data")]
    assert gate.messages("agent:main:kitchen") == [("user", "/reset")]


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(0, None), (-5, None), ("9", None), (10**9, 86_400.0)]
)
def test_times(gate: Gate, seconds: Any, timeout: float | None) -> None:
    """A time that is none is left out, and nobody may ask for more than there is."""
    ask(gate.node(), timeoutSeconds=seconds)

    assert [live.request.timeout_s for live in gate.backend.live.values()] == [timeout]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"message": " "}, "invalid_message"),
        ({"message": 5}, "invalid_message"),
        ({"message": "x" * (MAX_CHARS + 1)}, "invalid_message"),
        ({"sessionKey": "agent:nobody:main"}, "unknown_session"),
        ({"sessionKey": "k" * 2000}, "unknown_session"),
    ],
)
def test_what_is_ignored(gate: Gate, payload: dict[str, Any], reason: str) -> None:
    """Requests that can't be are ignored without an error; nodes of version 4 are told why."""
    body = {"message": "hello"} | payload

    answer = ask(gate.node(4), **body).payload

    assert_fits(4, "NodeEventResult", answer)
    assert (answer["handled"], answer["reason"]) == (False, reason)
    assert ask(gate.node(3), **body).payload == {"ok": True}
    assert gate.backend.started == []


def test_the_longest_message(gate: Gate) -> None:
    """A message of the longest length is taken."""
    ask(gate.node(), "x" * MAX_CHARS)

    assert len(gate.backend.started) == 1


def test_a_session_that_takes_no_messages(gate: Gate) -> None:
    """Where messages are denied, those of devices are too."""
    gate.client().ok("sessions.patch", {"key": "main", "sendPolicy": "deny"})

    assert ask(gate.node(), sessionKey="main").payload["reason"] == "send_policy"
    assert gate.backend.started == []


def test_a_key_is_used_once(gate: Gate) -> None:
    """The same key of a node starts one run; another node's is another; other content is refused."""
    node, other = gate.node(), gate.node(device_id="n2")

    first = ask(node, sessionKey="main", key="k1").payload
    again = ask(node, sessionKey="main", key="k1").payload
    ask(other, sessionKey="main", key="k1")
    for device_id, key in (("a-b", "c"), ("a", "b-c")):
        ask(gate.node(device_id=device_id), sessionKey="main", key=key)

    assert first == {"ok": True}
    assert (again["handled"], again["reason"]) == (True, "duplicate")
    assert len(gate.runs) == 4
    assert "idempotency" in ask(node, "other", sessionKey="main", key="k1").error["message"].lower()


@pytest.mark.parametrize(
    "payload", [{"deliver": True, "channel": "x", "to": "y"}, {"receipt": True}]
)
def test_there_are_no_channels(gate: Gate, payload: dict[str, Any]) -> None:
    """A request that is to be answered elsewhere runs, and the node is told that nothing is delivered."""
    answer = ask(gate.node(), **payload).payload

    assert (answer["handled"], answer["reason"]) == (True, "no_channels")
    assert len(gate.backend.started) == 1


def test_a_bad_file(gate: Gate) -> None:
    """A file that is no base64, or too large, is named and refused, and nothing runs."""
    node = gate.node()
    for content in ("!!!", "A" * 8_000_000):
        error = ask(node, attachments=[{"fileName": "a.txt", "content": content}]).error
        assert (error["code"], "a.txt" in error["message"]) == ("INVALID_REQUEST", True)
    assert ask(node, attachments="none").payload == {"ok": True}
    assert len(gate.backend.started) == 1
