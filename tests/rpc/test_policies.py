"""The methods of the policy of exec approvals, in both versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.app.asking import COMMANDS, EXEC_APPROVALS, answer, asked, invoke, live_node
from tests.app.harness import Gate, assert_fits

REQUIRED = "exec approvals base hash required; re-run exec.approvals.get and retry"
NO_POLICY = "the node's answer is no policy of exec approvals"
CHANGED = "exec approvals changed since last load; re-run exec.approvals.get and retry"
RUNS = (*COMMANDS, *EXEC_APPROVALS)
FILE = {"version": 1, "agents": {"main": {"allowlist": [{"pattern": "/usr/bin/git"}]}}}


@pytest.mark.parametrize("protocol", [3, 4])
def test_reading_and_replacing(gate: Gate, protocol: int) -> None:
    """A policy is read with its hash and replaced by it; the answer is what is read next."""
    client = gate.client(protocol, client="cli")
    before = client.ok("exec.approvals.get")
    assert (before["exists"], before["file"]) == (False, {"version": 1})

    after = client.ok("exec.approvals.set", {"file": FILE, "baseHash": before["hash"]})

    assert after == client.ok("exec.approvals.get")
    assert after["exists"]
    assert after["hash"] != before["hash"]
    (entry,) = after["file"]["agents"]["main"]["allowlist"]
    assert entry == {"pattern": "/usr/bin/git", "id": entry["id"]}
    for snapshot in (before, after):
        assert_fits(protocol, "ExecApprovalsSnapshot", snapshot)
        assert_fits(protocol, "ExecApprovalsFile", snapshot["file"])
        assert snapshot["path"].endswith("gateway.db#exec-approvals")
        if protocol == 4:
            assert_fits(4, "ExecApprovalsResolvedDefaults", snapshot["resolvedDefaults"])
    again = client.ok("exec.approvals.set", {"file": after["file"], "baseHash": after["hash"]})
    assert again == after


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_hash_guards_a_change(gate: Gate, protocol: int) -> None:
    """As recorded: without a hash, or with an old one, nothing is changed."""
    client = gate.client(protocol, client="cli")
    base = client.ok("exec.approvals.get")["hash"]
    assert client.refused("exec.approvals.set", {"file": FILE}) == {
        "code": "INVALID_REQUEST",
        "message": REQUIRED,
    }
    client.ok("exec.approvals.set", {"file": FILE, "baseHash": base})
    error = client.refused("exec.approvals.set", {"file": {"version": 1}, "baseHash": base})

    assert error == {"code": "INVALID_REQUEST", "message": CHANGED}
    assert client.ok("exec.approvals.get")["file"]["agents"]


@pytest.mark.parametrize(
    ("protocol", "params", "words"),
    [
        (3, {"file": {"version": 1, "agents": {"main": {"mcpTools": []}}}}, "'mcpTools'"),
        (4, {"file": {"version": 2}}, "invalid exec.approvals.set params"),
        (4, {"file": {"version": 1}, "baseHash": ""}, "invalid exec.approvals.set params"),
        (4, {}, "invalid exec.approvals.set params"),
        (4, {"file": {"version": 1, "agents": {"Main": {}}}}, "its id is 'main'"),
        (4, {"file": {"version": 1, "agents": {"a": {"allowlist": [{"pattern": "x"}]}}}}, "'x'"),
        (
            4,
            {"file": {"version": 1, "socket": {"path": "x" * 262_144}}},
            "more than 262144 bytes",
        ),
    ],
)
def test_what_is_refused(gate: Gate, protocol: int, params: Any, words: str) -> None:
    """A file that the version does not know, or that means nothing, changes nothing."""
    client = gate.client(protocol, client="cli")
    base = client.ok("exec.approvals.get")["hash"]

    error = client.refused("exec.approvals.set", {"baseHash": base, **params})

    assert error["code"] == "INVALID_REQUEST"
    assert words in error["message"]
    assert not client.ok("exec.approvals.get")["exists"]


@pytest.mark.parametrize("method", ["get", "set", "node.get", "node.set"])
def test_the_policy_is_for_admins(gate: Gate, method: str) -> None:
    """Who may answer questions may not change what is asked."""
    client = gate.client(scopes=["operator.approvals", "operator.write"], client="cli")

    assert client.refused(f"exec.approvals.{method}", {})["code"] == "FORBIDDEN"


# -- of nodes


@pytest.mark.parametrize("protocol", [3, 4])
def test_the_policy_of_a_node_is_read_and_written_there(gate: Gate, protocol: int) -> None:
    """The node is asked, and what it answers is handed on without its token."""
    node = live_node(gate, protocol, commands=RUNS)
    client = gate.client(protocol, client="cli")
    kept = {"path": "p", "exists": True, "hash": "h", "file": {"version": 1}}
    reading = client.call("exec.approvals.node.get", {"nodeId": "n1"})
    assert asked(node)[0]["command"] == "system.execApprovals.get"
    assert asked(node)[0]["paramsJSON"] == "{}"
    socket = {"path": "s", "token": "secret"}
    answer(node, payloadJSON=json.dumps({**kept, "file": {"version": 1, "socket": socket}}))
    assert reading.payload == {**kept, "file": {"version": 1, "socket": {"path": "s"}}}

    writing = client.call(
        "exec.approvals.node.set", {"nodeId": "n1", "file": FILE, "baseHash": "h"}
    )
    assert asked(node)[1]["command"] == "system.execApprovals.set"
    assert json.loads(asked(node)[1]["paramsJSON"]) == {"file": FILE, "baseHash": "h"}
    answer(node, payload=kept)
    assert writing.payload == kept


def test_the_native_form_of_a_node(gate: Gate) -> None:
    """A node with rules of its own gets them, and its answer is handed on."""
    node, client = live_node(gate, commands=RUNS), gate.client(client="cli")
    native = {"rules": [{"pattern": "git *", "action": "allow"}], "defaultAction": "prompt"}
    params = {"nodeId": "n1", "native": native, "baseHash": "h"}
    call = client.call("exec.approvals.node.set", params)
    assert json.loads(asked(node)[0]["paramsJSON"]) == {"native": native, "baseHash": "h"}
    answer(node, payload={"enabled": False})

    assert call.payload == {"enabled": False}


@pytest.mark.parametrize("payload", [5, None, [1]])
def test_a_node_that_answers_something_else(gate: Gate, payload: Any) -> None:
    """An answer that is no policy is refused."""
    node, client = live_node(gate, commands=RUNS), gate.client(client="cli")
    call = client.call("exec.approvals.node.get", {"nodeId": "n1"})
    answer(node, payload=payload)

    assert call.error["message"] == NO_POLICY


@pytest.mark.parametrize("value", ["1e400", "1" * 5000])
def test_a_node_that_answers_what_can_not_be_read(gate: Gate, value: str) -> None:
    """A number that is too large to take a token out of it is refused, not stumbled over."""
    node, client = live_node(gate, commands=RUNS), gate.client(client="cli")
    text = f'{{"file":{value}}}'
    calls = [client.call("exec.approvals.node.get", {"nodeId": "n1"}) for _ in range(2)]
    answer(node, 0, payload=msgspec.Raw(text.encode()))
    answer(node, 1, payloadJSON=text)

    assert {call.error["message"] for call in calls} == {NO_POLICY}


def test_a_node_that_answers_what_is_nested_too_deeply(gate: Gate) -> None:
    """It is handed on, or refused for what it is, however little too deep it is."""
    node, client = live_node(gate, commands=RUNS), gate.client(client="cli")
    told = set()
    for depth in range(850, 1010):
        call = client.call("exec.approvals.node.get", {"nodeId": "n1"})
        answer(node, payloadJSON='{"file":' + "[" * depth + "]" * depth + "}")
        told.add(call.error["message"] if not call.frame["ok"] else "handed on")

    assert told <= {NO_POLICY, "handed on"}


def test_a_node_that_answers_no_json(gate: Gate) -> None:
    """A text that is no JSON is not handed on: a token may stand in it."""
    node, client = live_node(gate, commands=RUNS), gate.client(client="cli")
    call = client.call("exec.approvals.node.get", {"nodeId": "n1"})
    answer(node, payloadJSON='{"file":{"socket":{"token":"secret"}},}')

    assert call.error["message"] == NO_POLICY


def test_a_node_that_does_not_answer(gate: Gate) -> None:
    """A node has 15 seconds."""
    live_node(gate, commands=RUNS)
    call = gate.client(client="cli").call("exec.approvals.node.get", {"nodeId": "n1"})
    gate.clock.advance(15)

    assert call.error["details"]["nodeError"]["code"] == "TIMEOUT"


def test_only_nodes_that_run_commands_are_asked(gate: Gate) -> None:
    """A node of which nothing is approved is not asked for its policy, nor by anything else."""
    live_node(gate, commands=["system.notify"])
    client = gate.client(client="cli")
    assert "not" in client.refused("exec.approvals.node.get", {"nodeId": "n1"})["message"]
    assert client.refused("exec.approvals.node.get", {"nodeId": "n2"})["code"] == "UNAVAILABLE"

    error = invoke(client, "system.execApprovals.get").error
    assert error["message"].startswith("node.invoke does not allow system.execApprovals.*")


@pytest.mark.parametrize(
    ("declared", "deny", "words"),
    [
        (COMMANDS, [], 'the node (platform: linux) does not support "system.execApprovals.get"'),
        (RUNS, EXEC_APPROVALS, "is denied by deny_commands of [nodes] in the configuration"),
        (RUNS, ["system.run"], "is not in the allowlist"),
    ],
)
def test_a_policy_that_a_node_does_not_have_or_that_is_denied(
    gates: Callable[..., Gate], declared: list[str], deny: list[str], words: str
) -> None:
    """A node is asked for its policy only if it declares that, and the operator does not deny it."""
    gate = gates(nodes={"deny_commands": list(deny)})
    node, client = live_node(gate, commands=declared), gate.client(client="cli")
    error = client.refused("exec.approvals.node.get", {"nodeId": "n1"})

    assert (error["code"], asked(node)) == ("INVALID_REQUEST", [])
    assert words in error["message"]


@pytest.mark.parametrize(
    ("protocol", "params", "words"),
    [
        (4, {}, "'file'"),
        (4, {"file": FILE, "native": {"rules": []}, "baseHash": "h"}, "'file'"),
        (4, {"native": {"rules": []}}, "'baseHash'"),
        (4, {"native": {"rules": [{"pattern": "a", "action": "x"}]}, "baseHash": "h"}, "action"),
        (3, {"native": {"rules": []}, "baseHash": "h"}, "'native'"),
        (3, {"file": {"version": 1, "agents": {"a": {"mcpTools": []}}}}, "'mcpTools'"),
    ],
)
def test_what_no_node_is_asked(gate: Gate, protocol: int, params: Any, words: str) -> None:
    """What the version's schema does not have never reaches the node."""
    node, client = live_node(gate, protocol, commands=RUNS), gate.client(protocol, client="cli")

    error = client.refused("exec.approvals.node.set", {"nodeId": "n1", **params})

    assert error["message"].startswith("invalid exec.approvals.node.set params: ")
    assert words in error["message"]
    assert asked(node) == []
