"""Methods are called before authentication, or by whom they are not for (attack 11)."""

from __future__ import annotations

import pytest

from gateway.core.access import KNOWN_SCOPES, effective_scopes
from gateway.model import Role
from gateway.rpc.families import build_table
from tests.app.conftest import gates
from tests.app.harness import Gate as AppGate
from tests.net.gate import Gate

__all__ = ["gates"]

METHODS = list(build_table())
MUTATING = (
    "set create update delete patch reset add remove approve reject rename rotate revoke invoke send "
    "steer abort inject compact drain restart resolve request result progress event enqueue pull ack "
    "mode config write run apply enable disable register unregister verify"
).split()
"""The last words of methods that change something, or make somebody else do something."""
OPEN = {"connect", "health"}
"""What needs no scope and no role: the handshake itself, and a snapshot without secrets."""
ASKING = {"device.scopes.requestUpgrade", "device.scopes.waitUpgrade"}
"""What an operator without any scope may call: a device asks for more, and another operator decides."""


@pytest.mark.parametrize("method", [m.name for m in METHODS if m.name != "connect"])
def test_s11_no_method_is_served_before_authentication(gate: Gate, method: str) -> None:
    """The first frame is a connect, or the end of the connection: no method is run for a stranger."""
    stranger = gate.open()
    stranger.received()

    stranger.request(method, {})

    (answer,) = [frame for frame in stranger.received() if frame["type"] == "res"]
    assert answer["error"]["message"] == "invalid handshake: first request must be connect"
    assert stranger.closed() == (1008, "invalid handshake: first request must be connect")


def test_s11_frames_that_overtake_the_connect_do_not_run_when_it_is_refused(gate: Gate) -> None:
    """What a stranger sends behind a connect that is refused is never looked at."""
    waiting = gate.stall_store()
    stranger = gate.open()
    stranger.connect(auth={"token": "wrong"}, client={**UI_DEVICE})
    stranger.request("sessions.create", {"key": "made"})
    for answer in waiting:
        answer()

    listed = gate.join().call("sessions.list", {})

    assert [row["key"] for row in listed["payload"]["sessions"]] == []


UI_DEVICE = {"id": "test", "version": "1.0", "platform": "linux", "mode": "ui"}


def test_s11_every_method_that_changes_something_asks_for_a_right() -> None:
    """A method without a scope is open, or for nodes alone; none that changes something is open."""
    without = {m.name for m in METHODS if m.scope is None}
    mutating = {m.name for m in METHODS if m.name.replace("-", ".").split(".")[-1] in MUTATING}

    assert {m.name for m in METHODS if m.scope is None and m.role is None} == OPEN
    assert OPEN.isdisjoint(mutating)
    assert all(m.role is Role.NODE for m in METHODS if m.name in without - OPEN - ASKING)


def test_s11_nobody_runs_what_he_holds_no_scope_for(gates: type[AppGate]) -> None:
    """For every role and scope, a method whose scope is not held is refused before its params are read."""
    gate = gates()
    for protocol in (3, 4):
        holders = [gate.client(protocol, scopes=(scope,)) for scope in sorted(KNOWN_SCOPES)]
        for client in (gate.client(protocol, scopes=()), gate.node(protocol), *holders):
            caller = client.context.caller
            for method in METHODS:
                scope = method.scope_for(protocol, None)
                right_role = method.role in (None, caller.principal.role)
                if right_role and (scope is None or scope in caller.scopes):
                    continue
                error = client.refused(method.name, {"no such key": 1})
                word = "missing scope: " if right_role else "unauthorized role: "
                assert error["message"].startswith(word), (method.name, caller.scopes)


def test_s11_an_unknown_method_is_denied_to_all_but_the_admin(gates: type[AppGate]) -> None:
    """Default deny: what is not in the table asks for every right there is."""
    gate = gates()
    for scope in KNOWN_SCOPES - {"operator.admin"}:
        refused = gate.client(scopes=(scope,)).refused("config.write", {"a": 1})
        assert refused["message"] == "missing scope: operator.admin"
    assert gate.client().refused("config.write")["message"] == "unknown method: config.write"


def test_s11_twin_each_scope_does_open_its_methods() -> None:
    """No scope is refused what it is for: every method's own scope satisfies it."""
    for method in METHODS:
        scope = method.scope_for(4, None)
        assert scope is None or scope in effective_scopes([scope])
