"""The device of the command line: its key, its tokens, and when it is shown."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.cli.common import Failure, Flags
from gateway.cli.identity import FileTokens, Kept, identity_path, load_identity
from gateway.cli.session import with_device
from gateway.cli.where import Target
from gateway.client import ClientOptions, Credentials
from tests.cli.ctl import one_line
from tests.client.scripted import HELLO, TOKEN

ELSEWHERE = "wss://gw.example:8443"
SCOPES = ("operator.read",)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once(tmp_path):
    """The key file is made for its owner only, and is the same device ever after."""
    path = tmp_path / "new" / "device.key"
    made = load_identity(path)
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert load_identity(path) == made
    assert load_identity(tmp_path / "other.key") != made


def test_commands_that_start_at_once_are_one_device(tmp_path):
    """Of several commands that find no key one makes it, and none reads a part of it."""
    path = tmp_path / "device.key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: load_identity(path), range(64)))
    assert {each.device_id for each in made} == {load_identity(path).device_id}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_commands_that_keep_tokens_at_once(tmp_path):
    """No token is lost where several commands keep one of another gateway each."""
    path = tmp_path / "device.key.tokens"

    def keep(n):
        FileTokens(path, f"wss://gw{n}.example").save("d", "operator", f"t{n}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, range(16)))
    kept = [FileTokens(path, f"wss://gw{n}.example").load("d", "operator") for n in range(16)]
    assert kept == [f"t{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("content", "rights", "text"),
    [
        ("x" * 43, 0o644, "others can read the device key"),
        ("not a key", 0o600, "is no device key: move it away"),
        ("", 0o600, "is no device key"),
        ("ö", 0o600, "is no device key"),
    ],
)
def test_a_key_that_is_none(tmp_path, content, rights, text):
    """A key that others can read, or that is none, is refused without being shown or replaced."""
    path = tmp_path / "device.key"
    path.write_text(content)
    path.chmod(rights)
    with pytest.raises(Failure, match=text) as caught:
        load_identity(path)
    assert path.read_text() == content
    assert len(content) < 9 or content not in caught.value.message


def test_a_key_that_can_not_be_made(tmp_path):
    """A place where nothing can be written is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"device key .*/file/device\.key"):
        load_identity(tmp_path / "file" / "device.key")


def test_where_the_key_lies(tmp_path, monkeypatch):
    """The option goes before the environment, and that before the user's own state directory."""
    environ = {"GATEWAY_IDENTITY": str(tmp_path / "env.key")}
    flags = Flags(identity=str(tmp_path / "flag.key"))
    assert identity_path(flags, environ).name == "flag.key"
    assert identity_path(Flags(), environ).name == "env.key"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert identity_path(Flags(), {}) == tmp_path / "gatewayctl" / "device.key"


def test_tokens_by_gateway_and_role(tmp_path):
    """Each gateway's tokens are kept apart, for their owner only, with what they are for."""
    path = tmp_path / "device.key.tokens"
    tokens, other = FileTokens(path, ELSEWHERE, SCOPES), FileTokens(path, "wss://other.example")
    assert tokens.load("d", "operator") is None
    tokens.save("d", "operator", "t1")
    other.save("d", "node", "t2")
    assert mode(path) == 0o600
    assert FileTokens(path, ELSEWHERE).kept("d", "operator") == Kept("t1", SCOPES)
    assert other.load("d", "node") == "t2"
    assert tokens.load("d", "node") is None
    assert tokens.load("another-device", "operator") is None
    assert "t1" not in repr(tokens.kept("d", "operator"))
    written = path.stat().st_mtime_ns
    tokens.save("d", "operator", "t1")
    tokens.forget("d", "node")
    assert path.stat().st_mtime_ns == written
    tokens.forget("d", "operator")
    assert tokens.load("d", "operator") is None
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"deviceId": "d"}',
        '{"deviceId": "d", "gateways": {"wss://gw.example:8443": []}}',
        '{"deviceId": "d", "gateways": {"wss://gw.example:8443": {"operator": {"token": 1}}}}',
        '{"deviceId": "d", "gateways": {"wss://gw.example:8443": {"operator": "t"}}}',
    ],
)
def test_tokens_that_can_not_be_read(tmp_path, content):
    """What is no file of tokens is as good as none, and is replaced by the next token."""
    path = tmp_path / "tokens"
    path.write_text(content)
    tokens = FileTokens(path, ELSEWHERE)
    assert tokens.load("d", "operator") is None
    tokens.forget("d", "node")
    tokens.save("d", "operator", "t")
    assert tokens.load("d", "operator") == "t"


def test_scopes_that_can_not_be_read(tmp_path):
    """A token whose scopes are not told is for none."""
    path = tmp_path / "tokens"
    entry = {"token": "t", "scopes": "all"}
    gateways = {"wss://gw.example:8443": {"operator": entry}}
    path.write_text(json.dumps({"deviceId": "d", "gateways": gateways}))
    assert FileTokens(path, ELSEWHERE).kept("d", "operator") == Kept("t", ())


def with_tokens_of_before(path, *addresses):
    """Write a file that names gateways without the scheme."""
    gateways = {name: {"operator": {"token": "old", "scopes": list(SCOPES)}} for name in addresses}
    path.write_text(json.dumps({"deviceId": "d", "gateways": gateways}))


def test_tokens_are_kept_apart_by_scheme(tmp_path):
    """A token that came over TLS is not sent in the clear to the same address, nor the other way round."""
    path = tmp_path / "tokens"
    FileTokens(path, "wss://gw.example:8443").save("d", "operator", "over-tls")
    plain = FileTokens(path, "ws://gw.example:8443")
    assert plain.load("d", "operator") is None
    plain.save("d", "operator", "in-the-clear")
    plain.forget("d", "operator")
    assert FileTokens(path, "wss://gw.example:8443").load("d", "operator") == "over-tls"
    FileTokens(path, "wss://[::1]:1").save("d", "operator", "t")
    assert FileTokens(path, "ws://[::1]:1").load("d", "operator") is None
    assert FileTokens(path, "wss://[::1]:1").load("d", "operator") == "t"
    assert sorted(json.loads(path.read_text())["gateways"]) == [
        "wss://[::1]:1",
        "wss://gw.example:8443",
    ]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (ELSEWHERE, "gw.example:8443"),
        ("ws://127.0.0.1:1", "127.0.0.1:1"),
        ("ws://[::1]:1", "::1:1"),
    ],
)
def test_a_token_of_before_is_taken_over_where_nobody_reads_along(tmp_path, url, address):
    """It is shown over TLS or on this machine, and the token that follows replaces it."""
    path = tmp_path / "tokens"
    with_tokens_of_before(path, address, "other.example:1")
    tokens = FileTokens(path, url, SCOPES)
    assert tokens.kept("d", "operator") == Kept("old", SCOPES)
    tokens.save("d", "operator", "old")
    assert sorted(json.loads(path.read_text())["gateways"]) == sorted([url, "other.example:1"])
    assert tokens.kept("d", "operator") == Kept("old", SCOPES)
    with_tokens_of_before(path, address)
    tokens.forget("d", "operator")
    assert json.loads(path.read_text())["gateways"] == {}


def test_a_token_of_before_is_never_sent_in_the_clear(tmp_path):
    """Nobody knows whether it came over TLS: over a plain connection it is neither shown nor dropped."""
    path = tmp_path / "tokens"
    with_tokens_of_before(path, "gw.example:8443")
    plain = FileTokens(path, "ws://gw.example:8443", SCOPES)
    assert plain.load("d", "operator") is None
    plain.forget("d", "operator")
    plain.save("d", "operator", "new")
    assert FileTokens(path, ELSEWHERE).load("d", "operator") == "old"
    assert plain.load("d", "operator") == "new"


def test_tokens_that_can_not_be_written(tmp_path):
    """Where the file can not be replaced that is said, and nothing is left behind."""
    path = tmp_path / "tokens"
    path.mkdir()
    with pytest.raises(Failure, match="device tokens"):
        FileTokens(path, ELSEWHERE).save("d", "operator", "t")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(Failure, match="device tokens"):
        FileTokens(tmp_path / "nowhere" / "tokens", ELSEWHERE).save("d", "operator", "t")


# -- when it is shown


def with_hello(script, **auth):
    """Let the scripted gateway let everybody in."""
    script.hello = {**HELLO, "auth": {**HELLO["auth"], **auth}}
    script.handlers["connect"] = lambda connection, frame: connection.answer(frame, script.hello)


def test_here_no_device_is_shown(to_script, script, environ, tmp_path):
    """On the gateway's own host nothing changes: no device, and no key file."""
    assert to_script("methods").exit_code == 0
    assert "device" not in script.params("connect")
    assert not (tmp_path / "own").exists()


def test_a_device_is_for_gateways_elsewhere(environ, tmp_path):
    """A device is shown to gateways elsewhere, not to the one of this host, whatever address that has."""
    key = str(tmp_path / "device.key")
    far = Target("ws://192.0.2.9:1", "t")
    plain = ClientOptions(credentials=Credentials(token="t"))
    assert with_device(plain, Flags(url=far.url, identity=key), far).device == load_identity(
        Path(key)
    )
    assert with_device(plain, Flags(), far) is plain, "the gateway of this host says so itself"
    assert with_device(plain, Flags(url="http://x"), Target("http://x", "t")) is plain


def test_a_named_device_is_shown_and_comes_back_by_its_token(ctl, url, script, tmp_path):
    """A device shows the shared token first, and later its own, for the scopes that this was given for."""
    with_hello(script, deviceToken="device-token-1")
    key = str(tmp_path / "device.key")
    assert ctl("--url", url, "--token", TOKEN, "--identity", key, "methods").exit_code == 0
    first = script.params("connect")
    assert first["auth"] == {"token": TOKEN}
    assert first["client"]["displayName"]
    tokens = FileTokens(tmp_path / "device.key.tokens", url, SCOPES)
    tokens.save(first["device"]["id"], "operator", "device-token-2")

    (tmp_path / "state").joinpath("token").unlink()
    assert ctl("--identity", key, "methods", "--url", url).exit_code == 0

    second = script.params("connect")
    assert second["auth"] == {"deviceToken": "device-token-2"}
    assert second["scopes"] == list(SCOPES)
    assert second["device"]["id"] == first["device"]["id"]
    assert tokens.load(first["device"]["id"], "operator") == "device-token-1"


@pytest.mark.parametrize(
    ("code", "details", "text"),
    [
        ("PAIRING_REQUIRED", {"requestId": "q-7"}, "gatewayctl devices approve q-7"),
        ("AUTH_SCOPE_MISMATCH", {}, "pair anew: gatewayctl pair --use CODE"),
        ("AUTH_DEVICE_TOKEN_MISMATCH", {}, "give the shared token once more"),
    ],
)
def test_how_a_refusal_is_mended(ctl, url, script, tmp_path, code, details, text):
    """A refusal names the command that mends it."""

    def refuse(connection, frame):
        details_sent = {"code": code, **details}
        connection.refuse(frame, "NOT_PAIRED", "not yet", details=details_sent)
        connection.hang_up(1008, "not yet")

    script.handlers["connect"] = refuse
    key = str(tmp_path / "device.key")
    line = one_line(ctl("--url", url, "--token", TOKEN, "--identity", key, "methods"))
    assert text in line


def test_a_setup_code_in_the_place_of_a_token(ctl, url):
    """Who pastes a setup code where a token belongs is told so."""
    from gateway.core.setupcode import SetupCode, encode_setup_code

    code = encode_setup_code(SetupCode("wss://gw.example", "s" * 43))
    line = one_line(ctl("--url", url, "--token", code, "methods"))
    assert "is a setup code: gatewayctl pair --use CODE" in line
    assert code not in line
