"""The method table: declarations, checks and their order; every method of the gateway swept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.app.context import Context
from gateway.core.access import ADMIN, KNOWN_SCOPES, PAIRING, READ, WRITE
from gateway.core.approval import SCOPE as APPROVALS
from gateway.core.frames import Request
from gateway.core.params import Natural, Params
from gateway.errors import InvalidParams, MissingScope, UnknownMethod, WrongRole
from gateway.model import Role
from gateway.rpc.families import build_table
from gateway.rpc.session_params import SessionsPatchParams
from gateway.rpc.table import Method, MethodTable
from tests.app.harness import Gate, make_caller

TABLE = build_table()
OPEN = {"health", "connect"}
"""The methods that everybody may call, nodes included."""

NODE_METHODS = {"node.event", "node.invoke.result", "node.invoke.progress"}
NODE_METHODS |= {"node.pending.drain", "node.pending.pull", "node.pending.ack", "skills.bins"}
ADMIN_METHODS = {
    "exec.approvals.get",
    "exec.approvals.node.get",
    "exec.approvals.node.set",
    "exec.approvals.set",
    "sessions.compact",
    "agents.create",
    "agents.delete",
    "agents.files.set",
    "agents.restart",
    "agents.update",
    "chat.inject",
    "connections.closed",
    "connections.list",
    "gateway.drain",
    "sessions.delete",
    "sessions.reset",
    "set-heartbeats",
    "system-event",
    "device.pair.setupCode",
    "device.pair.setupStatus",
}
WRITE_METHODS = {"agent", "agent.wait", "chat.abort", "chat.send", "sessions.create"}
WRITE_METHODS |= {"node.invoke"}
WRITE_METHODS |= {"node.pending.enqueue"}
WRITE_METHODS |= {"sessions.abort", "sessions.send", "sessions.steer"}
WRITE_METHODS |= {"voicewake.set"}
PAIRING_METHODS = {
    "node.rename",
    "device.pair.list",
    "device.pair.approve",
    "device.pair.reject",
    "device.pair.remove",
    "device.pair.rename",
    "device.token.rotate",
    "device.token.revoke",
}
PAIRING_METHODS |= {f"node.pair.{name}" for name in ("list", "approve", "reject", "remove")}
PAIRING_METHODS |= {"node.pair.request", "node.pair.verify"}
SCOPELESS_METHODS = {"device.scopes.requestUpgrade", "device.scopes.waitUpgrade"}
"""For operators that may have no scope yet: they ask for some."""
every_method = pytest.mark.parametrize("method", list(TABLE), ids=lambda method: method.name)
VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


class SomeParams(Params, frozen=True):
    """Params of the methods below."""

    number: Natural


def context_of(protocol: int = 4, **who: Any) -> Context:
    """Return the context of a caller, without services."""
    return Context(make_caller("c", protocol, **who), None)  # type: ignore[arg-type]


def request(method: str, params: bytes = b"{}") -> Request:
    """Return a request."""
    return Request("id", method, msgspec.Raw(params))


# -- declarations


def test_a_declaration() -> None:
    """A method is declared once, with its name, what it asks for and the first line of its doc."""
    table = MethodTable()

    @table.method("a.method", scope=READ)
    def handler(context: Context, params: SomeParams) -> int:
        """Do something.

        In detail.
        """
        return params.number + 1

    (method,) = table
    assert len(table) == 1
    assert (method.name, method.doc, method.params) == ("a.method", "Do something.", SomeParams)
    assert table.get("a.method") is method
    assert table.get("another") is None
    assert table.call(context_of(), request("a.method", b'{"number":1}')) == 2


def test_bad_declarations() -> None:
    """A method without a doc line, with params that are none, or declared twice can't be."""
    table = MethodTable()

    def undocumented(context: Context) -> None:
        pass

    def loose(context: Context, params: dict[str, Any]) -> None:
        """Take anything."""

    def good(context: Context) -> None:
        """Do something."""

    table.method("good", scope=READ)(good)
    for name, handler, text in (
        ("undocumented", undocumented, "has no doc line"),
        ("loose", loose, "its params are no Params"),
        ("good", good, "is declared twice"),
    ):
        with pytest.raises(ValueError, match=text):
            table.method(name, scope=READ)(handler)
    with pytest.raises(ValueError, match="good is declared twice"):
        table.include(table)


def test_what_is_advertised() -> None:
    """hello-ok lists the methods in order, without those that are not for everybody."""
    table = MethodTable()
    for name, advertised in (("b", True), ("a", True), ("c", False)):

        @table.method(name, scope=READ, advertised=advertised)
        def handler(context: Context) -> None:
            """Do something."""

    assert table.advertised() == ["a", "b"]


# -- checks


def test_the_order_of_the_checks() -> None:
    """A call is checked by role, scope, existence and params, in this order."""
    bad = request("chat.send", b"[]")
    node = context_of(role=Role.NODE, scopes=())

    with pytest.raises(WrongRole, match="unauthorized role: node"):
        TABLE.call(node, bad)
    with pytest.raises(MissingScope, match=r"missing scope: operator\.write"):
        TABLE.call(context_of(scopes=(READ,)), bad)
    with pytest.raises(InvalidParams, match=r"invalid chat\.send params: "):
        TABLE.call(context_of(scopes=(WRITE,)), bad)
    with pytest.raises(WrongRole, match="unauthorized role: operator"):
        TABLE.call(context_of(), request("node.event"))


def test_unknown_methods() -> None:
    """Only an admin learns that a method does not exist."""
    unknown = request("nope.method")

    with pytest.raises(WrongRole):
        TABLE.call(context_of(role=Role.NODE, scopes=()), unknown)
    with pytest.raises(MissingScope, match=r"missing scope: operator\.admin"):
        TABLE.call(context_of(scopes=(WRITE,)), unknown)
    with pytest.raises(UnknownMethod, match=r"unknown method: nope\.method"):
        TABLE.call(context_of(), unknown)
    with pytest.raises(UnknownMethod) as caught:
        TABLE.call(context_of(), request("x" * 1000))
    assert len(caught.value.message) < 200


def test_a_scope_that_depends_on_the_params() -> None:
    """Where the scope depends on the params, who lacks the least of it learns nothing of them."""
    method = TABLE.get("sessions.patch")
    assert method is not None
    ordinary = SessionsPatchParams(key="k", label="l")
    policy = SessionsPatchParams(key="k", send_policy="deny")

    assert [method.scope_for(3, p) for p in (None, ordinary, policy)] == [ADMIN] * 3
    assert [method.scope_for(4, p) for p in (None, ordinary, policy)] == [WRITE, WRITE, ADMIN]
    with pytest.raises(MissingScope):
        TABLE.call(context_of(scopes=(READ,)), request("sessions.patch", b"[]"))
    with pytest.raises(InvalidParams):
        TABLE.call(context_of(scopes=(WRITE,)), request("sessions.patch", b"[]"))
    with pytest.raises(MissingScope):
        body = b'{"key":"k","sendPolicy":"deny"}'
        TABLE.call(context_of(scopes=(WRITE,)), request("sessions.patch", body))


def test_params_that_are_not_given() -> None:
    """A method whose params are all optional can be called without any; null is none of them."""
    method = TABLE.get("sessions.list")
    assert method is not None

    assert method.decode(msgspec.Raw(b""), 4) == method.decode(msgspec.Raw(b"{}"), 4)
    for bad in (b"null", b"[]", b"1", b'"x"'):
        with pytest.raises(InvalidParams, match=r"invalid sessions\.list params: "):
            method.decode(msgspec.Raw(bad), 4)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (b"{}", "must have required property 'key'"),
        (b'{"key":"k","zzz":1}', "at root: unexpected property 'zzz'"),
        (b'{"key":5}', "at /key: expected `str`, got `int`"),
        (b"[" * 5000, "expected `object`, got `array`"),
        (b'{"key":"\\ud800 and more"}', "surrogate"),
        (b'{"key":', "truncated"),
    ],
)
def test_params_that_do_not_fit(params: bytes, text: str) -> None:
    """A refusal of params says where they do not fit."""
    method = TABLE.get("sessions.describe")
    assert method is not None

    with pytest.raises(InvalidParams) as caught:
        method.decode(msgspec.Raw(params), 4)
    assert text in caught.value.message.lower()
    assert len(caught.value.message) < 500


def test_fields_of_another_version() -> None:
    """A field that only one version has is refused by the other."""
    method = TABLE.get("chat.history")
    assert method is not None
    raw = msgspec.Raw(b'{"sessionKey":"main","offset":5}')

    assert method.decode(raw, 4).offset == 5
    with pytest.raises(InvalidParams, match="unexpected property 'offset'"):
        method.decode(raw, 3)


# -- every method


@every_method
def test_every_method_asks_for_something(method: Method) -> None:
    """Every method asks for a scope that there is, or is deliberately open, or is for nodes."""
    scopes = {method.scope_for(protocol, None) for protocol in (3, 4)}

    if method.name in OPEN:
        assert (method.role, scopes) == (None, {None})
    elif method.name in NODE_METHODS:
        assert (method.role, scopes) == (Role.NODE, {None})
    elif method.name in ADMIN_METHODS:
        assert (method.role, scopes) == (Role.OPERATOR, {ADMIN})
    elif method.name in WRITE_METHODS:
        assert (method.role, scopes) == (Role.OPERATOR, {WRITE})
    elif method.name in SCOPELESS_METHODS:
        assert (method.role, scopes) == (Role.OPERATOR, {None})
    elif method.name in PAIRING_METHODS:
        assert (method.role, scopes) == (Role.OPERATOR, {PAIRING})
    elif "approval" in method.name:
        assert (method.role, scopes) == (Role.OPERATOR, {APPROVALS})
    elif method.name == "sessions.patch":
        assert scopes == {ADMIN, WRITE}
    elif method.name == "talk.mode":
        assert scopes == {"operator.talk", WRITE}
    else:
        assert (method.role, scopes) == (Role.OPERATOR, {READ})
    assert scopes - {None} <= KNOWN_SCOPES


@every_method
def test_every_method_has_a_doc_line(method: Method) -> None:
    """Every method says in one sentence what it does."""
    assert method.doc[0].isupper()
    assert method.doc.endswith(".")
    assert len(method.doc) <= 110


@every_method
def test_the_params_of_every_method_are_closed(method: Method) -> None:
    """Params with a key that nobody knows are refused, but where a report may carry anything."""
    if method.params is None or method.name == "system-event":
        return
    with pytest.raises(InvalidParams):
        method.decode(msgspec.Raw(b'{"no such key":1}'), 4)
    with pytest.raises(InvalidParams):
        method.decode(msgspec.Raw(b"null"), 4)


@every_method
@VERSIONS
def test_every_method_refuses_the_wrong_role(gate: Gate, method: Method, protocol: int) -> None:
    """A node calls only the methods for nodes, and an operator none of them."""
    if method.role is None:
        return
    wrong = gate.client(protocol) if method.role is Role.NODE else gate.node(protocol)
    role = "operator" if method.role is Role.NODE else "node"

    assert wrong.refused(method.name, {}) == {
        "code": "INVALID_REQUEST",
        "message": f"unauthorized role: {role}",
    }


@every_method
@VERSIONS
def test_every_method_refuses_a_missing_scope(gate: Gate, method: Method, protocol: int) -> None:
    """Who lacks a method's scope is refused in the words of its version, whatever it sends."""
    scope = method.scope_for(protocol, None)
    if scope is None:
        return
    error = gate.client(protocol, scopes=("operator.questions",)).refused(method.name, {"a": 1})

    if protocol == 3:
        assert error == {"code": "INVALID_REQUEST", "message": f"missing scope: {scope}"}
    else:
        details = {"code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]}
        assert error == {
            "code": "FORBIDDEN",
            "message": f"missing scope: {scope}",
            "details": details,
        }


@VERSIONS
def test_what_everybody_may_call(gate: Gate, protocol: int) -> None:
    """Health is for everybody; a second connect is refused as such."""
    for client in (gate.client(protocol, scopes=()), gate.node(protocol)):
        assert client.ok("health") == {}
        assert client.refused("connect", {})["message"] == (
            "connect is only valid as the first request"
        )
