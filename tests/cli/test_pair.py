"""gatewayctl pair: a setup code made, waited for, used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.identity import FileTokens
from gateway.cli.inspect import now_ms
from gateway.core.setupcode import SetupCode, encode_setup_code
from tests.cli.ctl import one_line
from tests.client.scripted import HELLO

PUBLIC = ["--public-url", "wss://gw.example"]


class Codes:
    """The setup codes of the scripted gateway."""

    def __init__(self, script: Any) -> None:
        self.made: dict[str, Any] = {
            "setupId": "s-1",
            "setupCode": "Y29kZQ",
            "gatewayUrl": "wss://gw.example",
            "access": "limited",
            "expiresAtMs": now_ms() + 600_000,
        }
        self.statuses: list[dict[str, Any]] = []
        script.handlers["device.pair.setupCode"] = lambda c, frame: c.answer(frame, self.made)
        script.handlers["device.pair.setupStatus"] = self._status

    def _status(self, connection: Any, frame: Any) -> None:
        connection.answer(frame, self.statuses.pop(0))


@pytest.fixture
def codes(script):
    return Codes(script)


def test_a_code(to_script, script, codes):
    """The code is the first line; who gets what, and for how long, is said."""
    lines = to_script("pair", *PUBLIC).stdout.splitlines()
    assert lines[0] == "Y29kZQ"
    assert "a client that may read, write and answer approvals, and a node" in lines[2]
    assert "good for 10m00s" in lines[2] or "good for 9m" in lines[2]
    params = script.params("device.pair.setupCode")
    wanted = {"publicUrl": "wss://gw.example", "bootstrapProfile": "limited"}
    assert params == {**wanted, "includeQr": False}
    assert json.loads(to_script("pair", *PUBLIC, "--json", "--role", "node").stdout) == codes.made
    assert script.params("device.pair.setupCode")["bootstrapProfile"] == "node"


def test_a_link(to_script, script, codes):
    """A link is for a node, and stands in the place of the code; any other role is refused."""
    codes.made["joinUrl"] = link = "https://gw.example/j/" + "A" * 22
    for how in ((), ("--role", "node")):
        lines = to_script("pair", *PUBLIC, "--link", *how).stdout.splitlines()
        assert lines[0] == link
        assert "becomes a node at" in lines[2]
        assert lines[3] == "Who has this link comes in with it: show it to nobody else."
        wanted = {"publicUrl": "wss://gw.example", "bootstrapProfile": "node", "joinUrl": True}
        assert script.params("device.pair.setupCode") == {**wanted, "includeQr": False}
    line = one_line(to_script("pair", *PUBLIC, "--link", "--role", "full"), 1)
    assert line.endswith('a link is for a node: leave out "--role"\n')


def test_a_drawing(to_script, codes):
    """A QR code is drawn above the code where it is wanted."""
    lines = to_script("pair", *PUBLIC, "--qr").stdout.splitlines()
    assert "Y29kZQ" in lines
    assert lines.index("Y29kZQ") > 10
    assert "\u2580" in lines[3] or "\u2584" in lines[3] or "\u2588" in lines[3]


def test_waiting(to_script, codes):
    """--wait tells which device used the code."""
    used = {"deviceId": "aaaa1111bbbb", "deviceName": "Ann's phone"}
    codes.statuses = [{}, {"completion": used}]
    assert to_script("pair", *PUBLIC, "--wait").stdout.endswith("paired Ann's phone [aaaa1111]\n")
    codes.statuses = [{"deliveryUncertain": {"deviceId": "aaaa"}}]
    assert to_script("pair", *PUBLIC, "--wait").stdout.endswith("paired aaaa\n")


def test_waiting_in_vain(to_script, codes):
    """A code that nobody used in time ends the waiting."""
    codes.made["expiresAtMs"] = now_ms() - 1
    codes.statuses = [{}]
    result = to_script("pair", *PUBLIC, "--wait")
    assert result.exit_code == 1
    assert "nobody used the setup code in time" in result.stderr


def test_waiting_for_a_gateway_that_fails(to_script, script, codes):
    """Where the gateway can not tell, that is one line."""

    def fail(connection: Any, frame: Any) -> None:
        connection.refuse(frame, "UNAVAILABLE", "the store failed")

    script.handlers["device.pair.setupStatus"] = fail
    result = to_script("pair", *PUBLIC, "--wait")
    assert result.exit_code == 1
    assert result.stderr == "gatewayctl: whether the code is used is not known: the store failed\n"


def test_a_gateway_that_makes_none(to_script, script):
    """A refusal is one line."""
    script.handlers["device.pair.setupCode"] = lambda c, frame: c.refuse(
        frame, "FORBIDDEN", "missing scope: operator.admin"
    )
    line = one_line(to_script("pair", *PUBLIC), 1)
    assert "no setup code was made: missing scope: operator.admin. Run this on the" in line


# -- using one


@pytest.fixture
def new_device(ctl, script, tmp_path):
    """A gatewayctl with a device, at a gateway that gives it a token."""
    auth = {"role": "operator", "scopes": ["operator.read"], "deviceToken": "device-token"}
    hello = {**HELLO, "auth": auth}
    script.handlers["connect"] = lambda connection, frame: connection.answer(frame, hello)
    ctl.environ["GATEWAY_IDENTITY"] = str(tmp_path / "device.key")
    return ctl


@pytest.mark.parametrize(
    ("profile", "scopes"),
    [("voice-node", ("operator.read", "operator.talk")), (None, ()), ("unheard-of", ())],
)
@pytest.mark.parametrize("typed", [False, True])
def test_a_code_is_used(new_device, script, url, tmp_path, profile, scopes, typed):
    """The device shows the code's secret, asks for what the code is for, and keeps the token it gets."""
    code = encode_setup_code(SetupCode(url, "secret-of-the-code", None, profile))
    result = (
        new_device("pair", "--use", "-", stdin=code) if typed else new_device("pair", "--use", code)
    )
    assert result.stdout == f"paired with {url}: operator.read\n"
    assert f"gatewayctl --url {url}" in result.stderr
    said = script.params("connect")
    assert said["auth"] == {"bootstrapToken": "secret-of-the-code"}
    assert said["scopes"] == list(scopes)
    assert said["client"]["displayName"]
    kept = FileTokens(tmp_path / "device.key.tokens", url).kept(said["device"]["id"], "operator")
    assert kept is not None
    assert (kept.token, kept.scopes) == ("device-token", scopes)


def test_a_code_that_is_used_up(new_device, script, url):
    """The refusal is told as the gateway says it; nobody is sent to look for a token."""
    script.handlers["connect"] = lambda connection, frame: connection.refuse(
        frame, "INVALID_REQUEST", "code used", details={"code": "AUTH_BOOTSTRAP_TOKEN_INVALID"}
    )
    code = encode_setup_code(SetupCode(url, "s3cret", None, "operator"))
    line = one_line(new_device("pair", "--use", code), 2)
    assert line.endswith("code used (AUTH_BOOTSTRAP_TOKEN_INVALID)\n")


def test_a_code_at_another_address(new_device, script, url):
    """Who knows the gateway by another address than the code says gives it."""
    code = encode_setup_code(SetupCode("wss://unreachable.example", "s", None, "limited"))
    assert new_device("pair", "--use", code, "--url", url).exit_code == 0
    assert len(script.connections) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("nonsense", "that is no setup code, or only a part of one"),
        (
            encode_setup_code(SetupCode("ws://h:1", "s3cret", None, "node")),
            "the code is for a node",
        ),
    ],
)
def test_a_code_of_no_use(new_device, script, code, text):
    """What is no code, or one for a node, is refused before anything is sent."""
    line = one_line(new_device("pair", "--use", code), 1)
    assert text in line
    assert "s3cret" not in line
    assert script.connections == []
