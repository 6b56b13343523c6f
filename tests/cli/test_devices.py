"""gatewayctl devices and gatewayctl token, against a scripted gateway."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.cli.ctl import one_line

PHONE: dict[str, Any] = {
    "requestId": "3f2a9b1c-0000",
    "deviceId": "aaaa1111bbbb2222",
    "displayName": "Ann's\nphone",
    "role": "node",
    "roles": ["node", "operator"],
    "scopes": ["operator.read", "operator.write"],
    "clientId": "openclaw-ios",
    "remoteIp": "192.0.2.7",
    "isRepair": False,
    "ts": 1_000,
}
LAPTOP: dict[str, Any] = {
    "requestId": "77770000",
    "deviceId": "cccc",
    "role": "operator",
    "ts": 2_000,
}
PAIRED: dict[str, Any] = {
    "deviceId": "dddd1111",
    "displayName": "Desk",
    "roles": ["operator"],
    "scopes": ["operator.admin"],
    "clientId": "cli",
    "platform": "linux",
    "connected": True,
    "lastSeenAtMs": 1_000,
    "tokens": [{"role": "operator", "revokedAtMs": 5}, {"role": "node"}],
}
OLD: dict[str, Any] = {"deviceId": "dddd2222"}


class Devices:
    """The devices of the scripted gateway."""

    def __init__(self, script: Any) -> None:
        self.listed: dict[str, Any] = {"pending": [PHONE, LAPTOP], "paired": [PAIRED, OLD]}
        self.done: list[tuple[str, Any]] = []
        self.answer: Any = {}
        self.refusal: tuple[str, Any] | None = None
        script.handlers["device.pair.list"] = lambda c, frame: c.answer(frame, self.listed)
        for name in ("pair.approve", "pair.reject", "pair.remove", "pair.rename"):
            script.handlers[f"device.{name}"] = self._do
        for name in ("token.rotate", "token.revoke"):
            script.handlers[f"device.{name}"] = self._do

    def _do(self, connection: Any, frame: Any) -> None:
        if self.refusal is not None:
            message, details = self.refusal
            connection.refuse(frame, "INVALID_REQUEST", message, details=details)
            return
        self.done.append((frame["method"], frame["params"]))
        connection.answer(frame, self.answer)


@pytest.fixture
def devices(script):
    return Devices(script)


@pytest.mark.parametrize("command", [["devices"], ["devices", "list"]])
def test_the_list(to_script, devices, command):
    """What asks comes first, with who asks for what; what is paired after it."""
    lines = to_script(*command).stdout.splitlines()
    assert lines[0] == "Waiting (gatewayctl devices approve ID):"
    assert lines[1].split() == ("REQUEST AGE DEVICE NAME ROLE SCOPES CLIENT FROM KNOWN".split())
    assert lines[2].startswith("3f2a9b1c  ")
    assert (
        "aaaa1111  Ann's phone  node,operator  read,write  openclaw-ios  192.0.2.7  new" in lines[2]
    )
    assert lines[3].split()[-2:] == ["here", "new"]
    assert lines[5].split() == "DEVICE NAME ROLES SCOPES CLIENT PLATFORM HERE SEEN TOKENS".split()
    assert "Desk  operator  admin   cli     linux     yes" in lines[6]
    assert lines[6].endswith("revoked: operator")
    assert lines[7].split()[0] == "dddd2222"


def test_no_scope_is_cut_off(to_script, devices):
    """However many scopes a device asks for or has, the list names each: none hides behind the others."""
    every = ["approvals", "questions", "read", "talk.secrets", "sessions.read", "write", "admin"]
    scopes = [f"operator.{scope}" for scope in every]
    devices.listed = {
        "pending": [PHONE | {"scopes": scopes}],
        "paired": [PAIRED | {"scopes": scopes}],
    }
    shown = to_script("devices").stdout
    assert shown.count(f"  {','.join(every)}  ") == 2


@pytest.mark.parametrize(
    ("asks", "known"),
    [
        ({}, "new"),
        ({"isRepair": True}, "paired"),
        ({"displayName": "\uff24ESK"}, "new, but dddd1111 has that name"),
        ({"deviceId": "dddd1111", "roles": ["node"]}, "paired, as another role"),
        ({"deviceId": "dddd1111", "role": "operator"}, "paired, but revoked"),
        ({"deviceId": "eeee", "roles": ["operator"]}, "paired"),
        ({"deviceId": "eeee", "roles": ["operator"], "platform": " Linux"}, "paired"),
        ({"deviceId": "eeee", "platform": "darwin"}, "paired as linux, now darwin"),
        ({"deviceId": "eeee", "deviceFamily": "Pi"}, "paired as Mac, now Pi"),
    ],
)
def test_what_is_known_of_who_asks(to_script, devices, asks, known):
    """The list says whether a device is paired, and what of it nobody has approved."""
    machine = {"platform": "linux", "deviceFamily": "Mac"}
    kept = {"deviceId": "eeee", "roles": ["operator"], **machine}
    devices.listed = {"pending": [LAPTOP | asks], "paired": [PAIRED, kept]}
    assert to_script("devices").stdout.splitlines()[2].endswith(f"  {known}")


def test_ids_that_look_alike(to_script, devices):
    """A key can be chosen for the beginning of its id: the list shows as much as tells it from others."""
    devices.listed = {"pending": [LAPTOP | {"deviceId": "dddd1111f"}], "paired": [PAIRED]}
    lines = to_script("devices").stdout.splitlines()
    assert "  dddd1111f  " in lines[2]


def test_a_name_feigns_no_line(to_script, devices):
    """What a device calls itself is no part of what is said of it."""
    name = "Desk [dddd1111] from 10.0.0.5 as node" + "\u2800" * 50 + "x"
    devices.listed["pending"] = [LAPTOP | {"displayName": name}]
    result = to_script("devices", "approve", "7777")
    assert result.stdout == (
        "approved Desk (dddd1111) from 10.0.0.5 as node x [cccc] as operator\n"
    )


def test_an_empty_list(to_script, devices):
    """Where there is nothing, that is said."""
    devices.listed = {"pending": [], "paired": []}
    assert to_script("devices").stdout == "No device is paired.\n"
    line = one_line(to_script("devices", "approve", "--latest"), 1)
    assert "no device asks to be paired" in line


def test_the_list_as_json(to_script, devices):
    """With --json it is what the gateway answers."""
    assert json.loads(to_script("devices", "--json").stdout) == devices.listed


@pytest.mark.parametrize("wanted", ["3f2a", "3f2a9b1c-0000", "aaaa", " aaaa1111bbbb2222 "])
def test_an_approval(to_script, devices, wanted):
    """A request is named by the beginning of its id or of its device's; what was granted is told."""
    result = to_script("devices", "approve", wanted)
    assert devices.done == [("device.pair.approve", {"requestId": "3f2a9b1c-0000"})]
    assert result.stdout == (
        "approved Ann's phone [aaaa1111] from 192.0.2.7 as node,operator (read,write)\n"
    )


def test_the_latest(to_script, devices):
    """--latest says who asked last before it approves it, and can answer as JSON."""
    devices.answer = {"requestId": "77770000"}
    result = to_script("devices", "approve", "--latest", "--json", stdin="")
    assert json.loads(result.stdout) == devices.answer
    assert result.stderr == "cccc as operator asks to be paired (new)\n"
    assert devices.done == [("device.pair.approve", {"requestId": "77770000"})]


@pytest.mark.parametrize(("typed", "approved"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_the_latest_at_a_terminal(to_script, devices, monkeypatch, typed, approved):
    """At a terminal --latest asks first, since another device may have asked meanwhile."""
    from click.testing import _NamedTextIOWrapper

    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda self: True, raising=False)
    result = to_script("devices", "approve", "--latest", stdin=typed)
    assert bool(devices.done) is approved
    assert result.exit_code == (0 if approved else 1)


@pytest.mark.parametrize("words", [[], ["3f", "--latest"]])
def test_which_request(to_script, devices, words):
    """An approval wants an id or --latest, and not both."""
    assert to_script("devices", "approve", *words).exit_code == 2


@pytest.mark.parametrize(
    ("command", "method", "params", "told"),
    [
        (["reject", "7777"], "pair.reject", {"requestId": "77770000"}, "rejected cccc as operator"),
        (["remove", "dddd1"], "pair.remove", {"deviceId": "dddd1111"}, "removed Desk [dddd1111]"),
        (
            ["rename", "dddd2", "Attic"],
            "pair.rename",
            {"deviceId": "dddd2222", "label": "Attic"},
            "renamed dddd2222 Attic",
        ),
    ],
)
def test_what_else_is_done(to_script, devices, command, method, params, told):
    """A request is refused, a device removed or renamed, by the beginning of an id."""
    assert to_script("devices", *command).stdout == f"{told}\n"
    assert devices.done == [(f"device.{method}", params)]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["remove", "dddd"], "dddd is the beginning of 2 ids: give more of it"),
        (["remove", "zz"], "no paired device begins with zz"),
        (["reject", "zz"], "no request begins with zz"),
    ],
)
def test_what_is_not_clear(to_script, devices, command, text):
    """What fits no device, or several, is refused, and nothing is done."""
    assert text in one_line(to_script("devices", *command), 1)
    assert devices.done == []
    assert to_script("devices", command[0], " ").exit_code == 2


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (("unknown deviceId", None), "refused device.pair.remove: unknown deviceId\n"),
        (("missing scope: operator.pairing", None), " (--url ws://127.0.0.1:PORT).\n"),
        (
            ("device token rotation denied", {"reason": "unknown-role"}),
            "denied. The device has no such role now: operator or node, as the list says.\n",
        ),
        (("denied", {"remediation": "Ask an admin."}), "denied. Ask an admin.\n"),
    ],
)
def test_a_refusal(to_script, devices, refusal, text):
    """What the gateway refuses is one line, with what mends it where that is known."""
    devices.refusal = refusal
    assert one_line(to_script("devices", "remove", "dddd1"), 1).endswith(text)


def test_a_rotation(to_script, devices):
    """The new token is printed alone where the gateway shows it; else it is said why not."""
    devices.answer = {"token": "new-token"}
    result = to_script(
        "token", "rotate", "dddd1", "operator", "--scope", "read", "--scope", "operator.write"
    )
    assert (result.stdout, result.stderr) == ("new-token\n", "")
    params = {"deviceId": "dddd1111", "role": "operator"}
    wanted = params | {"scopes": ["operator.read", "operator.write"]}
    assert devices.done == [("device.token.rotate", wanted)]
    devices.answer = {"tokenDelivery": "withheld-cross-device"}
    result = to_script("token", "rotate", "dddd1", "operator")
    assert result.stdout == ""
    assert "run this on the gateway's host" in result.stderr
    assert devices.done[-1] == ("device.token.rotate", params)
    shown = to_script("token", "rotate", "dddd1", "operator", "--json").stdout
    assert json.loads(shown) == devices.answer


@pytest.mark.parametrize("group", ["token", "devices"])
def test_a_revocation(to_script, devices, group):
    """The tokens of one role end."""
    result = to_script(group, "revoke", "dddd1", "operator")
    assert result.stdout == "revoked operator of Desk [dddd1111]\n"
    params = {"deviceId": "dddd1111", "role": "operator"}
    assert devices.done == [("device.token.revoke", params)]


def test_a_revocation_of_all_roles(to_script, devices):
    """Without a role each one that a device still has ends; where none is left, that is said."""
    tokens = [{"role": "operator"}, {"role": "node"}, {"role": "other", "revokedAtMs": 5}]
    devices.listed["paired"] = [PAIRED | {"tokens": tokens}, OLD]
    said = to_script("devices", "revoke", "dddd1").stdout.splitlines()
    assert said == ["revoked operator of Desk [dddd1111]", "revoked node of Desk [dddd1111]"]
    assert [params["role"] for _, params in devices.done] == ["operator", "node"]
    line = one_line(to_script("devices", "revoke", "dddd2"), 1)
    assert line.endswith("dddd2222 has no token that is not revoked\n")
    assert len(devices.done) == 2


def test_the_list_of_tokens(to_script, devices, monkeypatch):
    """A line for each role of each device says what its tokens are for and since when."""
    monkeypatch.setattr(sys.modules["gateway.cli.devices"], "now_ms", lambda: 100_000)
    live = {"role": "operator", "scopes": ["operator.read"], "createdAtMs": 10_000}
    ended = {"role": "node", "scopes": [], "createdAtMs": 1, "revokedAtMs": 99_000}
    tokens = [live | {"rotatedAtMs": 60_000, "lastUsedAtMs": 99_500}, ended]
    devices.listed["paired"] = [PAIRED | {"tokens": tokens}, OLD]
    lines = to_script("token", "list").stdout.splitlines()
    assert lines[0].split() == "DEVICE NAME ROLE SCOPES MADE USED STATE".split()
    assert lines[1].split() == "dddd1111 Desk operator read 40.0s ago 500ms ago -".split()
    assert lines[2].split() == "dddd1111 Desk node - 1m40s ago - revoked 1.0s ago".split()
    raw = json.loads(to_script("token", "list", "--json").stdout)
    assert raw == [{"deviceId": "dddd1111", **token} for token in tokens]
    devices.listed["paired"] = [OLD]
    assert to_script("token", "list").stdout == "No device has a token.\n"
