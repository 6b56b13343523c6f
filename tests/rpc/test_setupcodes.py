"""The methods of setup codes."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import qrcodes
from gateway.core.access import Peer
from gateway.core.setupcode import decode_setup_code
from tests.app.harness import Gate
from tests.app.pairings import pair

MAKE, STATUS = "device.pair.setupCode", "device.pair.setupStatus"


def test_a_code(gate: Gate) -> None:
    """The code names the gateway and a secret that brings one device in; then the status tells which."""
    admin = gate.client()
    params = {"publicUrl": "wss://gw.example/", "bootstrapProfile": "node", "includeQr": False}
    made = admin.ok(MAKE, params)
    code = decode_setup_code(made.pop("setupCode"))
    setup_id = made.pop("setupId")
    assert made == {
        "expiresAtMs": gate.clock.now_ms() + 600_000,
        "gatewayUrl": "wss://gw.example",
        "auth": "token",
        "urlSource": "request.publicUrl",
        "access": "node",
    }
    assert (code.url, code.expires_at_ms) == ("wss://gw.example", made["expiresAtMs"])
    assert admin.ok(STATUS, {"setupId": setup_id}) == {}
    codes = gate.services.setup_codes
    grant = codes.claim(code.secret, "d1", "k1")
    assert grant is not None
    assert grant.roles == ("node",)
    codes.consume(grant, "d1", None)
    assert admin.ok(STATUS, {"setupId": setup_id})["completion"]["deviceId"] == "d1"


@pytest.mark.parametrize("asked", [{}, {"bootstrapProfile": "node"}])
def test_a_join_link(gate: Gate, asked: Any) -> None:
    """A link is for a node, and leads to the code that comes with it."""
    params = {"publicUrl": "wss://gw.example/at", "joinUrl": True, "includeQr": False, **asked}
    made = gate.client().ok(MAKE, params)
    assert made["access"] == "node"
    start, _, link_code = made["joinUrl"].rpartition("/")
    assert start == "https://gw.example/at/j"
    found = gate.services.setup_codes.follow(link_code)
    assert found == decode_setup_code(made["setupCode"])


def test_no_join_link(gate: Gate) -> None:
    """Nobody gets a link who did not ask for one."""
    made = gate.client().ok(MAKE, {"publicUrl": "wss://gw.example", "includeQr": False})
    assert "joinUrl" not in made


@pytest.mark.parametrize("asked", [{}, {"includeQr": True}])
def test_a_picture_of_it(gate: Gate, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    """The code comes as a picture too, unless none is wanted or none can be drawn."""
    monkeypatch.setattr(qrcodes, "png_url", lambda text: f"data:image/png;base64,{text[-8:]}")
    params = {"publicUrl": "wss://gw.example", **asked}
    made = gate.client().ok(MAKE, params)
    assert made["qrDataUrl"] == f"data:image/png;base64,{made['setupCode'][-8:]}"
    monkeypatch.setattr(qrcodes, "MAX_DATA_URL_CHARS", 1)
    assert "qrDataUrl" not in gate.client().ok(MAKE, params)


@pytest.mark.parametrize(
    ("url", "profile", "access", "downgraded"),
    [
        ("wss://gw.example", None, "full", False),
        ("ws://192.168.1.2:18789", None, "limited", True),
        ("ws://192.168.1.2:18789", "full", "full", False),
        ("ws://127.0.0.1:18789", None, "full", False),
        ("wss://gw.example", "limited", "limited", False),
        ("wss://gw.example", "voice-node", "limited", False),
        ("wss://gw.example", "operator", "full", False),
    ],
)
def test_what_a_device_may_become(
    gate: Gate, url: str, profile: str | None, access: str, downgraded: bool
) -> None:
    """Where others can read along a device becomes an admin only if that was asked for by name."""
    params = {"publicUrl": url} | ({} if profile is None else {"bootstrapProfile": profile})
    made = gate.client().ok(MAKE, params)
    assert made["access"] == access
    assert made.get("accessDowngraded", False) is downgraded


@pytest.mark.parametrize(
    ("host", "origin", "url"),
    [
        ("gw.lan:18789", None, "ws://gw.lan:18789"),
        ("gw.example", "https://gw.example", "wss://gw.example"),
        ("127.0.0.1:18789", None, None),
        ("localhost:18789", None, None),
        ("gw example", None, None),
        (None, None, None),
    ],
)
def test_where_the_gateway_is(
    gate: Gate, host: str | None, origin: str | None, url: str | None
) -> None:
    """Without an address given it is the one that the caller came by, if others can come by it."""
    peer = Peer("192.0.2.7", host=host, origin=origin)
    call = gate.client(peer=peer).call(MAKE, {})
    if url is None:
        assert "give publicUrl" in call.error["message"]
    else:
        assert (call.payload["gatewayUrl"], call.payload["urlSource"]) == (url, "connection")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"publicUrl": "http://gw"}, "publicUrl is no address of a gateway: expected ws://"),
        ({"publicUrl": "ws://gw?token=1"}, "publicUrl is no address of a gateway: it has a query"),
        ({"joinUrl": True, "publicUrl": "ws://192.0.2.1"}, "a join link needs an address with TLS"),
        (
            {"joinUrl": True, "publicUrl": "wss://gw", "bootstrapProfile": "full"},
            "Join URLs require bootstrapProfile=node.",
        ),
        ({"bootstrapProfile": "king"}, "invalid device.pair.setupCode params"),
        ({"zz": 1}, "invalid device.pair.setupCode params"),
    ],
)
def test_what_is_refused(gate: Gate, params: Any, text: str) -> None:
    """What makes no code is refused, and no code is made."""
    error = gate.client(3).refused(MAKE, params)
    assert error["code"] == "INVALID_REQUEST"
    assert error["message"].startswith(text)
    assert len(gate.services.setup_codes) == 0


@pytest.mark.parametrize(
    ("method", "params", "ends"),
    [
        ("device.pair.remove", {"deviceId": "d1"}, True),
        ("device.token.revoke", {"deviceId": "d1", "role": "operator"}, True),
        ("device.token.rotate", {"deviceId": "d1", "role": "operator"}, True),
        ("device.token.revoke", {"deviceId": "d1", "role": "node"}, False),
        ("device.pair.remove", {"deviceId": "d2"}, False),
    ],
)
def test_who_is_thrown_out_does_not_come_back_by_a_code(
    gate: Gate, method: str, params: Any, ends: bool
) -> None:
    """With the rights of an admin the setup codes end that it made before, and no others."""
    pair(gate, "d1", roles=("operator", "node"), scopes=("operator.admin",))
    pair(gate, "d2")
    asked = {"publicUrl": "wss://gw.example", "bootstrapProfile": "operator"}
    made = gate.client(device_id="d1").ok(MAKE, asked)["setupCode"]
    other = gate.client(device_id="d3").ok(MAKE, asked)["setupCode"]

    gate.client().ok(method, params)

    codes = gate.services.setup_codes
    assert (codes.claim(decode_setup_code(made).secret, "d9", "k") is None) is ends
    assert codes.claim(decode_setup_code(other).secret, "d9", "k") is not None


def test_a_new_shared_secret_ends_the_codes_of_the_old_one(gate: Gate) -> None:
    """Who knew the old secret does not come back by a code that it made with that."""
    asked = {"publicUrl": "wss://gw.example", "bootstrapProfile": "operator"}
    made = gate.client(auth_method="token").ok(MAKE, asked)["setupCode"]
    other = gate.client(auth_method="device-token").ok(MAKE, asked)["setupCode"]

    gate.services.revocations.shared("token")

    codes = gate.services.setup_codes
    assert codes.claim(decode_setup_code(made).secret, "d9", "k") is None
    assert codes.claim(decode_setup_code(other).secret, "d9", "k") is not None


def test_who_makes_codes(gate: Gate) -> None:
    """Only an admin makes codes and asks for them, and hello-ok does not list the methods."""
    for method, params in ((MAKE, {}), (STATUS, {"setupId": "x"})):
        plain = gate.client(scopes=("operator.pairing", "operator.write"))
        assert plain.refused(method, params)["code"] == "FORBIDDEN"
        assert method not in gate.wiring.edge.dispatcher.table.advertised()
