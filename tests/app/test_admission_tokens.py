"""Devices that come back with a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.core.access import Peer
from gateway.core.credentials import AuthPolicy
from gateway.core.deviceproof import DeviceIdentity
from gateway.core.devicetokens import LIVE_TOKENS
from gateway.core.pairing import paired
from gateway.errors import StoreError, Unavailable
from gateway.testing import TOKEN
from tests.app.door import Door, make_door
from tests.app.harness import LOCAL, REMOTE

VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


@pytest.fixture
def door() -> Door:
    """Return a door with the test kit's token."""
    return make_door()


@VERSIONS
@pytest.mark.parametrize("field", ["token", "deviceToken"])
@pytest.mark.parametrize("peer", [LOCAL, REMOTE])
def test_a_device_token(door: Door, protocol: int, field: str, peer: Peer) -> None:
    """A device comes back with its token in place of the shared credential, from anywhere."""
    first = door.knock()
    assert first.device_token
    door.clock.advance(60)

    admitted = door.knock(protocol, auth={field: first.device_token}, peer=peer)

    assert admitted.principal.auth_method == "device-token"
    assert admitted.device_token == first.device_token
    assert admitted.issued_at_ms == first.issued_at_ms


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    ("auth", "reason", "may_retry"),
    [
        ({"deviceToken": "wrong"}, "device_token_mismatch", False),
        ({"deviceToken": "wrong", "token": "wrong"}, "device_token_mismatch", False),
        ({"token": "wrong"}, "token_mismatch", True),
        ({}, "token_missing", False),
    ],
)
def test_a_wrong_token(
    door: Door, protocol: int, auth: dict[str, str], reason: str, may_retry: bool
) -> None:
    """A wrong credential is refused with the reason that helps the client to go on."""
    door.knock()

    error = door.refusal(protocol, auth=auth)

    assert error["code"] == "INVALID_REQUEST"
    assert error["details"]["code"] == f"AUTH_{reason.upper()}"
    assert error["details"]["authReason"] == reason
    if protocol == 4:
        assert error["details"]["canRetryWithDeviceToken"] is may_retry


def test_a_token_of_another(door: Door) -> None:
    """A token serves only the device and the role it was made for, while its key is the paired one."""
    token = door.knock().device_token
    assert token
    door.refusal(role="node", scopes=())
    door.approve()
    node_token = door.knock(role="node", scopes=()).device_token
    assert node_token
    other = replace(door, identity=DeviceIdentity.from_seed(b"2" * 32))
    other.knock()

    for refusal in (
        other.refusal(auth={"deviceToken": token}),
        door.refusal(auth={"deviceToken": node_token}),
        door.refusal(auth={"deviceToken": token}, role="node", scopes=()),
    ):
        assert refusal["details"]["authReason"] == "device_token_mismatch"


@pytest.mark.parametrize(
    ("protocol", "reason"), [(3, "device_token_mismatch"), (4, "scope_mismatch")]
)
def test_more_scopes_than_the_token_has(door: Door, protocol: int, reason: str) -> None:
    """A token does not serve for scopes that it was not made for."""
    token = door.knock().device_token
    assert token

    error = door.refusal(
        protocol, auth={"deviceToken": token}, scopes=("operator.read", "operator.admin")
    )

    assert error["details"]["authReason"] == reason


@pytest.mark.parametrize("change", [{"roles": ()}, {"scopes": ()}, {"public_key": "another"}])
def test_a_device_that_may_less_by_now(door: Door, change: dict[str, Any]) -> None:
    """A token serves for no more than its device is approved for when it comes."""
    token = door.knock().device_token
    assert token
    door.change(
        lambda pairing: msgspec.structs.replace(
            pairing, device=msgspec.structs.replace(paired(pairing), **change)
        )
    )

    assert door.refusal(auth={"deviceToken": token})["code"] == "INVALID_REQUEST"


def test_at_most_four_tokens_live(door: Door) -> None:
    """Of one device and role four tokens live at once; a fifth ends the oldest."""
    tokens = []
    for _ in range(LIVE_TOKENS + 1):
        door.clock.advance(1)
        tokens.append(door.knock().device_token or "")
    door.refusal(role="node", scopes=())
    door.approve()
    node_token = door.knock(role="node", scopes=()).device_token or ""

    assert len(set(tokens)) == LIVE_TOKENS + 1
    error = door.refusal(auth={"deviceToken": tokens[0]})
    assert error["details"]["authReason"] == "device_token_mismatch"
    for token in tokens[1:]:
        assert door.knock(auth={"deviceToken": token}).device_token == token
    assert door.knock(role="node", scopes=(), auth={"deviceToken": node_token}).device_token


@pytest.mark.parametrize("mode", ["none", "password"])
def test_other_modes(door: Door, mode: str) -> None:
    """Without a credential, and with a password, a device gets a token as with the shared token."""
    door.auth = AuthPolicy(mode, None if mode == "none" else TOKEN)

    admitted = door.knock(auth={} if mode == "none" else {"password": TOKEN})

    assert admitted.principal.auth_method == mode
    assert admitted.device_token


@pytest.mark.parametrize("operation", ["list_pairings", "update_pairing"])
def test_a_store_that_fails(
    door: Door, operation: str, expected_failures: list[type[BaseException]]
) -> None:
    """Where the store fails the client is asked to try again, and is not let in."""
    expected_failures.append(StoreError)
    door.store.failing[operation] = StoreError("disk full")

    with pytest.raises(Unavailable, match="the store failed") as caught:
        door.knock()
    assert caught.value.retryable


@pytest.mark.parametrize("operation", ["get_pairing", "update_pairing"])
def test_a_store_that_fails_on_a_token(
    door: Door, operation: str, expected_failures: list[type[BaseException]]
) -> None:
    """Where a token can not be looked up, or its use not be noted, it is no wrong token: try again."""
    token = door.knock().device_token or ""
    door.clock.advance(60)
    expected_failures.append(StoreError)
    door.store.failing[operation] = StoreError("disk full")

    with pytest.raises(Unavailable, match="the store failed"):
        door.knock(auth={"deviceToken": token})
    door.store.failing.clear()
    assert door.knock(auth={"deviceToken": token}).device_token == token


def test_a_token_is_written_down_once_a_minute(door: Door) -> None:
    """Coming back by a token writes nothing for a minute, then that the device was here."""
    token = door.knock().device_token or ""
    door.store.calls.clear()
    door.knock(auth={"deviceToken": token})
    assert door.store.calls == ["get_pairing"]

    door.clock.advance(60)
    door.knock(auth={"deviceToken": token})
    assert door.store.calls[1:] == ["get_pairing", "update_pairing"]
    (stored,) = door.pairing().tokens
    assert stored.last_used_at_ms == door.clock.now_ms()
