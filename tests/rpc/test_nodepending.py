"""Work that waits for nodes, as operators leave it and nodes fetch it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from gateway.model import NodeSurface
from gateway.testing import result_of
from tests.app.asking import answer, invoke, live_node
from tests.app.harness import Gate
from tests.app.pairings import pair
from tests.core.schemas import violations

NOTIFY = NodeSurface(commands=("system.notify",))


def test_a_question_goes_to_its_node(gate: Gate) -> None:
    """A question waits for a node that is paired, connected or not, and is drained by it."""
    operator = gate.client()
    gate.pair("n1")
    asked = operator.ok(
        "node.pending.enqueue",
        {"nodeId": "n1", "type": "location.request", "priority": "high", "wake": True},
    )
    node = gate.node(surface=NOTIFY)
    more = {"nodeId": "n1", "type": "status.request", "expiresInMs": 1000}
    again = operator.ok("node.pending.enqueue", more)
    drained = node.ok("node.pending.drain")

    for name, value in (
        ("NodePendingEnqueueResult", asked),
        ("NodePendingEnqueueResult", again),
        ("NodePendingDrainResult", drained),
    ):
        assert violations(name, 4, value) == []
    assert asked["wakeTriggered"] is False
    assert [item["type"] for item in drained["items"]] == ["location.request", "status.request"]
    assert node.ok("node.pending.drain", {"maxItems": 1})["items"][0]["id"] == "baseline-status"


def test_nobody_else_gets_questions(gate: Gate) -> None:
    """An unknown node, a device that is no node, and a wrong type are refused."""
    operator = gate.client()
    unknown = operator.refused("node.pending.enqueue", {"nodeId": "zz", "type": "status.request"})
    assert unknown["message"] == "unknown nodeId"
    bad = operator.refused("node.pending.enqueue", {"nodeId": "zz", "type": "bogus"})
    assert bad["message"].startswith("invalid node.pending.enqueue params: ")
    assert operator.refused("node.pending.drain")["message"] == "unauthorized role: operator"


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_action_goes_to_the_connection_that_is_the_node(gate: Gate, protocol: int) -> None:
    """Actions are pulled by the newest connection, as long as their command is live, and acknowledged."""
    operator = gate.client()
    older = gate.node(protocol, surface=NOTIFY)
    for row in operator.ok("node.pair.list")["pending"]:
        operator.ok("node.pair.approve", {"requestId": row["requestId"]})
    pending = gate.services.node_pending
    action = pending.queue_action("n1", "system.notify", None, key="k")
    pending.queue_action("n1", "system.run", None, key="k2")
    assert action is not None
    newer = gate.node(protocol, surface=NOTIFY)

    assert older.ok("node.pending.pull") == {"nodeId": "n1", "actions": []}
    assert newer.ok("node.pending.pull") == {"nodeId": "n1", "actions": [action.shape()]}
    acked = newer.ok("node.pending.ack", {"ids": [action.id, "x"]})
    assert acked == {"nodeId": "n1", "ackedIds": [action.id], "remainingCount": 0}
    assert "at most" in newer.refused("node.pending.ack", {"ids": ["x"] * 257})["message"]


@pytest.mark.parametrize(
    ("command", "code", "waits"),
    [
        ("system.notify", "NODE_BACKGROUND_UNAVAILABLE", True),
        ("system.notify", "OTHER", False),
        ("system.run", "NODE_BACKGROUND_UNAVAILABLE", False),
    ],
)
def test_a_node_in_the_background(gate: Gate, command: str, code: str, waits: bool) -> None:
    """What a node can only do in the foreground waits for it, unless it reaches into the machine."""
    node = live_node(gate)
    call = invoke(gate.client(), command, params={"title": "x"})

    answer(node, ok=False, error={"code": code, "message": "asleep"})

    details = call.error["details"]
    assert (details.get("code") == "QUEUED_UNTIL_FOREGROUND") is waits
    actions = node.ok("node.pending.pull")["actions"]
    assert [action["id"] for action in actions] == [details.get("queuedActionId")] * waits
    assert [action["paramsJSON"] for action in actions] == ['{"title":"x"}'] * waits


def test_what_does_not_fit_does_not_wait(gate: Gate) -> None:
    """Where there is no room for an action its asker is told the node's error as it is."""
    node, client = live_node(gate), gate.client()
    for number in range(65):
        call = invoke(client, key=f"k{number}")
        answer(node, ok=False, error={"code": "NODE_BACKGROUND_UNAVAILABLE", "message": "asleep"})

    assert "code" not in call.error["details"]
    assert len(node.ok("node.pending.pull")["actions"]) == 64


@pytest.mark.parametrize(
    ("method", "params", "left"),
    [
        ("device.pair.remove", {"deviceId": "d1"}, 1),
        ("device.token.revoke", {"deviceId": "d1", "role": "operator"}, 1),
        ("device.token.revoke", {"deviceId": "d1", "role": "node"}, 2),
    ],
)
def test_no_command_of_who_was_revoked_waits(
    gate: Gate, method: str, params: dict[str, str], left: int
) -> None:
    """What a device asked of a sleeping node is not done once the device has lost its rights."""
    node = live_node(gate)
    pair(gate, "d1", roles=("node", "operator"), scopes=(), tokens=("t",))
    phone = gate.client(device_id="d1", scopes=("operator.write",))
    for number, client in enumerate((phone, gate.client())):
        invoke(client, key=f"k{number}")
        answer(node, ok=False, error={"code": "NODE_BACKGROUND_UNAVAILABLE", "message": "asleep"})
    gate.services.node_pending.queue_action("n1", "system.notify", None, key="our own")
    assert len(node.ok("node.pending.pull")["actions"]) == 3

    gate.client().ok(method, params)

    assert len(node.ok("node.pending.pull")["actions"]) == left + 1


@pytest.mark.parametrize(
    ("method", "params", "kept"),
    [
        ("device.pair.remove", {"deviceId": "n1"}, False),
        ("device.token.revoke", {"deviceId": "n1", "role": "node"}, False),
        ("node.pair.remove", {"nodeId": "n1"}, False),
        ("device.token.revoke", {"deviceId": "n1", "role": "operator"}, True),
        ("device.token.rotate", {"deviceId": "n1", "role": "node"}, True),
        ("device.pair.remove", {"deviceId": "n2"}, True),
    ],
)
def test_nothing_waits_for_what_is_no_node(
    gate: Gate, method: str, params: dict[str, str], kept: bool
) -> None:
    """What waits for a node goes with its role, however that is taken; a new token takes nothing."""
    operator, pending = gate.client(), gate.services.node_pending
    roles = ("node", "operator")
    pair(gate, "n1", roles=roles, scopes=(), tokens=("t",))
    pair(gate, "n2", roles=roles, scopes=(), tokens=("t2",))
    operator.ok("node.pending.enqueue", {"nodeId": "n1", "type": "status.request"})

    operator.ok(method, params)

    assert len(pending) == kept


def test_nothing_waits_for_a_device_that_made_room(gates: Callable[..., Gate]) -> None:
    """What waits for a node goes as well when its device is forgotten for another one."""
    gate = gates(limits={"devices_max": 1})
    gate.pair("n1", via="silent")
    gate.client(device_id=None).ok(
        "node.pending.enqueue", {"nodeId": "n1", "type": "status.request"}
    )

    result_of(Deferred.fromCoroutine(gate.services.pairing_caps.for_device()))

    assert result_of(gate.store.get_pairing("n1")).device is None
    assert len(gate.services.node_pending) == 0


@pytest.mark.parametrize("protocol", [3, 4])
def test_there_are_no_skills(gate: Gate, protocol: int) -> None:
    """A node that asks for the programs of skills is told that there are none."""
    bins = gate.node(protocol).ok("skills.bins")

    assert bins == {"bins": []}
    assert violations("SkillsBinsResult", 3, bins) == []
