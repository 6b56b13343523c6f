"""gatewayctl security: what it finds open, and what it says of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.audit import Finding, look_online
from tests.app.test_passwords import CHEAP
from tests.cli.ctl import write_config


def findings(
    ctl: Any, tmp_path: Path, text: str = "", **environ: str
) -> tuple[int, dict[str, str]]:
    """Run it offline; return the exit status, and the level of each check, the worst one."""
    if text:
        ctl.environ.update(write_config(tmp_path, text))
    result = ctl("security", "--offline", "--json", **environ)
    levels: dict[str, str] = {}
    order = ["ok", "warning", "danger"]
    for row in json.loads(result.stdout)["findings"]:
        before = levels.get(row["check"], "ok")
        levels[row["check"]] = max(before, row["level"], key=order.index)
    return result.exit_code, levels


def test_the_defaults_are_safe(ctl, tmp_path):
    """A gateway as it comes is open to nobody else, and the exit status says so."""
    status, levels = findings(ctl, tmp_path)
    assert status == 0
    assert set(levels.values()) == {"ok"}


@pytest.mark.parametrize(
    ("text", "check", "level"),
    [
        ('[server]\nlisten = ["0.0.0.0:1"]', "listen", "warning"),
        ('[server]\nlisten = ["ssl:443:privateKey=/no/such"]', "listen", "ok"),
        ('[server]\nlisten = ["unix:/run/x"]', "listen", "ok"),
        ('[server]\nallowed_origins = ["*"]', "server.allowed_origins", "danger"),
        ('[server]\nallowed_origins = ["null"]', "server.allowed_origins", "warning"),
        ('[server]\ntrusted_proxies = ["0.0.0.0/0"]', "server.trusted_proxies", "warning"),
        ('[server]\ntrusted_proxies = ["10.0.0.1"]', "server.trusted_proxies", None),
        ('[auth]\nmode = "none"', "auth.mode", "warning"),
        ('[auth]\nmode = "none"\n[server]\nlisten = ["tcp:1"]', "auth.mode", "danger"),
        (
            '[auth]\nmode = "none"\nallow_unauthenticated = true',
            "auth.allow_unauthenticated",
            "danger",
        ),
        ("[auth]\nallow_unauthenticated = true", "auth.allow_unauthenticated", "warning"),
        ('[auth]\ntoken = "short"', "auth.token", "warning"),
        ('[auth]\ntoken = "short"\n[server]\nlisten = ["[::]:1"]', "auth.token", "danger"),
        ('[auth]\ntoken = { env = "NO_SUCH" }', "auth.token", "warning"),
        ('[auth]\nmode = "password"\npassword = "correct horse"', "auth.password", "warning"),
        ('[auth]\nmode = "password"\npassword = "short"', "auth.password", "warning"),
        (f'[auth]\nmode = "password"\npassword = "{CHEAP}"', "auth.password", "ok"),
        ("[pairing]\nsilent_local = false", "pairing.silent_local", None),
    ],
)
def test_settings(ctl, tmp_path, text, check, level):
    """Each setting has its level; what is dangerous makes the exit status 1."""
    status, levels = findings(ctl, tmp_path, text)
    assert levels.get(check) == level
    assert status == (1 if "danger" in levels.values() else 0)


def test_a_trusted_proxy(ctl, tmp_path):
    """With mode trusted-proxy it matters who the proxy is, and whom it may name."""
    text = (
        '[server]\ntrusted_proxies = ["{}"]\n[auth]\nmode = "trusted-proxy"\n'
        "allow_loopback_proxy = true\n"
    )
    status, levels = findings(ctl, tmp_path, text.format("10.0.0.0/8"))
    assert (status, levels["server.trusted_proxies"]) == (1, "danger")
    assert levels["auth.allow_users"] == levels["auth.allow_loopback_proxy"] == "warning"
    status, levels = findings(ctl, tmp_path, text.format("10.0.0.1") + 'allow_users = ["ann"]')
    assert (status, levels["auth.mode"]) == (0, "ok")
    assert "auth.allow_users" not in levels


def test_files_that_others_can_read(ctl, tmp_path):
    """An open state directory is dangerous, an open token in a closed one is not."""
    state = Path(ctl.environ["GATEWAY_STATE_DIR"])
    (state / "token").chmod(0o644)
    assert findings(ctl, tmp_path)[0] == 0
    state.chmod(0o755)
    status, levels = findings(ctl, tmp_path)
    assert (status, levels["files"]) == (1, "danger")
    state.chmod(0o700)
    config = tmp_path / "open.toml"
    config.write_text('[auth]\ntoken = "0123456789abcdef-long"')
    config.chmod(0o644)
    status, levels = findings(ctl, tmp_path, GATEWAY_CONFIG=str(config))
    assert (status, levels["files"]) == (1, "danger")
    config.chmod(0o600)
    assert findings(ctl, tmp_path, GATEWAY_CONFIG=str(config))[0] == 0


def test_before_the_first_start(ctl, tmp_path):
    """Without a state directory there is nothing to find fault with; the environment's token counts."""
    none = str(tmp_path / "none")
    assert findings(ctl, tmp_path, GATEWAY_STATE_DIR=none)[0] == 0
    _, levels = findings(ctl, tmp_path, GATEWAY_STATE_DIR=none, GATEWAY_TOKEN="short")
    assert levels["auth.token"] == "warning"


def test_an_address_that_an_option_named(ctl, tmp_path):
    """Where the gateway that runs listens counts too, as long as it runs."""
    lock = Path(ctl.environ["GATEWAY_STATE_DIR"], "lock")
    for pid, url, level in (
        (os.getpid(), "ws://0.0.0.0:18789", "warning"),
        (os.getpid(), "ws://127.0.0.1:18789", "ok"),
        (2**30, "ws://0.0.0.0:18789", "ok"),
    ):
        lock.write_text(json.dumps({"pid": pid, "since": "x", "url": url}))
        assert findings(ctl, tmp_path)[1]["listen"] == level


def test_for_people(ctl, tmp_path):
    """Each finding is a line with a mark, what mends it below, and whether a gateway was asked."""
    ctl.environ.update(write_config(tmp_path, '[server]\nallowed_origins = ["*"]'))
    result = ctl("security", GATEWAY_URL="ws://127.0.0.1:1")
    assert result.exit_code == 1
    assert "!!  server.allowed_origins: every web page" in result.stdout
    assert "     -> list the origins" in result.stdout
    assert "no gateway was asked" in result.stdout


def test_a_broken_configuration(ctl, tmp_path):
    """A file that can't be loaded is one line."""
    ctl.environ.update(write_config(tmp_path, "zzz = 1"))
    assert ctl("security").exit_code == 1


def test_a_gateway_is_asked(to_script):
    """A running gateway is asked what it advertises; what it does not have is left out."""
    result = to_script("security", "--json")
    assert json.loads(result.stdout)["gateway"] is True


def levels(*found: Finding) -> list[tuple[str, str]]:
    return [(each.level, each.check) for each in found]


def online(**answers: Any) -> list[tuple[str, str]]:
    return levels(*look_online(lambda method: answers.get(method.replace(".", "_"))))


ADMIN = {"deviceId": "d1", "displayName": "Ann's phone", "scopes": ["operator.admin"]}
READER = {"deviceId": "d2", "scopes": ["operator.read"]}


def test_devices():
    """Devices that may do everything are named, and those that wait."""
    assert online() == []
    assert online(device_pair_list={"paired": [], "pending": []}) == []
    assert online(device_pair_list={"paired": [READER]}) == [("ok", "devices")]
    answer = {"paired": [ADMIN, READER], "pending": [{}]}
    assert online(device_pair_list=answer) == [("warning", "devices")] * 2
    (first, _) = look_online({"device.pair.list": answer}.get)
    assert "1 of 2 devices may do everything: Ann's phone" in first.text


def test_execution_policies():
    """A policy that lets anything run is dangerous, less so if a person is asked each time."""
    assert online(exec_approvals_get={"file": None}) == []
    full = {"file": {"defaults": {"security": "full", "ask": "off"}, "agents": None}}
    assert online(exec_approvals_get=full) == [("danger", "exec policy")]
    asked = {"file": {"agents": {"main": {"security": "full", "ask": "always"}, "b": 3}}}
    assert online(exec_approvals_get=asked) == [("warning", "exec policy")]


@pytest.mark.parametrize(
    ("directory", "mode", "level"),
    [(0o755, 0o644, "danger"), (0o755, 0o600, None), (0o700, 0o644, None), (0o755, None, None)],
)
def test_a_secret_in_a_file_of_its_own(ctl, tmp_path, directory, mode, level):
    """A file that holds the token is looked at too, unless others can not get at it or it is missing."""
    place = tmp_path / "secrets"
    place.mkdir()
    file = place / "token"
    if mode is not None:
        file.write_text("t" * 40)
        file.chmod(mode)
    place.chmod(directory)
    _, levels = findings(ctl, tmp_path, f'[auth]\ntoken = {{ file = "{file}" }}')
    assert levels.get("files") == level


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ('[auth]\ntoken = "short"', "put a longer one there"),
        ('[auth]\nmode = "password"\npassword = "short"', "gatewayctl hash-password"),
        ('[auth]\nmode = "none"\n[server]\nlisten = ["0.0.0.0:1"]', "auth.mode"),
    ],
)
def test_the_mend_is_for_what_is_configured(ctl, tmp_path, text, mend):
    """A short token of the configuration is not changed by what changes the gateway's own."""
    ctl.environ.update(write_config(tmp_path, text))
    rows = json.loads(ctl("security", "--offline", "--json").stdout)["findings"]
    (row,) = (row for row in rows if row["check"].startswith("auth."))
    assert mend in row["mend"]
    assert "secret rotate" not in row["mend"]
    assert "mode" not in mend or "everybody who can connect" in row["text"]
