"""A token is made with more rights than its maker has (attack 8)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.access import KNOWN_SCOPES, covers, digest_of, effective_scopes
from gateway.core.pairing import Ask, grant
from gateway.model import Pairing
from gateway.testing import result_of
from tests.app.harness import LOCAL, REMOTE, Gate
from tests.unmeasured import unmeasured

SCOPES = st.lists(st.sampled_from(sorted(KNOWN_SCOPES)), max_size=4, unique=True)
TARGET = "d" * 64


def pair(gate: Gate, device_id: str, scopes: list[str]) -> None:
    """Let a device be paired as an operator."""
    wanted = Ask(
        device_id=device_id,
        public_key=device_id[:43],
        role="operator",
        scopes=tuple(scopes),
        protocol=4,
        display_name=None,
        platform="linux",
        device_family=None,
        client_id="test",
        client_mode="ui",
        remote_ip=None,
    )

    def change(current: Pairing) -> Pairing:
        return grant(
            current, wanted, roles=("operator",), scopes=tuple(scopes), via="owner", now_ms=1
        )

    result_of(gate.store.update_pairing(device_id, change))


def pairing(gate: Gate, device_id: str = TARGET) -> Pairing:
    """Return what is stored of a device."""
    stored: Pairing = result_of(gate.store.get_pairing(device_id))
    return stored


@unmeasured
@settings(max_examples=60)
@given(
    held=SCOPES,
    approved=SCOPES,
    wanted=st.none() | st.lists(st.sampled_from([*sorted(KNOWN_SCOPES), "*", ""]), max_size=4),
    own=st.booleans(),
    protocol=st.sampled_from([3, 4]),
    peer=st.sampled_from([LOCAL, REMOTE]),
)
def test_s08_a_new_token_is_within_its_maker_s_rights(
    held: list[str],
    approved: list[str],
    wanted: list[str] | None,
    own: bool,
    protocol: int,
    peer: Any,
) -> None:
    """Whoever rotates a token gets none that does more than the maker may, or than was approved."""
    gate = Gate()
    pair(gate, TARGET, approved)
    caller = TARGET if own else "c" * 64
    client = gate.client(protocol, scopes=held, device_id=caller, peer=peer)
    params: dict[str, Any] = {"deviceId": TARGET, "role": "operator"}
    if wanted is not None:
        params["scopes"] = wanted

    answer = client.call("device.token.rotate", params).frame

    tokens = pairing(gate).tokens
    if not answer["ok"]:
        assert tokens == ()
        return
    (token,) = tokens
    assert effective_scopes(token.scopes) <= effective_scopes(held)
    assert covers(approved, token.scopes)
    if "token" in answer["payload"]:
        assert digest_of(answer["payload"]["token"]) == token.digest
        assert own or ("operator.admin" in held and peer is LOCAL)
    gate.close()


@unmeasured
@settings(max_examples=30)
@given(held=SCOPES, wanted=SCOPES, own=st.booleans(), protocol=st.sampled_from([3, 4]))
def test_s08_nobody_approves_what_he_does_not_hold(
    held: list[str], wanted: list[str], own: bool, protocol: int
) -> None:
    """A request is approved by no one who lacks one of its scopes himself."""
    gate = Gate()
    pair(gate, TARGET, ["operator.read"])
    asking = gate.client(4, scopes=("operator.read",), device_id=TARGET)
    asked = asking.call("device.scopes.requestUpgrade", {"scopes": wanted}).frame
    caller = TARGET if own else "c" * 64
    client = gate.client(protocol, scopes=held, device_id=caller)
    request = pairing(gate).request
    if request is not None:
        client.call("device.pair.approve", {"requestId": request.request_id})
    device = pairing(gate).device
    assert device is not None
    gained = set(device.scopes) - {"operator.read"}
    assert gained <= effective_scopes(held), asked
    gate.close()


def test_s08_a_token_is_not_shown_to_others() -> None:
    """An admin on another machine may replace a device's token, and does not get to see it."""
    gate = Gate()
    pair(gate, TARGET, ["operator.read"])
    client = gate.client(device_id="c" * 64, peer=REMOTE)
    answer = client.ok("device.token.rotate", {"deviceId": TARGET, "role": "operator"})
    assert answer["tokenDelivery"] == "withheld-cross-device"
    assert "token" not in answer
    gate.close()


def test_s08_twin_a_device_replaces_its_own_token() -> None:
    """A device gets a new token for itself, with all that it was approved for."""
    gate = Gate()
    pair(gate, TARGET, ["operator.read", "operator.pairing"])
    client = gate.client(scopes=["operator.read", "operator.pairing"], device_id=TARGET)
    answer = client.ok("device.token.rotate", {"deviceId": TARGET, "role": "operator"})
    assert set(answer["scopes"]) == {"operator.read", "operator.pairing"}
    stored = pairing(gate)
    assert replace(stored.tokens[0]).digest == digest_of(answer["token"])
    gate.turn()
    gate.close()
