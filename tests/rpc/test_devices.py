"""The methods of devices: who may see, decide, rename, remove; who gets which token; who is cut off."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail

from gateway.core.access import KNOWN_SCOPES, covers, digest_of
from gateway.core.pairing import TTL_MS
from gateway.errors import CloseCause, StoreError
from gateway.model import NodeRecord, NodeSurface, Role
from gateway.testing import result_of
from tests.app.harness import LOCAL, REMOTE, Client, Gate, assert_fits
from tests.app.pairings import ask, known, pair

BOTH = pytest.mark.parametrize("protocol", [3, 4])
PAIRING = ("operator.pairing",)
READ = ("operator.read",)
RW = ("operator.read", "operator.write")
DEVICE_REMOVED = (CloseCause.CLIENT_INVALIDATED, 4001, "device removed")
NOT_ALLOWED = "not-allowed"


def device(gate: Gate, device_id: str = "d1", scopes: Any = PAIRING, **who: Any) -> Client:
    """Connect a paired device that manages devices and is no admin, from elsewhere."""
    return gate.client(device_id=device_id, scopes=scopes, peer=REMOTE, **who)


def said(error: dict[str, Any]) -> str:
    """Return what a refusal says; it is always the request that is at fault."""
    assert error["code"] == "INVALID_REQUEST"
    message: str = error["message"]
    return message


# -- a store that fails


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("device.pair.remove", {"deviceId": "d1"}),
        ("device.token.revoke", {"deviceId": "d1", "role": "operator"}),
        ("device.token.rotate", {"deviceId": "d1", "role": "operator"}),
        ("node.pair.remove", {"nodeId": "d1"}),
    ],
)
def test_a_store_that_took_it_all_the_same(
    gate: Gate, method: str, params: Any, expected_failures: list[type[BaseException]]
) -> None:
    """Where it is not known whether rights were taken, the connections end: who still has them comes back."""
    expected_failures.append(StoreError)
    pair(gate, "d1", roles=("operator", "node"), tokens=("old",))
    role = "node" if method.startswith("node.") else "operator"
    connected = gate.client(device_id="d1", role=Role(role), scopes=())
    bystander = gate.client(device_id="d2")
    real = gate.store.update_pairing

    def late(device_id: str, change: Any) -> Any:
        real(device_id, change)
        return fail(StoreError("the disk is gone"))

    gate.store.update_pairing = late
    error = gate.client().refused(method, params)
    gate.store.update_pairing = real

    assert error["code"] == "UNAVAILABLE"
    assert connected.connection.closed == DEVICE_REMOVED
    assert bystander.connection.closed is None


# -- list


@BOTH
def test_what_is_paired_and_what_asks(gate: Gate, protocol: int) -> None:
    """The list has what is recorded of real gateways, and no secret."""
    pair(gate, "d1", scopes=RW, tokens=("secret-1",), remote_ip="203.0.113.5", client_mode="cli")
    gate.clock.advance(1)
    ask(gate, "d2", role="node", scopes=(), device_family="Pi", display_name="Pi")
    gate.client(device_id="d1")

    listed = gate.client(protocol).ok("device.pair.list", {})

    (paired,) = listed["paired"]
    now_ms = gate.clock.EPOCH_MS
    expected = {
        "deviceId": "d1",
        "publicKey": "key-of-d1",
        "platform": "linux",
        "clientId": "cli",
        "clientMode": "cli",
        "remoteIp": "203.0.113.5",
        "role": "operator",
        "roles": ["operator"],
        "scopes": list(RW),
        "createdAtMs": now_ms,
        "approvedAtMs": now_ms,
        "tokens": [{"role": "operator", "scopes": list(RW), "createdAtMs": now_ms}],
    }
    four = {"approvedVia": "owner", "connected": True} if protocol == 4 else {}
    assert paired == expected | four
    (pending,) = listed["pending"]
    if protocol == 3:
        assert_fits(3, "DevicePairRequestedEvent", pending)
    assert pending["requestId"] == "q1"
    assert pending.get("deviceFamily") == ("Pi" if protocol == 4 else None)
    assert digest_of("secret-1") not in str(listed)


def test_who_is_no_admin_sees_itself(gate: Gate) -> None:
    """A device that is no admin sees its own device and request only; without a device one sees all."""
    pair(gate, "d1")
    pair(gate, "d2")
    ask(gate, "d3", request_id="q3")
    ask(gate, "d1", scopes=RW, request_id="q1")

    own = device(gate).ok("device.pair.list")
    everything = gate.client(scopes=PAIRING).ok("device.pair.list")

    assert [row["deviceId"] for row in own["paired"]] == ["d1"]
    assert [row["requestId"] for row in own["pending"]] == ["q1"]
    assert len(everything["paired"]) == 2
    assert len(everything["pending"]) == 2


def test_what_has_expired_is_not_listed(gate: Gate) -> None:
    """A request that nobody decided for five minutes is no longer shown, and can not be approved."""
    ask(gate, "d1")
    gate.clock.advance(TTL_MS / 1000)
    admin = gate.client()
    assert admin.ok("device.pair.list") == {"pending": [], "paired": []}
    for method in ("device.pair.approve", "device.pair.reject"):
        assert said(admin.refused(method, {"requestId": "q1"})) == "unknown requestId"


# -- approve and reject


@BOTH
def test_an_approval(gate: Gate, protocol: int) -> None:
    """What was asked for is granted, shown, and told to operators of both versions."""
    watchers = {version: gate.client(version, scopes=PAIRING) for version in (3, 4)}
    outsider = gate.client(scopes=RW)
    ask(gate, "d1", scopes=RW)

    result = gate.client(protocol).ok("device.pair.approve", {"requestId": "q1"})

    assert result["requestId"] == "q1"
    assert result["device"]["scopes"] == list(RW)
    assert result["device"].get("approvedVia") == ("owner" if protocol == 4 else None)
    stored = known(gate)
    assert stored.device is not None
    assert (stored.device.roles, stored.request) == (("operator",), None)
    ended = {"requestId": "q1", "deviceId": "d1", "decision": "approved"}
    for version, watcher in watchers.items():
        (told,) = watcher.events("device.pair.resolved")
        assert_fits(version, "DevicePairResolvedEvent", told)
        assert told == ended | {"ts": gate.clock.now_ms()}
        assert watcher.events("device.pair.changed") == [{}] * (version - 3)
    assert outsider.frames == []


@BOTH
def test_a_request_that_grew_is_not_approved(gate: Gate, protocol: int) -> None:
    """What a device asks for after its request was looked at is not granted with it."""
    ask(gate, "d1", scopes=READ, protocol=protocol)
    find = gate.store.find_pairing_request

    def late(request_id: str) -> Any:
        found = find(request_id)
        ask(gate, "d1", scopes=RW, request_id="q2", protocol=protocol)
        return found

    gate.store.find_pairing_request = late
    error = gate.client().refused("device.pair.approve", {"requestId": "q1"})
    gate.store.find_pairing_request = find

    assert said(error) == "unknown requestId"
    assert known(gate).device is None


def test_no_more_devices_are_approved_than_there_may_be(gates: Any) -> None:
    """The last place goes to who is approved in the stead of one paired silently, never of an owner's."""
    gate = gates(limits={"devices_max": 1})
    pair(gate, "d0", via="silent")
    admin = gate.client()
    ask(gate, "d1")
    ask(gate, "d2", request_id="q2")
    admin.ok("device.pair.approve", {"requestId": "q1"})
    assert known(gate, "d0").device is None

    error = admin.refused("device.pair.approve", {"requestId": "q2"})
    assert error["code"] == "UNAVAILABLE"
    assert "limits.devices_max" in error["message"]
    assert known(gate, "d2").request is not None, "it can be approved once there is room"
    ask(gate, "d1", scopes=RW, request_id="q3")
    assert admin.ok("device.pair.approve", {"requestId": "q3"})["device"]["scopes"] == list(RW)


@BOTH
def test_nobody_grants_what_it_does_not_hold(gate: Gate, protocol: int) -> None:
    """An approver that lacks a scope of the request is told which one."""
    pair(gate, "d1")
    ask(gate, "d1", scopes=RW)
    approver = device(gate, scopes=(*PAIRING, *READ), protocol=protocol)
    error = approver.refused("device.pair.approve", {"requestId": "q1"})
    assert said(error) == "missing scope: operator.write"
    assert error["details"]["missingScope"] == "operator.write"


@BOTH
@pytest.mark.parametrize(
    "asks",
    [
        pytest.param(None, id="unknown"),
        pytest.param({"device_id": "d2"}, id="another device"),
        pytest.param({"role": "node", "scopes": ()}, id="node"),
    ],
)
def test_what_only_an_admin_approves(gate: Gate, protocol: int, asks: Any) -> None:
    """Who is no admin can not tell an unknown request from another device's or a node's."""
    if asks is not None:
        ask(gate, **{"device_id": "d1", "scopes": READ, **asks})
    every = tuple(KNOWN_SCOPES - {"operator.admin"})
    for approver in (device(gate, scopes=every), gate.client(protocol, scopes=every)):
        error = approver.refused("device.pair.approve", {"requestId": "q1"})
        assert said(error) == "device pairing approval denied"
    assert known(gate).device is None


def test_a_device_may_approve_for_itself_what_it_holds(gate: Gate) -> None:
    """Another installation of the same device gets what an operator of it holds already."""
    ask(gate, "d1", scopes=READ)
    approver = device(gate, scopes=(*PAIRING, *RW))
    assert approver.ok("device.pair.approve", {"requestId": "q1"})["device"]["deviceId"] == "d1"


@BOTH
def test_a_rejection(gate: Gate, protocol: int) -> None:
    """A request that is refused is gone, and everybody who knew of it is told."""
    watcher = gate.client(scopes=PAIRING)
    ask(gate, "d1")
    admin = gate.client(protocol)
    assert admin.ok("device.pair.reject", {"requestId": "q1"}) == {
        "requestId": "q1",
        "deviceId": "d1",
    }
    assert watcher.events("device.pair.resolved")[0]["decision"] == "rejected"
    assert known(gate).request is None
    assert said(admin.refused("device.pair.reject", {"requestId": "q1"})) == "unknown requestId"
    assert said(admin.refused("device.pair.approve", {"requestId": "q1"})) == "unknown requestId"


def test_who_may_not_reject(gate: Gate) -> None:
    """A device that is no admin can not refuse for others."""
    ask(gate, "d2")
    error = device(gate).refused("device.pair.reject", {"requestId": "q1"})
    assert said(error) == "device pairing rejection denied"
    assert error["details"]["reason"] == NOT_ALLOWED


def test_a_decision_that_was_made_meanwhile(gate: Gate) -> None:
    """Of two operators who decide at once one is told that there is nothing to decide."""
    ask(gate, "d1")
    admin, find = gate.client(), gate.store.find_pairing_request

    def late(request_id: str) -> Any:
        found = find(request_id)
        gate.store.find_pairing_request = find
        admin.ok("device.pair.reject", {"requestId": "q1"})
        return found

    gate.store.find_pairing_request = late
    error = gate.client().refused("device.pair.approve", {"requestId": "q1"})
    assert said(error) == "unknown requestId"
    assert error["details"] == {"reason": "unknown-request"}


def test_what_devices_are_told(gate: Gate) -> None:
    """A device that may see pairings hears of its own only, an admin of all."""
    own, other, admin = (
        device(gate, "d1"),
        device(gate, "d2"),
        device(gate, "d3", ("operator.admin",)),
    )
    gate.services.pairing_notices.requested(
        ask(gate, "d1", display_name="Phone", device_family="X")
    )
    gate.client().ok("device.pair.approve", {"requestId": "q1"})
    names = ["device.pair.requested", "device.pair.resolved", "device.pair.changed"]
    for client, seen in ((own, names), (other, []), (admin, names)):
        assert [frame["event"] for frame in client.frames] == seen
    three = gate.client(3)
    gate.services.pairing_notices.requested(ask(gate, "d4", display_name="P", device_family="X"))
    (told,) = three.events("device.pair.requested")
    assert_fits(3, "DevicePairRequestedEvent", told)


# -- remove and rename


@BOTH
def test_a_removal(gate: Gate, protocol: int) -> None:
    """A removed device is unknown, with its node record, and its connections close; others stay."""
    pair(gate, "d1", roles=("operator", "node"), tokens=("t",))
    ask(gate, "d1", scopes=RW)
    surface = NodeSurface(caps=("camera",))
    node = NodeRecord(node_id="d1", approved=surface, approved_at_ms=1)
    result_of(gate.store.update_node("d1", lambda _: node))
    pair(gate, "d2")
    gone = [gate.client(device_id="d1"), gate.node(device_id="d1")]
    stays, admin = gate.client(device_id="d2"), gate.client(protocol)

    assert admin.ok("device.pair.remove", {"deviceId": "d1"}) == {"deviceId": "d1"}

    assert [client.connection.closed for client in gone] == [DEVICE_REMOVED] * 2
    assert stays.connection.closed is None
    assert known(gate).device is None
    assert result_of(gate.store.get_node("d1")).approved is None
    assert stays.events("device.pair.resolved")[0]["decision"] == "rejected"
    assert said(admin.refused("device.pair.remove", {"deviceId": "d1"})) == "unknown deviceId"


def test_a_removal_is_told_though_its_node_record_stays(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A device is removed where it is; a store that fails only then has not kept it."""
    expected_failures.append(StoreError)
    pair(gate, "d1", roles=("node",))
    watcher = gate.client(scopes=PAIRING)
    real = gate.store.update_node
    gate.store.update_node = lambda *_: fail(StoreError("the disk is full"))

    assert gate.client().ok("device.pair.remove", {"deviceId": "d1"}) == {"deviceId": "d1"}
    gate.store.update_node = real

    assert known(gate).device is None
    assert watcher.events("device.pair.changed") == [{}]


@pytest.mark.parametrize(
    ("device_id", "roles"), [("d2", ("operator",)), ("d1", ("operator", "node"))]
)
def test_what_only_an_admin_manages(gate: Gate, device_id: str, roles: tuple[str, ...]) -> None:
    """Who is no admin removes and renames no other device, and none that is a node as well."""
    pair(gate, device_id, roles=roles)
    client = device(gate)
    refused = client.refused("device.pair.remove", {"deviceId": device_id})
    assert said(refused) == "device pairing removal denied"
    refused = client.refused("device.pair.rename", {"deviceId": device_id, "label": "x"})
    assert said(refused) == "device pairing rename denied"
    assert known(gate, device_id).device is not None


def test_a_device_that_removes_itself_is_answered_first(gate: Gate) -> None:
    """The answer to a device's own removal comes before the close."""
    pair(gate, "d1")
    client = device(gate)
    assert client.ok("device.pair.remove", {"deviceId": "d1"}) == {"deviceId": "d1"}
    assert client.connection.closed is None
    gate.turn()
    assert client.connection.closed == DEVICE_REMOVED


def test_a_name(gate: Gate) -> None:
    """An operator's name for a device is shown in place of its own, and told."""
    pair(gate, "d1", display_name="iPhone")
    admin = gate.client()
    result = admin.ok("device.pair.rename", {"deviceId": "d1", "label": " Ann's phone "})
    assert result == {"deviceId": "d1", "label": "Ann's phone"}
    assert admin.ok("device.pair.list")["paired"][0]["displayName"] == "Ann's phone"
    assert admin.events("device.pair.changed") == [{}]
    for params, text in (
        ({"deviceId": "d1", "label": "  "}, "label required"),
        ({"deviceId": "d1", "label": "a\u202eb"}, "label must be a name that can be shown"),
        ({"deviceId": "d9", "label": "x"}, "unknown deviceId"),
    ):
        assert said(admin.refused("device.pair.rename", params)) == text
    assert "label" in said(
        admin.refused("device.pair.rename", {"deviceId": "d1", "label": "x" * 65})
    )


# -- tokens


@BOTH
def test_a_rotation_for_another_device(gate: Gate, protocol: int) -> None:
    """The old tokens die and the role's connections close; who is elsewhere does not see the new one."""
    pair(gate, "d1", roles=("operator", "node"), scopes=RW, tokens=("old-1", "old-2"))
    operator, node = gate.client(device_id="d1"), gate.node(device_id="d1")
    admin = gate.client(protocol, peer=REMOTE)

    result = admin.ok("device.token.rotate", {"deviceId": "d1", "role": "operator"})

    now_ms = gate.clock.now_ms()
    assert result == {
        "deviceId": "d1",
        "role": "operator",
        "scopes": list(RW),
        "rotatedAtMs": now_ms,
        "tokenDelivery": "withheld-cross-device",
    }
    (token,) = known(gate).tokens
    assert token.digest not in (digest_of("old-1"), digest_of("old-2"))
    assert operator.connection.closed == DEVICE_REMOVED
    assert node.connection.closed is None
    (row,) = admin.ok("device.pair.list")["paired"]
    assert row["tokens"][0]["rotatedAtMs"] == now_ms


@BOTH
def test_who_sees_a_new_token(gate: Gate, protocol: int) -> None:
    """The device itself sees its token, before it is cut off, and so does an admin at the gateway."""
    pair(gate, "d1", scopes=RW, tokens=("old",))
    itself = device(gate, scopes=(*PAIRING, *RW), protocol=protocol)
    narrow = {"deviceId": "d1", "role": "operator", "scopes": list(READ)}

    result = itself.ok("device.token.rotate", narrow)
    assert result["scopes"] == list(READ)
    assert [t.digest for t in known(gate).tokens] == [digest_of(result["token"])]
    assert itself.connection.closed is None
    gate.turn()
    assert itself.connection.closed == DEVICE_REMOVED

    result = gate.client(protocol, peer=LOCAL).ok("device.token.rotate", narrow)
    assert [t.digest for t in known(gate).tokens] == [digest_of(result["token"])]
    not_admin = gate.client(protocol, scopes=(*PAIRING, *RW), peer=LOCAL)
    assert "token" not in not_admin.ok("device.token.rotate", narrow)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"deviceId": "d9", "role": "operator"}, "unknown-device"),
        ({"deviceId": "d1", "role": "node"}, "unknown-role"),
        ({"deviceId": "d1", "role": "king"}, "unknown-role"),
        (
            {"deviceId": "d1", "role": "operator", "scopes": ["operator.admin"]},
            "scope-not-approved",
        ),
    ],
)
def test_tokens_that_can_not_be_rotated(gate: Gate, params: Any, reason: str) -> None:
    """What is unknown, or was not approved, is refused in the words of either version."""
    pair(gate, "d1", scopes=RW)
    for protocol, text in ((3, "unknown deviceId/role"), (4, "device token rotation denied")):
        error = gate.client(protocol).refused("device.token.rotate", params)
        assert said(error) == text
        assert error["details"] == {"reason": reason}


@BOTH
def test_a_scope_that_there_is_not(gate: Gate, protocol: int) -> None:
    """A scope that was mistyped costs no device its tokens."""
    pair(gate, "d1", scopes=RW, tokens=("old",))
    params = {"deviceId": "d1", "role": "operator", "scopes": ["operator.read", "operator.wriet"]}
    error = gate.client(protocol).refused("device.token.rotate", params)
    assert said(error) == "unknown scope: operator.wriet"
    assert [token.digest for token in known(gate).tokens] == [digest_of("old")]


@pytest.mark.parametrize("method", ["device.token.rotate", "device.token.revoke"])
def test_whose_tokens_are_not_ones_business(gate: Gate, method: str) -> None:
    """Who is no admin changes no token of another device, and none of a node."""
    pair(gate, "d1", roles=("operator", "node"), scopes=())
    pair(gate, "d2", scopes=())
    action = "rotation" if method.endswith("rotate") else "revocation"
    for device_id, role in (("d2", "operator"), ("d1", "node")):
        error = device(gate).refused(method, {"deviceId": device_id, "role": role})
        assert said(error) == f"device token {action} denied"
        assert error["details"]["reason"] == NOT_ALLOWED


def test_a_rotation_beyond_the_callers_scopes(gate: Gate) -> None:
    """A device with a narrow token can not make itself one of all that it was ever approved for."""
    pair(gate, "d1", scopes=("operator.admin",), tokens=("old",))
    client = device(gate, scopes=(*PAIRING, *READ))
    error = client.refused("device.token.rotate", {"deviceId": "d1", "role": "operator"})
    assert said(error) == "missing scope: operator.admin"
    assert [t.digest for t in known(gate).tokens] == [digest_of("old")]
    assert client.connection.closed is None


@given(
    held=st.sets(st.sampled_from(sorted(KNOWN_SCOPES))),
    approved=st.sets(st.sampled_from(sorted(KNOWN_SCOPES))),
    wanted=st.sets(st.sampled_from(sorted(KNOWN_SCOPES))),
    own=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_no_grant_exceeds_its_maker(
    held: set[str], approved: set[str], wanted: set[str], own: bool
) -> None:
    """Whoever approves or rotates what, nobody gets a scope that the maker lacks or nobody approved."""
    gate = Gate()
    try:
        pair(gate, "d1", scopes=sorted(approved))
        itself = "d1" if own else None
        maker = gate.client(scopes=sorted({*held, *PAIRING}), device_id=itself, peer=REMOTE)
        params = {"deviceId": "d1", "role": "operator", "scopes": sorted(wanted)}
        made = maker.call("device.token.rotate", params).frame["ok"]
        fits = covers(approved, wanted) and covers({*held, *PAIRING}, wanted)
        assert made == fits
        ask(gate, "d2", scopes=sorted(wanted), request_id="q2")
        other = "d2" if own else None
        approver = gate.client(scopes=sorted({*held, *PAIRING}), device_id=other, peer=REMOTE)
        granted = approver.call("device.pair.approve", {"requestId": "q2"}).frame["ok"]
        admin = "operator.admin" in held
        assert granted == (covers({*held, *PAIRING}, wanted) and (own or admin))
        device_now = known(gate, "d2").device
        assert (device_now is not None) == granted
    finally:
        gate.close()


@BOTH
def test_a_revocation(gate: Gate, protocol: int) -> None:
    """The role's tokens end, its connections close, and the list says when."""
    pair(gate, "d1", scopes=RW, tokens=("t",))
    client, admin = gate.client(device_id="d1"), gate.client(protocol)
    gate.clock.advance(5)
    now_ms = gate.clock.now_ms()

    result = admin.ok("device.token.revoke", {"deviceId": "d1", "role": "operator"})

    assert result == {"deviceId": "d1", "role": "operator", "revokedAtMs": now_ms}
    assert client.connection.closed == DEVICE_REMOVED
    assert known(gate).tokens == ()
    assert admin.ok("device.pair.list")["paired"][0]["tokens"][0]["revokedAtMs"] == now_ms
    error = admin.refused("device.token.revoke", {"deviceId": "d9", "role": "operator"})
    texts = {3: "unknown deviceId/role", 4: "device token revocation denied"}
    assert said(error) == texts[protocol]
    error = admin.refused("device.token.rotate", {"deviceId": "d1", "role": "operator"})
    assert error["details"] == {"reason": "unknown-role"}


METHODS = {
    "device.pair.list": {},
    "device.pair.approve": {"requestId": "q1"},
    "device.pair.reject": {"requestId": "q1"},
    "device.pair.remove": {"deviceId": "d1"},
    "device.pair.rename": {"deviceId": "d1", "label": "x"},
    "device.token.rotate": {"deviceId": "d1", "role": "operator"},
    "device.token.revoke": {"deviceId": "d1", "role": "operator"},
}


@pytest.mark.parametrize("method", METHODS)
def test_who_may_call(gate: Gate, method: str) -> None:
    """It takes the scope of pairing; a node and a plain reader are refused, and so are foreign params."""
    assert gate.client(scopes=RW).refused(method, METHODS[method])["code"] == "FORBIDDEN"
    assert "unauthorized role" in gate.node().refused(method, METHODS[method])["message"]
    error = gate.client().refused(method, {**METHODS[method], "zz": 1})
    assert said(error).startswith(f"invalid {method} params")
