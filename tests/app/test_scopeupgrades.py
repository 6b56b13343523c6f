"""A connected device asks for more, waits, and gets a token for what was approved."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.app.scopeupgrades import ENDED_TTL_S
from gateway.core.access import KNOWN_SCOPES, digest_of
from gateway.core.pairing import TTL_MS
from gateway.model import Principal, Role
from tests.app.harness import REMOTE, Call, Client, Gate, assert_fits
from tests.app.pairings import ask, known, pair

READ = ("operator.read",)
RW = ("operator.read", "operator.write")
REQUEST, WAIT = "device.scopes.requestUpgrade", "device.scopes.waitUpgrade"


@pytest.fixture
def client(gate: Gate) -> Client:
    """Return a paired device that may read."""
    pair(gate, "d1")
    return gate.client(device_id="d1", scopes=READ, peer=REMOTE, client="cli")


def waiting(client: Client, scopes: tuple[str, ...] = RW) -> tuple[str, Call]:
    """Ask for scopes, and wait for the answer."""
    request_id = client.ok(REQUEST, {"scopes": list(scopes)})["requestId"]
    call = client.call(WAIT, {"requestId": request_id})
    assert call.frames == []
    return request_id, call


def decide(gate: Gate, request_id: str, verb: str = "approve") -> None:
    gate.client().ok(f"device.pair.{verb}", {"requestId": request_id})


def assert_nobody_waits(gate: Gate) -> None:
    """Assert that neither a waiter nor a timer is left."""
    upgrades = gate.services.scope_upgrades
    assert upgrades._waiting == {}
    assert upgrades._timer is None


def test_an_approval(gate: Gate, client: Client) -> None:
    """Operators are told of the request; once it is approved the device gets a token for it."""
    watcher = gate.client(scopes=("operator.pairing",))
    request_id, call = waiting(client)
    (asked,) = watcher.events("device.pair.requested")
    assert (asked["requestId"], asked["isRepair"]) == (request_id, True)
    assert asked["remoteIp"] == REMOTE.address

    decide(gate, request_id)

    answer = call.payload
    assert_fits(4, "ScopeUpgradeApproved", answer)
    assert answer["scopes"] == list(RW)
    (token,) = known(gate).tokens
    assert token.digest == digest_of(answer["deviceToken"])
    assert token.scopes == RW
    assert client.context.caller.scopes == gate.client(scopes=READ).context.caller.scopes
    assert client.connection.closed is None
    assert_nobody_waits(gate)


def test_a_rejection(gate: Gate, client: Client) -> None:
    """What is refused is answered so, also to who asks a little later."""
    request_id, call = waiting(client)
    decide(gate, request_id, "reject")
    answer = {"status": "rejected", "requestId": request_id}
    assert_fits(4, "ScopeUpgradeRejected", answer)
    assert call.payload == answer
    assert client.ok(WAIT, {"requestId": request_id}) == answer
    gate.clock.advance(ENDED_TTL_S)
    assert gate.services.scope_upgrades.sweep(gate.clock.seconds()) == 1
    assert client.refused(WAIT, {"requestId": request_id})["message"] == "unknown requestId"


def test_its_time(gate: Gate, client: Client) -> None:
    """A request that nobody decides expires for all who wait, whenever they began; one timer serves them."""
    request_id, first = waiting(client)
    gate.clock.advance(100)
    other = gate.client(device_id="d1", scopes=READ)
    second = other.call(WAIT, {"requestId": request_id})
    pair(gate, "d2")
    late_id, late = waiting(gate.client(device_id="d2", scopes=READ))
    gate.clock.advance(TTL_MS / 1000 - 100)
    answer = {"status": "expired", "requestId": request_id}
    assert_fits(4, "ScopeUpgradeExpired", answer)
    assert (first.payload, second.payload) == (answer, answer)
    assert late.frames == []
    gate.clock.advance(100)
    assert late.payload == {"status": "expired", "requestId": late_id}
    assert_nobody_waits(gate)


def test_another_request_takes_its_place(gate: Gate, client: Client) -> None:
    """A device that asks for something else gives up what it asked for before; the same is asked once."""
    request_id, call = waiting(client)
    assert client.ok(REQUEST, {"scopes": list(RW)}) == {"requestId": request_id}
    wider = client.ok(REQUEST, {"scopes": ["operator.approvals"]})["requestId"]
    assert wider != request_id
    assert call.payload["status"] == "rejected"
    decide(gate, wider)
    assert client.ok(WAIT, {"requestId": wider})["scopes"] == [*RW, "operator.approvals"]


def test_whose_connection_ends(gate: Gate, client: Client) -> None:
    """Who leaves while it waits leaves nothing behind; the request stays."""
    request_id, call = waiting(client)
    call.cancel()
    assert_nobody_waits(gate)
    decide(gate, request_id)
    assert client.ok(WAIT, {"requestId": request_id})["status"] == "approved"


def test_what_is_taken_back_meanwhile(gate: Gate, client: Client) -> None:
    """An approval that was revoked before the device asked for its token gives none."""
    request_id, call = waiting(client)
    call.cancel()
    decide(gate, request_id)
    gate.client().ok("device.token.revoke", {"deviceId": "d1", "role": "operator"})
    assert client.ok(WAIT, {"requestId": request_id})["status"] == "rejected"


def test_the_oldest_token_gives_way(gate: Gate) -> None:
    """A device has four tokens of a role; who came in by the one that dies for another is cut off."""
    pair(gate, "d1", tokens=("t1", "t2", "t3", "t4"))
    client = gate.client(device_id="d1", scopes=READ)
    request_id, call = waiting(client)
    decide(gate, request_id)
    assert call.payload["status"] == "approved"
    assert len(known(gate).tokens) == 4


def test_who_leaves_while_its_token_is_made(gate: Gate) -> None:
    """The token that gives way for another ends its connection, though nobody waits for the other."""
    pair(gate, "d1", tokens=("t1", "t2", "t3", "t4"))
    client = gate.client(device_id="d1", scopes=READ)
    by_token, *others = (gate.client(device_id="d1", scopes=READ) for _ in range(4))
    for each, token in zip((by_token, *others), ("t1", "t2", "t3", "t4"), strict=True):
        principal = Principal(
            role=Role.OPERATOR,
            scopes=READ,
            auth_method="device-token",
            device_id="d1",
            token_digest=digest_of(token),
        )
        gate.services.hub.remove(each.connection)
        each.connection.caller.principal = principal
        gate.services.hub.add(each.connection)
    request_id = client.ok(REQUEST, {"scopes": list(RW)})["requestId"]
    decide(gate, request_id)
    update, held = gate.store.update_pairing, Deferred[None]()

    def slow(device_id: str, change: Any) -> Any:
        return held.addCallback(lambda _: update(device_id, change))

    gate.store.update_pairing = slow
    call = client.call(WAIT, {"requestId": request_id})
    call.cancel()
    held.callback(None)
    assert call.frames == []
    assert by_token.connection.closed is not None
    assert [each.connection.closed for each in others] == [None] * 3
    assert client.connection.closed is None


def test_a_long_list_of_scopes(gate: Gate, client: Client) -> None:
    """An answer names at most eight scopes: of more those that no other includes."""
    first = ["operator.sessions.read", "operator.sessions.write", *RW, "operator.talk"]
    client.ok(REQUEST, {"scopes": first})
    rest = sorted(KNOWN_SCOPES - {*first, "operator.admin"})
    request_id, call = waiting(client, tuple(rest))
    decide(gate, request_id)
    assert_fits(4, "ScopeUpgradeApproved", call.payload)
    assert set(call.payload["scopes"]) == {"operator.write", *rest}
    (token,) = known(gate).tokens
    assert set(token.scopes) == {*first, *rest}


@pytest.mark.parametrize("decided", [False, True])
def test_another_devices_request(gate: Gate, client: Client, decided: bool) -> None:
    """Nobody learns what becomes of another device's request, nor gets its token."""
    request_id = client.ok(REQUEST, {"scopes": list(RW)})["requestId"]
    if decided:
        decide(gate, request_id)
    pair(gate, "d2")
    other = gate.client(device_id="d2")
    for id_ in (request_id, "nope"):
        assert other.refused(WAIT, {"requestId": id_})["message"] == "unknown requestId"
    assert_nobody_waits(gate)


def test_a_decision_while_the_store_is_asked(gate: Gate, client: Client) -> None:
    """A decision between the call and the store's answer is not missed."""
    request_id = client.ok(REQUEST, {"scopes": list(RW)})["requestId"]
    find = gate.store.find_pairing_request

    def late(id_: str) -> Any:
        gate.store.find_pairing_request = find
        decide(gate, request_id)
        gate.services.scope_upgrades._wake(request_id, "expired")
        return find(id_)

    gate.store.find_pairing_request = late
    assert client.ok(WAIT, {"requestId": request_id})["status"] == "approved"


@pytest.mark.parametrize(
    ("who", "params", "text"),
    [
        ({}, {"scopes": ["operator.read"]}, "this connection has no paired device"),
        (
            {"device_id": "d9"},
            {"scopes": ["operator.read"]},
            "this connection has no paired device",
        ),
        (
            {"device_id": "d1"},
            {"scopes": ["operator.read"]},
            "the device may have these scopes already",
        ),
        ({"device_id": "d1"}, {"scopes": ["operator.king"]}, "unknown scope: operator.king"),
        ({"device_id": "d1"}, {"scopes": []}, f"invalid {REQUEST} params"),
        ({"device_id": "d1"}, {"scopes": ["a", "a"]}, f"invalid {REQUEST} params"),
        ({"device_id": "d1"}, {"scopes": list("abcdefghi")}, f"invalid {REQUEST} params"),
    ],
)
def test_what_can_not_be_asked_for(gate: Gate, who: Any, params: Any, text: str) -> None:
    """Only a paired device asks, for scopes that there are and that it has not."""
    pair(gate, "d1")
    error = gate.client(scopes=(), **who).refused(REQUEST, params)
    assert error["code"] == "INVALID_REQUEST"
    assert error["message"].startswith(text)


def test_who_may_not_wait(gate: Gate) -> None:
    """A connection without a device waits for nothing, and a node has no scopes to wait for."""
    error = gate.client().refused(WAIT, {"requestId": "q"})
    assert error["message"].startswith("this connection has no paired device")
    assert "unauthorized role" in gate.node().refused(WAIT, {"requestId": "q"})["message"]


def test_too_many_wait(gates: Any) -> None:
    """Waiting is bounded."""
    gate = gates(limits={"scope_upgrades_max": 1})
    pair(gate, "d1")
    client = gate.client(device_id="d1", scopes=READ)
    request_id, call = waiting(client)
    assert client.refused(WAIT, {"requestId": request_id})["code"] == "UNAVAILABLE"
    call.cancel()
    assert_nobody_waits(gate)
    assert len(gate.services.scope_upgrades) == 0


def test_a_request_that_a_connect_made(gate: Gate, client: Client) -> None:
    """What the device asked for by connecting can be waited for as well."""
    ask(gate, "d1", scopes=RW, request_id="q7")
    call = client.call(WAIT, {"requestId": "q7"})
    decide(gate, "q7")
    assert call.payload["scopes"] == list(RW)
