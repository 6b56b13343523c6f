"""The time of a comparison tells of a secret; an older protocol asks for less (attack 25)."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.config import AuthConfig, Config
from tests.net.gate import CLI, DEVICE, UI, Gate

PACKAGE = Path(gateway.__file__).parent
SECRET = re.compile(r"(^|_)(token|secret|password|digest|hash|mac|key|code|signature|bearer)$")
HARMLESS = {
    "public_key": "everybody may know it",
    "session_key": "the name of a session",
    "parent_key": "the name of a session",
    "idempotency_key": "a name that a client chose",
    "close_code": "a number of the protocol",
    "code": "a number of the protocol",
    "key": "of a map",
    "main_key": "the name of a session",
}
"""Names that look like a secret's, and what they are."""
RECORDS = {
    "core/admitting.py token.digest == knock.shown": "finds the record of a token that was let in by",
    "net/websocket.py secret == self.edge.policy.auth.secret": "the configured one, now and before",
    "app/policies.py base_hash != _hash(record)": "which version of the policy a client has read",
    "sharedsecret.py self.file == self._state.token": "paths of files",
    "core/connect.py auth.token != (auth.device_token or auth.token)": "both are the client's own",
    "app/revocation.py watch.digest == digest": "finds who comes in by a token that died",
    "core/pairing.py token.digest == digest": "finds the record of a token that was let in by",
    "client/testing.py given != self.token": "a double for the tests of clients",
    "store/pairings.py old != token": "whole records, of which one is written if they differ",
}
"""Comparisons that look like one of secrets, and what they are."""


def _name(node: ast.expr) -> str:
    """Return the last name of an expression."""
    match node:
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
        case ast.Call():
            return _name(node.func)
    return ""


def compared() -> list[str]:
    """Return where a value of a secret's name is compared with another by ``==`` or ``in``."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            if not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                continue
            if any(isinstance(side, ast.Constant) for side in sides):
                continue
            names = {_name(side).lower() for side in sides}
            if any(SECRET.search(name) and name not in HARMLESS for name in names):
                where = path.relative_to(PACKAGE).as_posix()
                found.append(f"{where} {ast.unparse(node)}")
    return found


def _in_sql(line: str) -> bool:
    """Whether a comparison is SQLAlchemy's: it makes SQL, which finds a digest by an index."""
    return line.startswith("store/") and (".c." in line or "bindparam" in line)


def test_s25_no_secret_is_compared_by_its_bytes() -> None:
    """What is named like a secret is never compared with ``==``, whose time tells where they differ."""
    assert [line for line in compared() if not (_in_sql(line) or line in RECORDS)] == []


CREDENTIALS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "nothing": ({}, False, False),
    "nothing, with a device": ({}, True, False),
    "empty token": ({"token": ""}, True, False),
    "wrong token": ({"token": "wrong"}, False, False),
    "wrong token, with a device": ({"token": "wrong"}, True, False),
    "half of the token": ({"token": "token-of-the-test"}, True, False),
    "the token and more": ({"token": "token-of-the-test-gateway-"}, True, False),
    "token in upper case": ({"token": "TOKEN-OF-THE-TEST-GATEWAY"}, True, False),
    "wrong password": ({"password": "wrong"}, True, False),
    "made-up device token": ({"deviceToken": "x" * 43}, True, False),
    "right token": ({"token": "token-of-the-test-gateway"}, True, True),
}
"""What is shown, whether a device is, and whether it is enough."""


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.7"])
@pytest.mark.parametrize("client", [CLI, UI], ids=["cli", "ui"])
@pytest.mark.parametrize("name", CREDENTIALS)
def test_s25_an_older_protocol_asks_for_no_less(
    name: str, client: dict[str, str], host: str
) -> None:
    """Version 3 lets in nobody whom version 4 refuses, gives no scope more, and refuses as plainly."""
    auth, device, enough = CREDENTIALS[name]
    rights: dict[int, frozenset[str]] = {}
    for protocol in (3, 4):
        gate = Gate()
        visitor = gate.open(host)
        answer = visitor.connect(
            protocol, client=client, auth=auth, device=DEVICE if device else None
        )
        let_in = bool(answer["ok"])
        assert not let_in or enough
        rights[protocol] = visitor.server.caller.scopes if let_in else frozenset()
    assert rights[3] <= rights[4]


@pytest.mark.parametrize(("low", "high"), [(1, 2), (0, 0), (5, 9), (-1, 2), (2, 2)])
def test_s25_a_version_that_is_not_spoken_is_refused(gate: Gate, low: int, high: int) -> None:
    """No version below 3 can be agreed on, whatever the client offers, and whatever it shows."""
    visitor = gate.open()
    visitor.connect(minProtocol=low, maxProtocol=high)
    assert visitor.closed() is not None
    assert len(gate.wiring.services.hub) == 0


@pytest.mark.parametrize(("low", "high", "spoken"), [(1, 99, 4), (1, 3, 3), (3, 4, 4), (3, 3, 3)])
def test_s25_twin_the_newest_common_version_is_spoken(
    gate: Gate, low: int, high: int, spoken: int
) -> None:
    """Whoever can speak the newer one is never talked down to the older."""
    visitor = gate.open()
    answer = visitor.connect(minProtocol=low, maxProtocol=high)
    assert answer["payload"]["protocol"] == spoken


def test_s25_no_mode_lets_a_stranger_in_by_an_empty_secret() -> None:
    """A gateway whose secret is missing or empty lets in nobody, by no empty credential either."""
    for secret in (None, ""):
        for protocol in (3, 4):
            gate = Gate(secret=secret, config=Config(auth=AuthConfig()))
            for auth in ({}, {"token": ""}, {"password": ""}, {"token": "", "password": ""}):
                assert not gate.open().connect(protocol, auth=auth, device=DEVICE)["ok"]
