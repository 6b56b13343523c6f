"""gatewayctl methods, token and config."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load
from gateway.limits import LimitsConfig
from tests.cli.ctl import ROOT, one_line, write_config
from tests.client.scripted import TOKEN


def test_methods_are_listed(to_script):
    """The advertised methods are printed one a line, in the gateway's order."""
    assert to_script("methods").stdout == "health\nchat.send\nchat.abort\n"


def test_the_token_and_its_place(ctl):
    """The path of the token is printed, and with --show the token."""
    path = Path(ctl.environ["GATEWAY_STATE_DIR"], "token")

    assert ctl("token").stdout == f"{path}\n"
    assert ctl("token", "--show").stdout == f"{TOKEN}-of-the-state\n"
    assert ctl("token", GATEWAY_TOKEN="x").stdout == "$GATEWAY_TOKEN\n"


def test_no_token_yet(ctl, tmp_path):
    """Before the first start there is no token, and the line says where it will be."""
    line = one_line(ctl("token", "--state-dir", str(tmp_path)), 1)

    assert str(tmp_path / "token") in line


def test_a_token_that_can_not_be_read(ctl, tmp_path):
    """A token file that is not there is one line."""
    assert "none" in one_line(ctl("token", "--token-file", str(tmp_path / "none")), 1)


def test_no_token_wanted(ctl, tmp_path):
    """With auth.mode none there is no token to print."""
    ctl.environ.update(write_config(tmp_path, '[auth]\nmode = "none"'))

    assert "auth.mode" in one_line(ctl("token"), 1)


def test_a_good_configuration(ctl, tmp_path):
    """A configuration without problems is ok, with its warnings on stderr."""
    config = write_config(tmp_path, '[auth]\ntoken = "plain-text-token"')

    named = ctl("config", "check", config["GATEWAY_CONFIG"])
    from_environ = ctl("config", "check", **config)

    assert named.exit_code == from_environ.exit_code == 0
    assert named.stdout == from_environ.stdout == f"{config['GATEWAY_CONFIG']}: ok\n"
    assert "auth.token" in named.stderr
    assert "plain-text-token" not in named.stderr
    assert ctl("config", "check").exit_code == 0


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("[server]\nlisen = []", ["server.lisen"]),
        ("[limits]\noutbox_bytes = 1", ["limits.outbox_bytes"]),
        ("[agents.a]\nbackend = 'nope'", ["agents.a.backend"]),
        ("[agents.a]\nword_delay = 1\n[agents.b]\nbackend = 'x'", ["agents.a.word", "agents.b"]),
        ("= 1", ["not TOML"]),
    ],
)
def test_a_bad_configuration(ctl, tmp_path, text, keys):
    """Every problem is a line on stderr that names file and key, with exit status 1."""
    path = write_config(tmp_path, text)["GATEWAY_CONFIG"]

    result = ctl("config", "check", path)

    lines = result.stderr.splitlines()
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(lines) == len(keys)
    assert all(path in line and key in line for line, key in zip(lines, keys, strict=True))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("command = ['no-such-program-here']", "agents.a.command: no such program"),
        ("command = ['sh']\nenv = { K = { env = 'NO_SUCH_KEY' } }", "NO_SUCH_KEY is not set"),
    ],
)
def test_what_is_missing_on_this_host(ctl, tmp_path, table, text):
    """A right table whose program or key is not here is ok, with a warning of it."""
    path = write_config(tmp_path, f"[agents.a]\nbackend = 'acp'\n{table}")["GATEWAY_CONFIG"]

    result = ctl("config", "check", path)

    assert result.exit_code == 0
    assert result.stderr.startswith("warning: the gateway would not start on this host: ")
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_configuration(ctl, tmp_path):
    """A file that is not there is a problem like any other."""
    result = ctl("config", "check", str(tmp_path / "none.toml"))

    assert result.exit_code == 1
    assert "none.toml" in result.stderr


def test_the_default_configuration_loads(ctl, tmp_path):
    """The printed default configuration is a valid file that changes nothing."""
    text = ctl("config", "default").stdout
    path = tmp_path / "default.toml"
    path.write_text(text)

    assert text.startswith("#")
    assert load(path, {}).config.limits == LimitsConfig()


def test_commands_that_stay_here_load_little():
    """Help and configuration need neither Twisted nor Autobahn."""
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from gateway.cli import cli\n"
        "for args in (['--help'], ['chat', '--help'], ['config', 'default']):\n"
        "    assert CliRunner().invoke(cli, args).exit_code == 0\n"
        "print([name for name in sys.modules if name in ('twisted', 'autobahn', 'asyncio')])\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)

    assert done.stdout == b"[]\n"
