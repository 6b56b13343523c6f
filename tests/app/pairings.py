"""Devices in the store of a gateway in memory: paired, or asking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.core import devicetokens, pairing
from gateway.core.access import digest_of
from gateway.model import Pairing, PairingRequest
from gateway.testing import result_of
from tests.app.harness import READ, Gate


def ask_of(device_id: str, role: str, scopes: Iterable[str], **facts: Any) -> pairing.Ask:
    """Return what a device says when it asks."""
    said: dict[str, Any] = {"protocol": 4, "platform": "linux", "client_id": "cli"}
    return pairing.Ask(
        device_id=device_id,
        public_key=f"key-of-{device_id}",
        role=role,
        scopes=tuple(scopes),
        **{**said, **facts},
    )


def pair(
    gate: Gate,
    device_id: str = "d1",
    *,
    roles: tuple[str, ...] = ("operator",),
    scopes: Iterable[str] = READ,
    tokens: tuple[str, ...] = (),
    via: str = "owner",
    **facts: Any,
) -> Pairing:
    """Pair a device; ``tokens`` are secrets for its first role."""
    now_ms = gate.clock.now_ms()
    wanted = ask_of(device_id, roles[0], scopes, **facts)

    def change(current: Pairing) -> Pairing:
        known = pairing.grant(
            current, wanted, roles=roles, scopes=wanted.scopes, via=via, now_ms=now_ms
        )
        for secret in tokens:
            made = devicetokens.issue(
                known, roles[0], wanted.scopes, digest_of(secret), now_ms=now_ms
            )
            known = made.pairing
        return known

    stored: Pairing = result_of(gate.store.update_pairing(device_id, change))
    return stored


def ask(
    gate: Gate,
    device_id: str = "d1",
    *,
    role: str = "operator",
    scopes: Iterable[str] = READ,
    request_id: str = "q1",
    **facts: Any,
) -> PairingRequest:
    """Let a device ask, as a connect of it does."""
    now_ms = gate.clock.now_ms()
    wanted = ask_of(device_id, role, scopes, **facts)

    def change(current: Pairing) -> Pairing:
        return pairing.ask(current, wanted, request_id=request_id, now_ms=now_ms).pairing

    stored: Pairing = result_of(gate.store.update_pairing(device_id, change))
    assert stored.request is not None
    return stored.request


def known(gate: Gate, device_id: str = "d1") -> Pairing:
    """Return what the store has of a device."""
    stored: Pairing = result_of(gate.store.get_pairing(device_id))
    return stored
