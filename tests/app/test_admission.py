"""Who is let in, where the store has to be asked."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.access import Peer, digest_of
from gateway.core.devicetokens import revoke
from gateway.model import Device, RoleGrant
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


def test_whom_the_proxy_names(door: Door) -> None:
    """What a trusted proxy says who it is goes with the connection."""
    peer = Peer("127.0.0.1", user="ann@example.org")

    assert door.knock(peer=peer).principal.user == "ann@example.org"
    assert door.knock(peer=peer, client=("cli", "cli"), device=False).principal.user == peer.user


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
        last_seen_reason="connect",
        grants=(
            RoleGrant(
                role="operator",
                scopes=READ,
                created_at_ms=door.clock.now_ms(),
                last_used_at_ms=door.clock.now_ms(),
            ),
        ),
        version=1,
    )
    (stored,) = door.pairing().tokens
    assert (stored.role, stored.scopes) == ("operator", READ)
    assert stored.digest == digest_of(admitted.device_token) == admitted.principal.token_digest
    assert admitted.device_token not in str(stored) + str(admitted)


@VERSIONS
def test_a_remote_device(door: Door, protocol: int) -> None:
    """A device from elsewhere has to be approved by an operator, and is told how; then it comes in."""
    error = door.refusal(protocol, peer=REMOTE)
    request = door.pairing().request
    assert request is not None
    door.approve()

    basics = {
        "code": "PAIRING_REQUIRED",
        "reason": "not-paired",
        "requestId": request.request_id,
    }
    more = {
        "remediationHint": "Approve this device on the gateway's host:"
        f" gatewayctl devices approve {request.request_id}",
        "deviceId": door.identity.device_id,
        "requestedRole": "operator",
        "requestedScopes": list(READ),
    }
    assert error == {
        "code": "NOT_PAIRED",
        "message": {
            3: "pairing required (on the gateway's host: gatewayctl devices approve"
            f" {request.request_id})",
            4: "pairing required: device is not approved yet",
        }[protocol],
        "details": basics if protocol == 3 else {**basics, **more},
    }
    admitted = door.knock(protocol, peer=REMOTE)
    assert admitted.principal.scopes == admitted.token_scopes == READ
    device = door.device()
    assert device is not None
    assert (device.approved_via, device.remote_ip) == ("owner", REMOTE.address)


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
    assert (less.principal.scopes, less.token_scopes) == ((), READ)
    device = door.device()
    assert device is not None
    assert (device.version, device.remote_ip) == (2, REMOTE.address)
    assert device.last_seen_at_ms == door.clock.now_ms()


@pytest.mark.parametrize(
    ("how", "reason", "sentence", "silent"),
    [
        (
            {"scopes": ("operator.read", "operator.write")},
            "scope-upgrade",
            "device is asking for more scopes than currently approved",
            True,
        ),
        (
            {"role": "node", "scopes": ()},
            "role-upgrade",
            "device is asking for a higher role than currently approved",
            False,
        ),
    ],
)
def test_upgrades(
    door: Door, how: dict[str, Any], reason: str, sentence: str, silent: bool
) -> None:
    """A paired device gets more scopes silently only on this machine, and another role never."""
    door.knock()
    error = door.refusal(peer=REMOTE, **how)
    door.clock.advance(60)
    if not silent:
        assert door.refusal(**how)["details"]["requestId"] == error["details"]["requestId"]
        door.approve()
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
    door.change(lambda current: replace(current, device=imposter, tokens=()))

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


# -- where it may be silent


def test_nothing_is_silent_where_it_is_switched_off() -> None:
    """With pairing.silent_local off a device of this machine is approved by an operator like any other."""
    door = make_door(silent_local=False)

    assert door.refusal()["details"]["reason"] == "not-paired"
    door.approve()
    assert door.knock().device_token


def test_nothing_revoked_comes_back_silently(door: Door) -> None:
    """A role that was revoked has to be approved by an operator, also on this machine."""
    door.knock()
    door.change(lambda p: revoke(p, "operator", now_ms=door.clock.now_ms()))

    assert door.refusal()["details"]["reason"] == "role-upgrade"


@pytest.mark.parametrize(
    ("client", "peer", "silent"),
    [
        (("openclaw-macos", "ui"), LOCAL, True),
        (("openclaw-macos", "ui"), REMOTE, False),
        (("openclaw-macos", "cli"), LOCAL, False),
        (("openclaw-control-ui", "ui"), PAGE, False),
        (("test", "ui"), LOCAL, False),
    ],
)
def test_another_machine_is_believed_of_an_app_alone(
    door: Door, client: tuple[str, str], peer: Peer, silent: bool
) -> None:
    """A device that says it is another machine now is asked about, but for an app of this machine."""
    door.knock()

    if silent:
        door.knock(client=client, peer=peer, platform="darwin")
    else:
        error = door.refusal(client=client, peer=peer, platform="darwin")
        assert error["details"]["reason"] == "metadata-upgrade"
        assert error["message"].endswith("device identity changed and must be re-approved")
        door.approve()
    device = door.device()
    assert device is not None
    assert device.platform == "darwin"


def test_another_machine_that_wants_more(door: Door) -> None:
    """Who says that it is another machine is not believed for asking for more scopes as well."""
    door.knock()

    error = door.refusal(scopes=("operator.admin",), platform="darwin")

    assert error["details"]["reason"] == "scope-upgrade"
    assert door.knock(scopes=("operator.write",)).device_token
    device = door.device()
    assert device is not None
    assert device.platform == "linux"


def test_a_device_token_makes_no_other_machine(door: Door) -> None:
    """Only with the shared credential is an app of this machine believed to be on another one now."""
    token = door.knock(client=("openclaw-macos", "ui")).device_token or ""
    changed: dict[str, Any] = {"client": ("openclaw-macos", "ui"), "platform": "darwin"}

    errors = [door.refusal(auth={"deviceToken": token}, **changed) for _ in range(2)]
    assert errors[0]["details"]["reason"] == "metadata-upgrade"
    assert errors[0] == errors[1]
    assert door.knock(**changed).device_token
    assert door.knock(auth={"deviceToken": token}, **changed).device_token == token


def test_version_3_may_change_its_machine(door: Door) -> None:
    """What a version 3 client says of its machine is not asked about, nor taken for what was approved."""
    door.knock(3)
    door.clock.advance(60)
    door.knock(3, platform="darwin", peer=REMOTE)

    device = door.device()
    assert device is not None
    assert (device.platform, device.last_seen_at_ms) == ("linux", door.clock.now_ms())


def test_claims_are_cut(door: Door) -> None:
    """What a device says of itself is kept only so far: it is shown to operators, and stored."""
    door.knock(displayName="x" * 10_000)

    device = door.device()
    assert device is not None
    assert device.display_name == "x" * 200


def test_claims_are_shown_as_one_line(door: Door) -> None:
    """What operators are shown is cleaned, while the device signs what it said."""
    door.refusal(peer=REMOTE, displayName="a\n\u202eb", platform=" Linux\x07")

    request = door.pairing().request
    assert request is not None
    assert (request.display_name, request.platform) == ("a b", "Linux")


def test_who_hides_its_machine_is_another(door: Door) -> None:
    """A platform of blanks is none that was approved."""
    door.knock()
    assert door.refusal(peer=REMOTE, platform=" \u200b")["details"]["reason"] == "metadata-upgrade"


# -- what operators are told


def test_operators_hear_of_a_request(door: Door) -> None:
    """A new request is told once; one that takes its place is told after the end of the old one."""
    for scopes in (READ, READ, ("operator.admin",)):
        door.refusal(peer=REMOTE, scopes=scopes)

    assert [name for name, _ in door.told] == [
        "device.pair.requested",
        "device.pair.resolved",
        "device.pair.requested",
    ]
    first, replaced, second = (payload for _, payload in door.told)
    assert (replaced["requestId"], replaced["decision"]) == (first["requestId"], "rejected")
    assert second["requestId"] != first["requestId"]
    assert second["scopes"] == ["operator.read", "operator.admin"]
    assert second["remoteIp"] == REMOTE.address


def test_operators_hear_of_a_silent_approval(door: Door) -> None:
    """A silent approval is told as approved; one that leaves nothing to approve ends the open request."""
    door.refusal(peer=REMOTE)
    request_id = door.told[0][1]["requestId"]
    door.knock(scopes=())
    door.knock()

    decided = [(payload["requestId"], payload["decision"]) for _, payload in door.told[1:]]
    assert [decision for _, decision in decided] == ["approved", "approved"]
    assert [name == request_id for name, _ in decided] == [False, True]
    assert door.pairing().request is None
