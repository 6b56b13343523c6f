"""A client declares its own role and scopes, in params or headers (attack 7)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.access import KNOWN_SCOPES, effective_scopes
from gateway.model import Role
from tests.net.gate import CLI, DEVICE, UI, Client, Gate
from tests.unmeasured import unmeasured

GRANTED = ("operator.read",)
FAR = "192.0.2.7"
SCOPES = st.lists(
    st.sampled_from([*sorted(KNOWN_SCOPES), "*", "operator.*", "admin", "node", " operator.admin"]),
    max_size=4,
    unique=True,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "X_OpenClaw_Scopes",
            "X_Gateway_Scopes",
            "X_Forwarded_User",
            "X_Forwarded_For",
            "X_Real_IP",
            "Forwarded",
            "Authorization",
            "X_Forwarded_Groups",
            "Tailscale_User_Login",
            "Cookie",
        ]
    ),
    st.sampled_from(
        ["operator.admin", "127.0.0.1", "for=127.0.0.1", "admin", "scopes=operator.admin", "::1"]
    ),
    max_size=4,
)
EXTRA = st.fixed_dictionaries(
    {},
    optional={
        "caps": st.lists(st.sampled_from(["operator.admin", "tool-events"]), max_size=2),
        "commands": st.lists(st.sampled_from(["system.run", "operator.admin"]), max_size=2),
        "permissions": st.dictionaries(st.sampled_from(["operator.admin", "x"]), st.booleans()),
    },
)


def paired(gate: Gate) -> str:
    """Pair the device for less than everything; return its token."""
    client = gate.open()
    hello = client.connect(client=UI, scopes=list(GRANTED), device=DEVICE)
    token: str = hello["payload"]["auth"]["deviceToken"]
    client.wire.lose()
    return token


def rights(client: Client) -> frozenset[str]:
    """Return what a client may do, if it was let in."""
    if client.server.context is None or client.closed() is not None:
        return frozenset()
    return client.server.caller.scopes


@unmeasured
@settings(max_examples=40)
@given(
    scopes=SCOPES,
    role=st.sampled_from(["operator", "node", "admin", "owner"]),
    headers=HEADERS,
    extra=EXTRA,
    protocol=st.sampled_from([3, 4]),
    client=st.sampled_from([CLI, UI, {**CLI, "id": "gateway-client", "mode": "backend"}]),
    host=st.sampled_from(["127.0.0.1", FAR]),
)
def test_s07_what_is_declared_never_adds_to_the_grant(
    scopes: list[str],
    role: str,
    headers: dict[str, str],
    extra: dict[str, Any],
    protocol: int,
    client: dict[str, str],
    host: str,
) -> None:
    """A device that was granted reading can't get more by its token, whatever it declares."""
    gate = Gate()
    token = paired(gate)
    attacker = gate.open(host, **headers)

    if " 101 " not in attacker.status:
        return  # refused with what its headers claim
    attacker.connect(
        protocol,
        client=client,
        role=role,
        scopes=scopes,
        auth={"token": token},
        device=DEVICE,
        **extra,
    )

    assert rights(attacker) <= effective_scopes(GRANTED) & effective_scopes(scopes)
    if attacker.server.context is not None:
        assert attacker.server.caller.principal.role is Role.OPERATOR


@unmeasured
@settings(max_examples=40)
@given(scopes=SCOPES, headers=HEADERS, protocol=st.sampled_from([3, 4]))
def test_s07_without_a_device_there_are_no_scopes_from_afar(
    scopes: list[str], headers: dict[str, str], protocol: int
) -> None:
    """The shared token alone gives a client of another machine no scopes, whatever it declares."""
    gate = Gate()
    attacker = gate.open(FAR, **headers)

    if " 101 " in attacker.status:
        attacker.connect(protocol, scopes=scopes)

    assert rights(attacker) == frozenset()


def test_s07_twin_declared_scopes_narrow() -> None:
    """Who may more and asks for less gets the less, and works."""
    gate = Gate()
    client = gate.join(scopes=["operator.read"])

    assert client.call("sessions.list", {})["ok"]
    assert not client.call("sessions.reset", {"key": "main"})["ok"]
