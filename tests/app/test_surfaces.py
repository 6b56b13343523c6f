"""The approval of what nodes may do, from their declaration to its end."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.surface import REQUEST_TTL_MS
from gateway.errors import CloseCause, StoreError
from gateway.model import NodeSurface
from gateway.testing import result_of
from tests.app.asking import answer, asked, invoke
from tests.app.harness import REMOTE, Client, Gate

SYSTEM = NodeSurface(
    caps=("system",),
    commands=("bogus.cmd", "system.notify", "system.run", "system.which"),
    permissions=(("x.y", True),),
)
NOTIFY = NodeSurface(caps=("system",), commands=("system.notify",))
APPROVER = ("operator.pairing", "operator.write")


def live(gate: Gate, node_id: str = "n1") -> tuple[str, ...]:
    """Return the commands that a node may be given now."""
    session = gate.services.nodes.session(node_id)
    return () if session is None else session.live.commands


def pending(client: Client) -> list[dict[str, Any]]:
    """Return the requests that wait."""
    rows: list[dict[str, Any]] = client.ok("node.pair.list")["pending"]
    return rows


def approve_all(client: Client) -> None:
    """Approve what waits."""
    for row in pending(client):
        client.ok("node.pair.approve", {"requestId": row["requestId"]})


def test_a_node_of_version_4_waits_for_its_approval(gate: Gate) -> None:
    """What it declares waits for an operator, is live as soon as he approves, and the node is told."""
    operator = gate.client()
    node = gate.node(surface=SYSTEM, display_name="N1")

    (request,) = operator.events("node.pair.requested")
    assert live(gate) == ()
    assert request == {
        "requestId": request["requestId"],
        "nodeId": "n1",
        "clientId": "node-host",
        "clientMode": "node",
        "displayName": "N1",
        "platform": "linux",
        "version": "1.0",
        "caps": ["system"],
        "commands": ["system.notify", "system.run", "system.which"],
        "permissions": {"x.y": True},
        "requiredApproveScopes": ["operator.pairing", "operator.admin"],
        "ts": gate.clock.now_ms(),
    }
    assert operator.ok("node.pair.list") == {"pending": [request], "paired": []}

    answer = operator.ok("node.pair.approve", {"requestId": request["requestId"]})

    assert live(gate) == ("system.notify", "system.run", "system.which")
    resolution = {
        "requestId": request["requestId"],
        "nodeId": "n1",
        "decision": "approved",
        "ts": gate.clock.now_ms(),
    }
    assert operator.events("node.pair.resolved") == [resolution]
    (direct,) = [frame for frame in node.frames if frame["event"] == "node.pair.resolved"]
    assert (direct["payload"], "seq" in direct) == (resolution, False)
    assert answer["node"]["commands"] == ["system.notify", "system.run", "system.which"]
    assert answer["node"]["permissions"] == {"x.y": True}
    assert operator.ok("node.pair.list") == {"pending": [], "paired": [answer["node"]]}


def test_an_approved_node_comes_back_live(gate: Gate) -> None:
    """The same surface, or less, is live when the node connects again; nobody is asked."""
    operator = gate.client()
    gate.node(surface=SYSTEM).leave()
    approve_all(operator)

    gate.node(surface=SYSTEM).leave()
    again = gate.node(surface=NOTIFY)

    assert live(gate) == ("system.notify",)
    assert pending(operator) == []
    assert again.events("node.pair.resolved") == []


def test_a_node_of_version_3_waits_for_nothing_but_an_addition(gate: Gate) -> None:
    """Its first surface is live with its device; a command that it adds later waits as on version 4."""
    operator = gate.client()
    gate.node(3, surface=NOTIFY).leave()
    assert operator.events("node.pair.requested") == []

    node = gate.node(3, surface=SYSTEM)

    assert live(gate) == ("system.notify",)
    (row,) = pending(operator)
    assert row["commands"] == ["system.notify", "system.run", "system.which"]
    approve_all(operator)
    assert live(gate) == ("system.notify", "system.run", "system.which")
    assert len(node.events("node.pair.resolved")) == 1


def test_what_was_not_approved_is_not_asked_for(gate: Gate) -> None:
    """A command leaves only while it is approved: not before, and not once the approval is another one."""
    operator = gate.client()
    node = gate.node(surface=NOTIFY)
    assert invoke(operator, key="k1").error["code"] == "INVALID_REQUEST"
    approve_all(operator)

    running = invoke(operator, key="k2")
    assert len(asked(node)) == 1
    answer(node)
    assert running.payload["ok"] is True

    late = invoke(operator, key="k3")
    operator.ok("node.pair.remove", {"nodeId": "n1"})

    assert late.error["details"]["code"] == "PAIRING_CHANGED"
    assert not invoke(operator, key="k4").frame["ok"]
    assert len(asked(node)) == 2


def test_another_surface_supersedes_the_request(gate: Gate) -> None:
    """A node that comes back with something else ends its old request; with the same, it keeps it."""
    operator = gate.client()
    gate.node(surface=SYSTEM).leave()
    gate.node(surface=SYSTEM).leave()
    gate.node(surface=NOTIFY).leave()
    gate.node(surface=NodeSurface())

    first, second = operator.events("node.pair.requested")
    ends = [(e["requestId"], e["decision"]) for e in operator.events("node.pair.resolved")]
    assert ends == [(first["requestId"], "rejected"), (second["requestId"], "rejected")]
    refused = operator.refused("node.pair.approve", {"requestId": first["requestId"]})
    assert refused["message"] == "unknown requestId"


def test_a_rejected_node_keeps_what_it_had(gate: Gate) -> None:
    """A rejection ends the request, and looking at the list asks for nothing again."""
    operator = gate.client()
    gate.node(surface=NOTIFY)
    approve_all(operator)
    node = gate.node(surface=SYSTEM)
    (row,) = pending(operator)

    answer = operator.ok("node.pair.reject", {"requestId": row["requestId"]})

    assert answer == {"requestId": row["requestId"], "nodeId": "n1"}
    assert live(gate) == ("system.notify",)
    assert pending(operator) == []
    assert operator.events("node.pair.resolved")[-1]["decision"] == "rejected"
    assert node.events("node.pair.resolved") == []


def test_a_removed_node_may_do_nothing_at_once(gate: Gate) -> None:
    """Removal takes the role and the approval, and closes the connection; paired anew, it asks anew."""
    operator = gate.client()
    node = gate.node(surface=SYSTEM)
    approve_all(operator)
    gate.services.node_pending.enqueue("n1", "status.request", priority="normal")
    more = NodeSurface(caps=("more",), commands=SYSTEM.commands)
    newer = gate.node(surface=more)
    (request,) = pending(operator)

    assert operator.ok("node.pair.remove", {"nodeId": "n1"}) == {"nodeId": "n1"}

    for closed in (node, newer):
        assert closed.connection.closed == (CloseCause.CLIENT_INVALIDATED, 4001, "device removed")
    assert live(gate) == ()
    ends = [(e["requestId"], e["decision"]) for e in operator.events("node.pair.resolved")][-2:]
    assert ends == [(request["requestId"], "rejected"), ("", "removed")]
    assert result_of(gate.store.get_pairing("n1")).device is None
    assert result_of(gate.store.get_node("n1")).approved is None
    assert len(gate.services.node_pending) == 0
    assert operator.refused("node.pair.remove", {"nodeId": "n1"})["message"] == "unknown nodeId"
    node.leave()
    newer.leave()
    gate.clock.advance(1)
    gate.node(surface=SYSTEM)
    assert live(gate) == ()
    assert len(pending(operator)) == 1


def test_a_node_that_is_away_can_be_removed(gate: Gate) -> None:
    """Removal needs no connection."""
    operator = gate.client()
    gate.pair("n1")

    operator.ok("node.pair.remove", {"nodeId": "n1"})

    assert result_of(gate.store.get_pairing("n1")).device is None
    assert operator.events("node.pair.resolved")[0]["decision"] == "removed"
    assert len(operator.events("device.pair.changed")) == 1


def test_a_device_that_lost_its_pairing_is_not_live(gate: Gate) -> None:
    """A node whose device is not paired any more may do nothing, whatever was approved once."""
    operator = gate.client()
    gate.node(surface=NOTIFY).leave()
    approve_all(operator)
    result_of(gate.store.update_pairing("n1", lambda pairing: type(pairing)(device_id="n1")))

    for protocol in (3, 4):
        gate.node(protocol, surface=NOTIFY, paired=False)
        assert live(gate) == ()
    assert operator.ok("node.pair.list") == {"pending": [], "paired": []}


def test_a_request_expires_and_a_node_that_waits_asks_again(gate: Gate) -> None:
    """After five minutes nothing can be approved; who looks then has the connected nodes ask anew."""
    operator = gate.client()
    waiting = gate.node(surface=SYSTEM, device_id="n1")
    gate.node(surface=NOTIFY, device_id="n2").leave()
    old = operator.events("node.pair.requested")[0]["requestId"]
    gate.clock.advance(REQUEST_TTL_MS / 1000)

    refused = operator.refused("node.pair.approve", {"requestId": old})
    (row,) = pending(operator)

    assert refused["code"] == "INVALID_REQUEST"
    assert row["nodeId"] == "n1"
    assert row["requestId"] != old
    assert result_of(gate.store.get_node("n2")).request is None
    approve_all(operator)
    assert live(gate) == ("system.notify", "system.run", "system.which")
    assert waiting.events("node.pair.resolved")


@pytest.mark.parametrize(
    ("surface", "scopes", "missing"),
    [
        (SYSTEM, APPROVER, "operator.admin"),
        (NOTIFY, ("operator.pairing",), "operator.write"),
        (NOTIFY, APPROVER, None),
        (NodeSurface(caps=("voice",)), ("operator.pairing",), None),
    ],
)
def test_who_approves_holds_the_scopes(
    gate: Gate, surface: NodeSurface, scopes: tuple[str, ...], missing: str | None
) -> None:
    """Nobody approves what takes a scope that he lacks."""
    operator = gate.client(scopes=scopes)
    gate.node(surface=surface)
    (row,) = pending(operator)

    call = operator.call("node.pair.approve", {"requestId": row["requestId"]})

    if missing is None:
        assert call.payload["requestId"] == row["requestId"]
    else:
        assert call.error["message"] == f"missing scope: {missing}"
        assert live(gate) == ()
        assert pending(operator) == [row]


def test_a_device_sees_and_decides_about_itself_only(gate: Gate) -> None:
    """A paired device that is no admin neither sees nor touches another node."""
    gate.node(surface=NOTIFY, device_id="n1")
    gate.node(surface=NOTIFY, device_id="n2", peer=REMOTE)
    own = gate.client(scopes=APPROVER, device_id="n1")
    rows = {row["nodeId"]: row["requestId"] for row in pending(gate.client())}

    assert [row["nodeId"] for row in pending(own)] == ["n1"]
    gate.node(surface=SYSTEM, device_id="n3")
    gate.node(surface=SYSTEM, device_id="n1")
    assert [event["nodeId"] for event in own.events("node.pair.requested")] == ["n1"]
    rows = {row["nodeId"]: row["requestId"] for row in pending(gate.client())}
    for method, params in (
        ("node.pair.approve", {"requestId": rows["n2"]}),
        ("node.pair.reject", {"requestId": rows["n2"]}),
        ("node.pair.remove", {"nodeId": "n2"}),
    ):
        assert own.refused(method, params)["message"].startswith("unknown ")
    gate.node(surface=NOTIFY, device_id="n1")
    approve_all(own)
    assert (live(gate, "n1"), live(gate, "n2")) == (("system.notify",), ())


def test_the_store_fails_and_nothing_is_live(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """While the store fails a node may do nothing, of either version; the sweep asks again."""
    expected_failures.append(StoreError)
    gate.pair("n1")
    gate.store.failing["get_pairing"] = StoreError("disk")
    gate.node(3, surface=NOTIFY, paired=False)
    gate.node(surface=SYSTEM, device_id="n2", paired=False).leave()
    assert live(gate) == ()
    assert len(gate.services.surfaces) == 1
    gate.store.failing.clear()

    assert gate.services.surfaces.sweep(0.0) == 0

    assert (live(gate), len(gate.services.surfaces)) == (("system.notify",), 0)


@pytest.mark.parametrize("gone", [False, True])
def test_an_older_connection_decides_nothing_any_more(
    gate: Gate, expected_failures: list[type[BaseException]], gone: bool
) -> None:
    """What a node declares now waits for an operator, not what an older connection of it once declared."""
    operator = gate.client()
    if gone:
        gate.store.hanging.add("get_pairing")
        gate.node(surface=SYSTEM).leave()
        gate.store.hanging.clear()
    else:
        expected_failures.append(StoreError)
        gate.store.failing["get_pairing"] = StoreError("disk")
        gate.node(surface=SYSTEM)
        gate.store.failing.clear()
    gate.node(surface=NOTIFY)
    gate.store.release()
    gate.services.surfaces.sweep(0.0)

    (request,) = operator.events("node.pair.requested")
    assert request["commands"] == ["system.notify"]
    assert operator.events("node.pair.resolved") == []
    approve_all(operator)
    assert (live(gate), len(gate.services.surfaces)) == (("system.notify",), 0)


def test_a_request_that_ends_while_it_is_decided(gate: Gate) -> None:
    """An approval that comes a moment too late is refused, and nothing is live."""
    operator = gate.client()
    gate.node(surface=NOTIFY)
    (row,) = pending(operator)
    gate.store.hanging.add("update_node")
    late = operator.call("node.pair.approve", {"requestId": row["requestId"]})
    gate.store.hanging.clear()
    operator.ok("node.pair.reject", {"requestId": row["requestId"]})

    gate.store.release()

    assert late.error["message"] == "unknown requestId"
    assert live(gate) == ()


def test_a_store_that_is_slow(gate: Gate) -> None:
    """Sweeps do not ask a slow store again about a node that it is being asked about."""
    gate.store.hanging.add("get_pairing")
    gate.node(3, surface=NOTIFY)
    for _ in range(3):
        gate.services.surfaces.sweep(0.0)

    assert len(gate.store.held) == 1
    gate.store.release()
    assert live(gate) == ("system.notify",)
    assert not gate.services.surfaces._asking


TELL = {"event": "voice.transcript", "payload": {"text": "hello"}}


def waits(error: dict[str, Any]) -> bool:
    """Whether a node is refused because it waits for its approval."""
    return (error["code"], error["details"], error["retryable"]) == (
        "UNAVAILABLE",
        {"code": "PAIRING_CHANGED"},
        True,
    )


def test_a_node_is_heard_once_it_is_approved(gate: Gate) -> None:
    """What a node of version 4 tells before is refused, and begins nothing; afterwards it is taken."""
    operator, node = gate.client(), gate.node(surface=SYSTEM)
    assert waits(node.refused("node.event", TELL))
    assert len(gate.runs) == 0
    operator.ok("node.pair.reject", {"requestId": pending(operator)[0]["requestId"]})
    assert waits(node.refused("node.event", TELL))
    node.leave()
    node = gate.node(surface=SYSTEM)
    approve_all(operator)

    assert node.ok("node.event", TELL) == {"ok": True}
    assert len(gate.runs) == 1
    node.leave()
    assert waits(node.refused("node.event", TELL))
    more = gate.node(surface=NodeSurface(caps=("more",), commands=SYSTEM.commands))
    assert more.ok("node.event", {"event": "x"})["reason"] == "unsupported_event"


@pytest.mark.parametrize(("protocol", "surface"), [(3, SYSTEM), (4, NodeSurface())])
def test_who_has_nothing_to_wait_for_is_heard(
    gate: Gate, protocol: int, surface: NodeSurface
) -> None:
    """A node of version 3 is heard at once, as is one that declares nothing."""
    assert gate.node(protocol, surface=surface).ok("node.event", TELL) == {"ok": True}


def test_a_node_is_heard_when_the_store_has_said_so(gate: Gate) -> None:
    """What comes with a node's first breath waits for the store, and is refused only if that fails."""
    operator = gate.client()
    gate.node(surface=SYSTEM).leave()
    approve_all(operator)
    gate.store.hanging.add("update_node")
    node = gate.node(surface=SYSTEM)
    early, gone = node.call("node.event", TELL), node.call("node.event", TELL)
    gone.cancel()
    assert (early.frames, gone.frames) == ([], [])
    gate.store.release()

    assert early.payload == {"ok": True}
    assert len(gate.runs) == 1


def test_a_node_is_not_heard_while_the_store_fails(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Where it can not be known what is approved nothing is taken, until the store answers again."""
    expected_failures.append(StoreError)
    gate.store.failing["update_node"] = StoreError("disk full")
    node = gate.node()
    refused = node.refused("node.event", TELL)
    gate.store.failing.clear()
    gate.services.surfaces.sweep(gate.clock.seconds())

    assert (refused["details"]["code"], refused["retryable"]) == ("NODE_NOT_READY", True)
    assert node.ok("node.event", TELL) == {"ok": True}
