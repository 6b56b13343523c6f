"""Events about devices and nodes reach people who may not see them (attack 20).

Of runs and sessions the same is held to by tests/rpc/test_audience.py.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.access import KNOWN_SCOPES, effective_scopes
from gateway.core.deviceproof import DeviceIdentity
from gateway.core.events import EVENTS, Event, visible
from gateway.model import Role
from tests.app.asking import asked, invoke, live_node
from tests.app.harness import Gate as AppGate
from tests.net.gate import CLI, UI, Client, Gate
from tests.unmeasured import unmeasured

ABOUT_OTHERS = [
    name for name in EVENTS if name.startswith(("device.", "node.", "voicewake", "talk"))
]
NODE = {"id": "node-host", "version": "1.0", "platform": "linux", "mode": "node"}
SCOPES = st.lists(st.sampled_from([*sorted(KNOWN_SCOPES), "*"]), max_size=3, unique=True)


@unmeasured
@settings(max_examples=25)
@given(
    crowd=st.lists(st.tuples(SCOPES, st.booleans(), st.sampled_from([3, 4])), max_size=6),
    name=st.sampled_from(ABOUT_OTHERS),
)
def test_s20_a_broadcast_reaches_only_who_may_see_it(
    crowd: list[tuple[list[str], bool, int]], name: str
) -> None:
    """Whoever is connected, an event of devices and nodes goes to those who hold its scope, and no node."""
    gate = AppGate()
    clients = [
        gate.client(protocol, scopes=scopes)
        if operator
        else gate.node(protocol, device_id=f"n{number}")
        for number, (scopes, operator, protocol) in enumerate(crowd)
    ]
    for client in clients:
        client.frames.clear()
    gate.services.hub.broadcast(Event(name, {"x": 1}))
    for client in clients:
        caller = client.context.caller
        operator = caller.principal.role is Role.OPERATOR
        wanted = visible(EVENTS[name], effective_scopes(caller.principal.scopes), operator=operator)
        assert bool(client.events(name)) is wanted
        assert not (client.events(name) and not operator)
    gate.close()


def told(client: Client, *names: str) -> list[Any]:
    """Return the events of these names that a client got since the last call."""
    return [frame for frame in client.received() if frame.get("event") in names]


def test_s20_who_asks_to_be_paired_is_told_to_operators_of_pairing_alone() -> None:
    """Requests of devices and what becomes of them are seen by who may decide on them, on both protocols."""
    gate = Gate()
    names = ("device.pair.requested", "device.pair.resolved", "device.pair.changed")
    may = [gate.join(protocol, scopes=["operator.pairing"]) for protocol in (3, 4)]
    may.append(gate.join())
    others = [
        gate.join(protocol, scopes=[scope])
        for protocol in (3, 4)
        for scope in ("operator.read", "operator.write", "operator.approvals")
    ]
    identity = DeviceIdentity.from_seed(b"\x21" * 32)
    gate.open("192.0.2.7").connect(client=UI, device=identity)
    (row,) = may[-1].call("device.pair.list", {})["payload"]["pending"]
    may[0].call("device.pair.reject", {"requestId": row["requestId"]})
    heard = [told(client, *names) for client in (*may[1:2], *others)]
    assert len(heard[0]) >= 2
    assert [each for each in heard[1:] if each] == []


def test_s20_to_name_a_connection_gives_it_no_right_to_see() -> None:
    """An event that is sent to chosen connections reaches those of them alone that hold its scope."""
    gate = AppGate()
    may = [gate.client(protocol, scopes=("operator.read",)) for protocol in (3, 4)]
    others = [gate.client(protocol, scopes=("operator.pairing",)) for protocol in (3, 4)]
    others += [gate.client(4, scopes=()), gate.node(4)]
    chosen = [client.context.caller.conn_id for client in (*may, *others)]
    gate.services.hub.send_to(Event("session.message", {"x": 1}), chosen, "main")
    assert all(client.events("session.message") for client in may)
    assert not any(client.events("session.message") for client in others)
    gate.close()


def test_s20_a_device_sees_no_other_device() -> None:
    """A paired device that is no admin lists and decides on itself alone."""
    gate = Gate()
    identities = [DeviceIdentity.from_seed(bytes([n]) * 32) for n in (1, 2)]
    scopes = ["operator.pairing", "operator.read"]
    first, second = (
        gate.join(client=UI, scopes=scopes, device=identity) for identity in identities
    )
    listed = first.call("device.pair.list", {})["payload"]
    assert [row["deviceId"] for row in listed["paired"]] == [identities[0].device_id]
    for method in ("device.pair.remove", "device.token.revoke", "device.token.rotate"):
        params = {"deviceId": identities[1].device_id}
        if method != "device.pair.remove":
            params["role"] = "operator"
        assert not first.call(method, params)["ok"]
    assert second.call("health")["ok"]
    assert gate.join(client=CLI).call("device.pair.list", {})["ok"]


def test_s20_what_a_node_asks_for_is_told_to_operators_of_pairing_alone() -> None:
    """That a node wants to be approved, and what became of it, is seen by who may decide on it."""
    gate = Gate()
    names = ("node.pair.requested", "node.pair.resolved")
    may = [gate.join(protocol, scopes=["operator.pairing"]) for protocol in (3, 4)]
    others = [
        gate.join(protocol, scopes=[scope])
        for protocol in (3, 4)
        for scope in ("operator.read", "operator.write", "operator.approvals", "operator.talk")
    ]
    how: dict[str, Any] = {"role": "node", "scopes": [], "client": NODE, "caps": ["x"]}
    nodes = [
        gate.join(device=DeviceIdentity.from_seed(bytes([seed]) * 32), commands=[command], **how)
        for seed, command in ((3, "system.run"), (4, "system.notify"))
    ]
    admin = gate.join()
    for row in admin.call("node.pair.list", {})["payload"]["pending"]:
        assert admin.call("node.pair.reject", {"requestId": row["requestId"]})["ok"]
    assert {frame["event"] for frame in told(may[1], *names)} == set(names)
    assert [each for client in (*others, *nodes) if (each := told(client, *names))] == []


def test_s20_an_invocation_is_seen_by_its_node_and_its_asker_alone() -> None:
    """What is asked of a node, its progress and its withdrawal reach nobody else, neither other nodes."""
    for protocol in (3, 4):
        gate = AppGate()
        node = live_node(gate, protocol)
        others = [gate.node(protocol, device_id="n2"), gate.client(3), gate.client(4)]
        others.append(gate.client(4, caps=["node-invoke-progress"]))
        asker = gate.client(4, caps=["node-invoke-progress"])
        invoke(asker, params={"title": "secret"})
        (asked_for,) = asked(node)
        part = {"invokeId": asked_for["id"], "nodeId": "n1", "seq": 0, "chunk": "secret"}
        node.call("node.invoke.progress", part)
        others[0].call("node.invoke.progress", {**part, "seq": 1})
        others[0].call("node.invoke.result", {"id": asked_for["id"], "nodeId": "n1", "ok": True})
        gate.clock.advance(100)
        names = [name for name in EVENTS if name.startswith("node.invoke.")]
        assert [
            event for client in others for name in names if (event := client.events(name))
        ] == []
        assert not any("secret" in str(client.frames) for client in others)
        gate.close()
