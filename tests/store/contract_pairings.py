"""What every provider of IStore does with pairings, nodes and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from gateway.errors import StoreError
from gateway.interfaces import IStore
from gateway.model import (
    NodeRecord,
    NodeSurface,
    Pairing,
    PairingRequest,
    RoleGrant,
    SurfaceRequest,
)

from .harness import NOW, a_device, a_token

Wait = Callable[[Any], Any]

GRANT = RoleGrant(role="operator", scopes=("operator.read",), created_at_ms=NOW, revoked_at_ms=NOW)


def a_request(device_id: str = "device-1", **facts: Any) -> PairingRequest:
    """Return an open request."""
    request = PairingRequest(
        request_id=f"request of {device_id}",
        device_id=device_id,
        public_key="key",
        role="node",
        roles=("node",),
        scopes=(),
        requested_at_ms=NOW,
        expires_at_ms=NOW + 300_000,
        reason="not-paired",
    )
    return structs.replace(request, **facts)


class PairingContract:
    """Devices, their tokens and what they ask for, as one record."""

    def test_a_stranger_is_an_empty_pairing(self, store: IStore, wait: Wait) -> None:
        """Of a device that was never heard of nothing is known."""
        assert wait(store.get_pairing("device-1")) == Pairing(device_id="device-1")
        assert wait(store.list_pairings()) == ()
        assert wait(store.find_pairing_request("request of device-1")) is None

    def test_a_pairing_comes_back_whole(self, store: IStore, wait: Wait) -> None:
        """Device, tokens and request are kept as they are; the store sets the version only."""
        device = a_device(grants=(GRANT,), name="Kitchen", remote_ip="192.0.2.1", version=7)
        wanted = Pairing(
            device_id="device-1",
            device=device,
            tokens=(a_token("aa"), a_token("bb", issued_at_ms=NOW + 1)),
            request=a_request(display_name="Küche"),
        )

        stored = wait(store.update_pairing("device-1", lambda current: wanted))

        assert stored == structs.replace(wanted, device=structs.replace(device, version=1))
        assert wait(store.get_pairing("device-1")) == stored
        assert wait(store.find_pairing_request("request of device-1")) == stored
        assert wait(store.list_pairings()) == (stored,)

    def test_parts_change_together(self, store: IStore, wait: Wait) -> None:
        """What a change leaves out is gone; what it leaves alone is as it was, its version too."""
        first = Pairing(
            device_id="device-1",
            device=a_device(),
            tokens=(a_token("aa"), a_token("bb")),
            request=a_request(),
        )
        wait(store.update_pairing("device-1", lambda current: first))

        def use(current: Pairing) -> Pairing:
            used = structs.replace(current.tokens[1], last_used_at_ms=NOW + 5)
            return structs.replace(current, tokens=(used,), request=None)

        stored = wait(store.update_pairing("device-1", use))

        assert stored.device.version == 1
        assert stored.tokens == (a_token("bb", last_used_at_ms=NOW + 5),)
        assert wait(store.get_pairing("device-1")) == stored
        assert wait(store.find_pairing_request("request of device-1")) is None

    def test_a_device_that_goes_takes_its_tokens(self, store: IStore, wait: Wait) -> None:
        """Without a device there are no tokens, whatever the change says; its request may stay."""
        first = Pairing(device_id="device-1", device=a_device(), tokens=(a_token("aa"),))
        wait(store.update_pairing("device-1", lambda current: first))

        def remove(current: Pairing) -> Pairing:
            return structs.replace(current, device=None, request=a_request())

        stored = wait(store.update_pairing("device-1", remove))

        assert stored == Pairing(device_id="device-1", request=a_request())
        assert wait(store.get_pairing("device-1")) == stored
        assert wait(store.list_pairings()) == (stored,)

    def test_a_change_that_raises_changes_nothing(self, store: IStore, wait: Wait) -> None:
        """What a change raises reaches who asked, and nothing is written."""

        def refuse(current: Pairing) -> Pairing:
            raise LookupError(current.device_id)

        with pytest.raises(LookupError, match="device-1"):
            wait(store.update_pairing("device-1", refuse))
        foreign = Pairing(device_id="device-1", request=a_request("device-2"))
        with pytest.raises(StoreError):
            wait(store.update_pairing("device-1", lambda current: foreign))
        assert wait(store.list_pairings()) == ()


class NodeContract:
    """What is kept of nodes."""

    def test_a_node_comes_back_whole(self, store: IStore, wait: Wait) -> None:
        """Everything of a node is kept; one that nothing is said of is not."""
        surface = NodeSurface(
            caps=("camera",), commands=("camera.list",), permissions=(("camera", True),)
        )
        record = NodeRecord(
            node_id="node-1",
            approved=surface,
            approved_at_ms=NOW,
            generation=3,
            request=SurfaceRequest(
                request_id="r", surface=surface, requested_at_ms=NOW, expires_at_ms=NOW + 1
            ),
            push={"token": "t", "topic": "app"},
        )
        assert wait(store.get_node("node-1")) == NodeRecord(node_id="node-1")

        assert wait(store.update_node("node-1", lambda current: record)) == record
        assert wait(store.get_node("node-1")) == record
        assert wait(store.list_nodes()) == (record,)

        empty = NodeRecord(node_id="node-1")
        assert wait(store.update_node("node-1", lambda current: empty)) == empty
        assert wait(store.list_nodes()) == ()
        with pytest.raises(StoreError):
            wait(store.update_node("node-2", lambda current: record))


class SettingContract:
    """Settings that clients may change."""

    def test_a_setting_is_replaced_and_deleted(self, store: IStore, wait: Wait) -> None:
        """A change sees what is stored; None deletes it."""
        assert wait(store.get_setting("wake")) is None
        assert wait(store.update_setting("wake", lambda current: b"a")) == b"a"
        assert wait(store.update_setting("wake", lambda current: (current or b"") + b"b")) == b"ab"
        assert wait(store.get_setting("wake")) == b"ab"
        assert wait(store.update_setting("wake", lambda current: None)) is None
        assert wait(store.get_setting("wake")) is None
