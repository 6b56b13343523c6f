"""What a client learns when it is let in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from gateway.app.admission import Admitted, Handed
from gateway.testing import result_of
from tests.app.harness import ADMIN, READ, Gate, assert_fits, make_caller

VERSIONS = pytest.mark.parametrize("protocol", [3, 4])


def hello(gate: Gate, protocol: int, token: str | None = None, **who: Any) -> dict[str, Any]:
    """Return the payload of hello-ok, as it arrives."""
    caller = make_caller("c1", protocol, **who)
    issued = None if token is None else 1_700_000_000_000
    admitted = Admitted(caller.principal, token, issued, ("operator.read",))
    payload = gate.wiring.edge.hello.payload(caller, admitted)
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(payload))
    return decoded


@VERSIONS
@pytest.mark.parametrize("scopes", [(), READ, ADMIN], ids=["none", "read", "admin"])
@pytest.mark.parametrize("token", [None, "device-token"])
@pytest.mark.parametrize("refreshed", [True, False])
def test_it_passes_the_schema(
    gate: Gate, protocol: int, scopes: tuple[str, ...], token: str | None, refreshed: bool
) -> None:
    """hello-ok passes the closed schema of the connection's version, whoever connects."""
    gate.client().ok("sessions.create", {"key": "s"})
    gate.services.presence.joined(make_caller("other"))
    if refreshed:
        result_of(Deferred.fromCoroutine(gate.services.health.refresh()))

    payload = hello(gate, protocol, token, scopes=scopes)

    assert_fits(protocol, "HelloOk", payload)
    assert_fits(protocol, "Snapshot", payload["snapshot"])
    assert payload["server"]["connId"] == "c1"


def test_what_it_says(gate: Gate) -> None:
    """hello-ok names the version spoken, the methods and events there are, and the limits."""
    gate.clock.advance(5)
    payload = hello(gate, 4)

    assert payload["type"] == "hello-ok"
    assert payload["protocol"] == 4
    table = gate.wiring.edge.dispatcher.table
    assert payload["features"]["methods"] == table.advertised()
    assert "chat.send" in payload["features"]["methods"]
    assert payload["features"]["capabilities"] == ["published-model-catalog"]
    assert not {"connect", "chat.inject", "sessions.resolve"} & set(payload["features"]["methods"])
    assert {"agent", "chat", "tick", "shutdown"} <= set(payload["features"]["events"])
    assert payload["policy"] == {
        "maxPayload": 26_214_400,
        "maxBufferedBytes": 16_777_216,
        "tickIntervalMs": 30_000,
        "attachments": {"maxBytes": 5_000_000, "maxImageBytes": 5_000_000},
    }
    snapshot = payload["snapshot"]
    assert snapshot["uptimeMs"] == 5000
    assert snapshot["sessionDefaults"]["mainSessionKey"] == "agent:main:main"
    assert snapshot["sessionDefaults"]["modelConfigured"]


@VERSIONS
def test_what_only_some_learn(gate: Gate, protocol: int) -> None:
    """Paths are for admins, and who is here is for those who may read."""
    gate.services.presence.joined(make_caller("other"))
    seen = {
        name: hello(gate, protocol, scopes=scopes)["snapshot"]
        for name, scopes in (("none", ()), ("read", READ), ("admin", ADMIN))
    }

    assert [len(snapshot["presence"]) for snapshot in seen.values()] == [0, 2, 2]
    paths = ("configPath", "stateDir", "authMode")
    assert {name for name, snapshot in seen.items() if set(paths) <= set(snapshot)} == {"admin"}
    assert not set(paths) & (set(seen["none"]) | set(seen["read"]))


@VERSIONS
def test_auth(gate: Gate, protocol: int) -> None:
    """Version 4 is told its role and scopes, version 3 those of its device token, as its schema has it."""
    without = hello(gate, protocol).get("auth")
    with_token = hello(gate, protocol, "secret")["auth"]

    role = {"role": "operator", "scopes": ["operator.admin"]}
    method = {"method": "token"} if protocol == 4 else {}
    assert without == (role | method if protocol == 4 else None)
    of_token = {} if protocol == 4 else {"scopes": ["operator.read"]}
    assert with_token == role | method | of_token | {
        "deviceToken": "secret",
        "issuedAtMs": 1_700_000_000_000,
    }


def test_further_tokens(gate: Gate) -> None:
    """A device that came by a setup code gets a token for each further role that the code granted."""
    caller = make_caller()
    admitted = Admitted(caller.principal, "secret", 1, others=(Handed("other", "node", (), 2),))
    payload = gate.wiring.edge.hello.payload(caller, admitted)

    assert payload["auth"]["deviceToken"] == "secret"
    assert payload["auth"]["deviceTokens"] == [
        {"deviceToken": "other", "role": "node", "scopes": [], "issuedAtMs": 2}
    ]
    assert_fits(4, "HelloOk", msgspec.json.decode(msgspec.json.encode(payload)))
    assert "other" not in repr(admitted).replace("others", "")


def test_a_token_of_unknown_age(gate: Gate) -> None:
    """A device token whose age is not known is sent without it."""
    caller = make_caller()
    payload = gate.wiring.edge.hello.payload(caller, Admitted(caller.principal, "secret"))

    assert "issuedAtMs" not in payload["auth"]
