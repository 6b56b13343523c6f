"""How many devices may be known, and how many may wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as changed
from twisted.internet.defer import Deferred

from gateway.core.access import Peer
from gateway.core.deviceproof import DeviceIdentity
from gateway.core.pairing import TTL_MS, paired
from gateway.errors import Unavailable
from gateway.limits import LimitsConfig
from gateway.testing import result_of
from tests.app.door import Door, make_door
from tests.app.harness import REMOTE, FakeConnection, make_caller

OTHER = Peer("192.0.2.8")


def another(door: Door, n: int) -> Door:
    """Return the same door with another device in front of it."""
    return replace(door, identity=DeviceIdentity.from_seed(bytes([n]) * 32))


def capped(**limits: Any) -> Door:
    """Return a door with these limits."""
    return make_door(limits=LimitsConfig(**limits))


def waiting(door: Door) -> set[str]:
    """Return who waits for an operator."""
    pairings = result_of(door.store.list_pairings())
    return {pairing.device_id for pairing in pairings if pairing.request is not None}


def test_devices_of_one_address_that_wait() -> None:
    """One address may have a few devices that wait; another one is not kept out by them."""
    door = capped(pairing_requests_per_address=2)
    first, second, third = (another(door, n) for n in (1, 2, 3))
    first.refusal(peer=REMOTE)
    second.refusal(peer=REMOTE)

    with pytest.raises(Unavailable, match="too many pairing requests wait") as caught:
        third.knock(peer=REMOTE)
    assert caught.value.retryable
    assert waiting(door) == {first.identity.device_id, second.identity.device_id}
    assert second.refusal(peer=REMOTE, scopes=("operator.admin",))["code"] == "NOT_PAIRED"
    assert third.refusal(peer=OTHER)["code"] == "NOT_PAIRED"


def test_an_ipv6_network_is_one_address() -> None:
    """Addresses of one IPv6 network, which one host may have all of, share the places."""
    door = capped(pairing_requests_per_address=1)
    another(door, 1).refusal(peer=Peer("2001:db8::1"))

    with pytest.raises(Unavailable):
        another(door, 2).knock(peer=Peer("2001:db8::2"))
    assert another(door, 3).refusal(peer=Peer("2001:db8:1::1"))


def test_devices_that_wait() -> None:
    """A full list drives nobody out; what has expired makes room, and is deleted on the way."""
    door = capped(pairing_requests_max=1)
    first, second = another(door, 1), another(door, 2)
    first.refusal(peer=REMOTE)
    with pytest.raises(Unavailable):
        second.knock(peer=OTHER)
    door.clock.advance(TTL_MS / 1000)

    assert second.refusal(peer=OTHER)["code"] == "NOT_PAIRED"
    assert waiting(door) == {second.identity.device_id}


def test_two_at_once_do_not_get_one_place() -> None:
    """Of two devices that come at the same moment for the last place one gets it."""
    door = capped(pairing_requests_max=1)
    door.store.hanging.add("list_pairings")
    results: list[Any] = []
    for n in (1, 2):
        another(door, n).knocking(peer=REMOTE).addBoth(results.append)
    door.store.release()

    assert sorted(type(result.value).__name__ for result in results) == ["Refusal", "Unavailable"]
    assert len(waiting(door)) == 1


def test_the_device_least_missed_makes_room() -> None:
    """At the cap the device goes that was paired silently, is not there, and was unseen for longest.

    What was kept of it as a node goes with it: nothing else would ever remove that.
    """
    door = capped(devices_max=3)
    owned, there, gone = (another(door, n) for n in (1, 2, 3))
    for one in (owned, there, gone):
        door.clock.advance(60)
        one.knock()
    owned.change(lambda p: changed(p, device=changed(paired(p), approved_via="owner")))
    door.hub.add(FakeConnection(make_caller("c", device_id=there.identity.device_id)))

    for one in (there, gone):
        node_id = one.identity.device_id
        result_of(door.store.update_node(node_id, lambda record: changed(record, name="Pi")))

    another(door, 4).knock()
    assert gone.device() is None
    kept = [record.node_id for record in result_of(door.store.list_nodes())]
    assert kept == [there.identity.device_id]
    assert owned.device() is not None
    assert there.device() is not None


def test_no_device_goes_that_may_be_missed() -> None:
    """Where every device was approved by an operator a new one is refused, with the way out."""
    door = capped(devices_max=1)
    first = another(door, 1)
    first.knock()
    first.change(lambda p: changed(p, device=changed(paired(p), approved_via="owner")))

    with pytest.raises(Unavailable, match="gatewayctl devices remove") as caught:
        another(door, 2).knock()
    assert caught.value.retryable is None
    assert first.device() is not None
    assert first.knock().device_token


def test_a_device_that_changed_meanwhile_stays() -> None:
    """A device that was seen between the choice and its end is not the one that goes."""
    door = capped(devices_max=2)
    first, second = another(door, 1), another(door, 2)
    first.knock()
    door.clock.advance(60)
    second.knock()
    door.clock.advance(60)
    caps, real = door.admission._caps, door.store.list_pairings

    def listed() -> Any:
        found = real()
        first.knock()
        return found

    door.store.list_pairings = listed
    result_of(Deferred.fromCoroutine(caps.for_device()))

    assert first.device() is not None
    assert second.device() is None


def test_a_forgotten_device_leaves_nothing() -> None:
    """With a device that makes room goes what was kept of it as a node."""
    door = capped(devices_max=1)
    first, second = another(door, 1), another(door, 2)
    first.knock()
    node = first.identity.device_id
    result_of(door.store.update_node(node, lambda record: changed(record, name="Kitchen")))

    second.knock()
    assert result_of(door.store.list_nodes()) == ()
