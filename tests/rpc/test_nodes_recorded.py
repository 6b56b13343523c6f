"""An operator and a node as recorded with OpenClaw's gateways, here."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model import NodeRecord
from gateway.testing import result_of
from tests.app.asking import asked, cancelled, live_node
from tests.app.harness import Client, Gate, vectors
from tests.app.test_nodes import pair

TRANSCRIPTS = vectors("node_transcripts")
DIFFERENT = {
    (
        "v4",
        "i5",
    ): 'node command not allowed: "camera.snap" has to be named in allow_commands of [nodes]',
    (
        "v3",
        "i5",
    ): 'node command not allowed: "camera.snap" has to be named in allow_commands of [nodes]',
}
"""What is said in other words: which key of the configuration is meant is ours."""

OURS = {"lastDisconnectedAtMs", "sessionHost", "nodePluginTools"}
TIMES = {"ts", "connectedAtMs", "lastConnectedAtMs", "lastSeenAtMs", "approvedAtMs"}
FOR_VERSION_4 = {"clientId", "clientMode", "lastConnectedAtMs", "lastSeenReason"} | OURS | TIMES


def recorded_node(gate: Gate, version: str) -> Client:
    """Connect the recorded node; on protocol 4 it was paired and approved."""
    node = TRANSCRIPTS[version]["node"]
    client = dict(node["client"])
    who = {
        "device_id": node["device"]["id"],
        "client": client["id"],
        "mode": client["mode"],
        "platform": client["platform"],
        "version": client["version"],
        "display_name": client["displayName"],
        "device_family": client.get("deviceFamily"),
        "caps": node["caps"],
        "permissions": node["permissions"],
        "commands": node["commands"],
    }
    pair(gate, node["device"]["id"], client["displayName"])
    connected = live_node(gate, int(version[1]), **who)
    if version == "v4":
        approved = gate.services.nodes.connected[0].live
        record = NodeRecord(
            node_id=node["device"]["id"],
            approved=approved,
            approved_at_ms=1,
            last_connected_at_ms=1,
            last_seen_at_ms=1,
            last_seen_reason="connect",
        )
        result_of(gate.store.update_node(record.node_id, lambda _current: record))
    return connected


def play(gate: Gate, node: Client, operator: Client, call: dict[str, Any]) -> dict[str, Any]:
    """Make a recorded request, let the node do what it did, and return the response."""
    made = operator.call(call["method"], call["params"])
    if "request" in call:
        request = asked(node)[-1]
        same = {**call["request"], "id": request["id"], "timeoutMs": request["timeoutMs"]}
        if "runId" in same["paramsJSON"]:
            assert '"runId":"' in request["paramsJSON"]
            same["paramsJSON"] = request["paramsJSON"]
        assert request == same
        assert request["timeoutMs"] == call["params"]["timeoutMs"]
        if "result" in call:
            result = node.call("node.invoke.result", {**call["result"], "id": request["id"]})
            assert result.frame["payload"] == call["answer"]["payload"]
        else:
            gate.clock.advance(request["timeoutMs"] / 1000)
        assert (cancelled(node)[-1:] == [request["id"]]) == ("cancel" in call)
    return made.frame


def same_node(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether a row is as recorded, but for times, and for what only version 4 tells."""
    extra = set(ours) - set(theirs)
    kept = {key: value for key, value in ours.items() if key in theirs and key not in TIMES}
    return extra <= FOR_VERSION_4 and kept == {k: v for k, v in theirs.items() if k not in TIMES}


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_the_recorded_dialogue(gate: Gate, version: str) -> None:
    """Lists, invocations and refusals are as recorded: for the operator, and for the node."""
    node, operator = recorded_node(gate, version), gate.client(int(version[1]), client="cli")
    for call in TRANSCRIPTS[version]["calls"]:
        if call is TRANSCRIPTS[version]["calls"][-1]:
            node.leave()
            continue
        key = call["params"].get("idempotencyKey")
        frame, recorded = play(gate, node, operator, call), call["response"]
        assert frame["ok"] == recorded["ok"], call
        if call["method"] == "node.list":
            assert same_node(frame["payload"]["nodes"][0], recorded["payload"]["nodes"][0])
        elif call["method"] == "node.describe" and recorded["ok"]:
            assert same_node(frame["payload"], recorded["payload"])
        elif (version, key) in DIFFERENT:
            assert frame["error"]["message"].startswith(DIFFERENT[version, key])
            assert frame["error"]["details"] == recorded["error"]["details"]
        else:
            shown = "payload" if recorded["ok"] else "error"
            assert frame[shown] == recorded[shown]
    last = operator.ok("node.list")["nodes"][0]
    assert last["connected"] is False
    assert last["commands"] == (
        ["system.notify", "system.run", "system.which"] if version == "v4" else []
    )


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_recorded_answers_that_nobody_waits_for(gate: Gate, version: str) -> None:
    """A result that nobody waits for, or in another node's name, is answered as recorded."""
    node = recorded_node(gate, version)
    for stray in TRANSCRIPTS[version]["stray"]:
        frame = node.call("node.invoke.result", stray["params"]).frame
        for part in ("ok", "payload", "error"):
            assert frame.get(part) == stray["response"].get(part)
