"""Who is let in, where the store has to be asked."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.access import Peer, digest_of
from gateway.model import Device
from gateway.testing import result_of
from tests.app.door import READ, Door, make_door
from tests.app.harness import LOCAL, REMOTE

PAGE = Peer("127.0.0.1", origin="http://localhost:5173")
VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


@pytest.fixture
def door() -> Door:
    """Return a door with the test kit's token."""
    return make_door()


# -- without a device, and without pairing


@VERSIONS
def test_the_command_line(door: Door, protocol: int) -> None:
    """A local command line comes in with the shared credential alone, with the scopes it asks for."""
    admitted = door.knock(protocol, device=False, client=("cli", "cli"))

    assert admitted.principal.scopes == READ
    assert admitted.principal.actor == "shared:token"
    assert admitted.principal.auth_method == "token"
    assert (admitted.device_token, admitted.issued_at_ms) == (None, None)
    assert door.store.calls == []


@VERSIONS
def test_a_backend_of_this_machine(door: Door, protocol: int) -> None:
    """A local backend with the shared credential keeps its scopes and leaves no pairing record."""
    admitted = door.knock(protocol, client=("gateway-client", "backend"))

    assert admitted.principal.scopes == READ
    assert admitted.principal.device_id == door.identity.device_id
    assert admitted.device_token is None
    assert door.device() is None


@pytest.mark.parametrize(
    "how",
    [
        {"peer": REMOTE},
        {"peer": Peer("127.0.0.1", forwarded=True)},
        {"role": "node", "scopes": ()},
        {"client": ("gateway-client", "ui")},
        {"client": ("test", "backend")},
    ],
)
def test_others_are_paired(door: Door, how: dict[str, Any]) -> None:
    """A backend from elsewhere, a node, and anything else has to be paired."""
    how = {"client": ("gateway-client", "backend")} | how
    if how.get("peer", LOCAL).local:
        assert door.knock(**how).device_token
        assert door.device() is not None
    else:
        assert door.refusal(**how)["code"] == "NOT_PAIRED"


# -- pairing


@VERSIONS
def test_silent_pairing(door: Door, protocol: int) -> None:
    """A local device is paired silently, and gets a token to come back with."""
    admitted = door.knock(protocol, displayName="Ann", deviceFamily="Mac")

    assert admitted.principal.auth_method == "token"
    assert admitted.principal.actor == door.identity.device_id
    assert admitted.device_token
    assert admitted.issued_at_ms == door.clock.now_ms()
    assert door.device() == Device(
        device_id=door.identity.device_id,
        public_key=door.identity.public_key,
        roles=("operator",),
        scopes=READ,
        created_at_ms=door.clock.now_ms(),
        approved_at_ms=door.clock.now_ms(),
        approved_via="silent",
        display_name="Ann",
        platform="linux",
        device_family="Mac",
        client_id="test",
        client_mode="ui",
        last_seen_at_ms=door.clock.now_ms(),
        version=1,
    )
    stored = result_of(door.store.get_device_token(digest_of(admitted.device_token)))
    assert (stored.role, stored.scopes) == ("operator", READ)
    assert admitted.device_token not in str(stored)


@VERSIONS
def test_a_remote_device(door: Door, protocol: int) -> None:
    """A device from elsewhere has to be approved by an operator, and is told how."""
    error = door.refusal(protocol, peer=REMOTE)

    assert error["code"] == "NOT_PAIRED"
    assert error["message"] == "pairing required: device is not approved yet"
    details = error["details"]
    assert (details["code"], details["reason"]) == ("PAIRING_REQUIRED", "not-paired")
    assert details["requestId"]
    assert details["deviceId"] == door.identity.device_id
    assert (details["requestedRole"], details["requestedScopes"]) == ("operator", list(READ))
    assert "approvedRoles" not in details
    assert door.device() is None


def test_a_page(door: Door) -> None:
    """A page of this machine is paired silently only if it is one of the known browser clients."""
    assert door.refusal(peer=PAGE)["code"] == "NOT_PAIRED"
    assert door.knock(peer=PAGE, client=("openclaw-control-ui", "ui")).device_token
    assert door.knock(peer=PAGE, client=("webchat-ui", "webchat")).device_token


def test_a_paired_device_from_elsewhere(door: Door) -> None:
    """A paired device comes in from elsewhere with the shared credential, for what it is approved for."""
    door.knock()
    door.clock.advance(60)
    again = door.knock(peer=REMOTE)
    less = door.knock(peer=REMOTE, scopes=())

    assert again.device_token
    assert less.principal.scopes == ()
    device = door.device()
    assert device is not None
    assert device.version == 1


@pytest.mark.parametrize(
    ("how", "reason", "sentence"),
    [
        (
            {"scopes": ("operator.read", "operator.write")},
            "scope-upgrade",
            "device is asking for more scopes than currently approved",
        ),
        (
            {"role": "node", "scopes": ()},
            "role-upgrade",
            "device is asking for a higher role than currently approved",
        ),
    ],
)
def test_upgrades(door: Door, how: dict[str, Any], reason: str, sentence: str) -> None:
    """A paired device gets more than it is approved for only locally; both approvals then stand."""
    door.knock()
    error = door.refusal(peer=REMOTE, **how)
    door.clock.advance(60)
    door.knock(**how)

    assert error["details"]["reason"] == reason
    assert error["message"].endswith(sentence)
    assert error["details"]["approvedRoles"] == ["operator"]
    assert error["details"]["approvedScopes"] == list(READ)
    device = door.device()
    assert device is not None
    assert set(device.roles) == {"operator", how.get("role", "operator")}
    assert set(device.scopes) == {*READ, *how["scopes"]}
    assert device.created_at_ms == door.clock.now_ms() - 60_000
    assert device.approved_at_ms == door.clock.now_ms()


def test_an_implied_scope_is_no_upgrade(door: Door) -> None:
    """What an approved scope includes needs no approval of its own."""
    door.knock(scopes=("operator.write",))

    assert door.knock(peer=REMOTE, scopes=READ).principal.scopes == READ


def test_another_key_under_the_same_id(door: Door) -> None:
    """A record with another key is no approval: its device is paired anew, without the old scopes."""
    door.knock(scopes=("operator.admin",))
    imposter = Device(
        device_id=door.identity.device_id,
        public_key="another",
        roles=("operator",),
        scopes=("operator.admin",),
        created_at_ms=0,
        approved_at_ms=0,
        approved_via="owner",
    )
    result_of(door.store.update_device(imposter.device_id, lambda current: imposter))

    assert door.refusal(peer=REMOTE)["details"]["reason"] == "not-paired"
    door.knock()
    device = door.device()
    assert device is not None
    assert (device.public_key, device.scopes) == (door.identity.public_key, READ)
    assert device.created_at_ms == door.clock.now_ms()


@VERSIONS
def test_a_node(door: Door, protocol: int) -> None:
    """A local node is paired silently and has no scopes, whatever it asks for."""
    admitted = door.knock(
        protocol, role="node", scopes=("operator.admin",), client=("node-host", "node")
    )

    assert admitted.principal.scopes == ()
    assert admitted.device_token
    device = door.device()
    assert device is not None
    assert (device.roles, device.scopes) == (("node",), ())
