"""What each method asks for, beside what the protocol asks for (attack 11).

``rights.json``: role and scopes of the methods of protocols 3 and 4, as OpenClaw 2026.2.23 and 2026.9.6
declare them; ``dynamic`` is a scope that depends on the params.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.access import ADMIN, READ, WRITE, effective_scopes
from gateway.rpc.families import build_table
from gateway.rpc.table import Method

RIGHTS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data/rights.json").read_text()
)
OWN = {
    "agents.restart": ADMIN,
    "agents.status": READ,
    "connection.resume": READ,
    "connections.closed": ADMIN,
    "connections.list": ADMIN,
    "gateway.drain": ADMIN,
    "runs.describe": READ,
    "runs.follow": READ,
    "runs.list": READ,
    "runs.read": READ,
    "runs.unfollow": READ,
}
"""Methods of this gateway alone."""
OTHERWISE = {
    "connect": None,  # the handshake comes before any right
    "health": None,  # without READ it names no session, and nodes may call it
    "device.scopes.requestUpgrade": None,  # who has no scope asks for one; an operator decides
    "device.scopes.waitUpgrade": None,
}
"""Methods that ask for something else on purpose."""
LEAST = {
    "agent": WRITE,
    "node.invoke": WRITE,
    "sessions.create": WRITE,
    "sessions.delete": ADMIN,  # the protocol lets WRITE delete archived ones, which are none here
    "sessions.patch": WRITE,
}
"""The least that any call of a method of protocol 4 asks for whose scope depends on its params."""


def _asked(method: Method, protocol: int) -> str | None:
    if method.name in OTHERWISE:
        return OTHERWISE[method.name]
    if method.name in OWN:
        return OWN[method.name]
    # One policy for both versions: a method of one is served to the other for the same rights.
    here, other = RIGHTS[f"v{protocol}"], RIGHTS[f"v{7 - protocol}"]
    right = here.get(method.name) or other[method.name]
    if right["scope"] == ["dynamic"]:
        return LEAST[method.name]
    return right["scope"][0] if right["scope"] else None


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("method", list(build_table()), ids=lambda method: method.name)
def test_s11_a_method_asks_for_what_the_protocol_says(method: Method, protocol: int) -> None:
    """No method is open to a lesser scope, or to another role, than in the protocol."""
    assert method.scope_for(protocol, None) == _asked(method, protocol)
    if method.name not in OTHERWISE | OWN:
        rights = (RIGHTS[each].get(method.name) for each in ("v3", "v4"))
        assert {right["role"] for right in rights if right} == {str(method.role)}


def test_s11_the_exceptions_are_methods() -> None:
    """What is listed as an exception exists; what is the gateway's own is nobody else's."""
    names = {method.name for method in build_table()}
    assert names >= OTHERWISE.keys() | OWN.keys() | LEAST.keys()
    assert OWN.keys().isdisjoint(RIGHTS["v3"].keys() | RIGHTS["v4"].keys())
    assert all(scope in effective_scopes([scope]) for scope in OWN.values())
