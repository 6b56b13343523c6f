"""What holds for every method, by its declaration alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app.context import Context
from gateway.core.params import NoParams, Params
from gateway.errors import ErrorCode
from gateway.model import Role
from gateway.rpc.families import build_table
from gateway.rpc.table import MethodTable
from tests.app.harness import Gate

TABLE = build_table()
OPEN = {"connect", "health"}
"""Methods that ask for neither role nor scope: what comes before rights, and the probe."""

NAMES = sorted(method.name for method in TABLE)
CODES = {code.value for code in ErrorCode}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_who_may_call_it(name: str) -> None:
    """A method asks for a role and a scope, but for those that are deliberately open."""
    method = TABLE.get(name)
    assert method is not None
    assert method.doc.endswith(".")
    if name not in OPEN:
        assert method.role is not None
        assert method.scope is not None or method.role is Role.NODE


@pytest.mark.parametrize("name", NAMES)
def test_params_are_closed(name: str) -> None:
    """A key that a method does not know is refused, but where the protocol leaves params open."""
    method = TABLE.get(name)
    assert method is not None
    if method.params is None or name == "system-event":
        return
    assert method.params.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_role_is_refused(gate: Gate, name: str, protocol: int) -> None:
    """An operator's method refuses a node, and a node's method an operator."""
    method = TABLE.get(name)
    assert method is not None
    if name in OPEN:
        return
    client = gate.client(protocol) if method.role is Role.NODE else gate.node(protocol)
    error = client.refused(name, {})
    role = "operator" if method.role is Role.NODE else "node"
    assert error == {"code": "INVALID_REQUEST", "message": f"unauthorized role: {role}"}


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_scope_is_refused_by_version(gate: Gate, name: str) -> None:
    """Without scopes every operator's method is refused, FORBIDDEN in version 4, before its params."""
    method = TABLE.get(name)
    assert method is not None
    if name in OPEN or method.role is Role.NODE:
        return
    four = gate.client(4, scopes=()).refused(name, {"nonsense": 1})
    assert four["code"] == "FORBIDDEN"
    assert four["details"]["code"] == "MISSING_SCOPE"
    assert four["message"] == f"missing scope: {four['details']['missingScope']}"
    three = gate.client(3, scopes=()).refused(name, {"nonsense": 1})
    assert three["code"] == "INVALID_REQUEST"
    assert three["message"].startswith("missing scope: operator.")
    assert "details" not in three


def test_only_an_admin_learns_that_a_method_does_not_exist(gate: Gate) -> None:
    """An unknown method asks for operator.admin."""
    assert gate.client(4).refused("nope")["message"] == "unknown method: nope"
    assert gate.client(4, scopes=("operator.write",)).refused("nope")["code"] == "FORBIDDEN"
    assert gate.node().refused("nope")["message"] == "unauthorized role: node"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([name for name in NAMES if name != "agent.wait"]), JSON, st.sampled_from([3, 4]))
def test_any_params_are_answered(name: str, params: Any, protocol: int) -> None:
    """Whatever the params are, the answer is a payload or a typed error, never an internal one."""
    gate = Gate()
    method = TABLE.get(name)
    assert method is not None
    client = gate.node(protocol) if method.role is Role.NODE else gate.client(protocol)
    call = client.call(name, params)
    assert call.frames
    for frame in call.frames:
        if not frame["ok"]:
            assert frame["error"]["code"] in CODES
            assert "internal error" not in frame["error"]["message"]
    for run in list(gate.runs._drives):
        gate.runs.abort(run, "test")
    gate.clock.advance(2)
    gate.close()


class Echo(Params, frozen=True):
    """Params of a test."""

    word: str


def test_a_declaration_is_checked_when_it_is_made() -> None:
    """A method without a doc line, declared twice, or with other params is an error at import."""
    table = MethodTable()

    def bare(context: Context) -> None:
        pass

    bare.__doc__ = None

    @table.method("a", scope=None)
    def known(context: Context, params: NoParams) -> None:
        """Say nothing."""

    def strange(context: Context, params: int) -> None:
        """Take a number."""

    for handler, name in ((bare, "b"), (known, "a"), (strange, "c")):
        with pytest.raises(ValueError, match=f"method {name}"):
            table.method(name, scope=None)(handler)
    other = MethodTable()
    other.method("a", scope=None)(known)
    with pytest.raises(ValueError, match="declared twice"):
        table.include(other)
    assert len(table) == 1
