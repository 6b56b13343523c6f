"""Where gatewayctl gets address and token from."""

from __future__ import annotations

import pytest

from gateway.cli.common import Flags
from gateway.cli.where import is_loopback, resolve, url_of
from gateway.errors import StartError
from tests.cli.ctl import one_line, write_config
from tests.client.scripted import TOKEN


def test_options_may_stand_on_either_side(ctl, url):
    """The connection options work before and after the command; the later ones win."""
    before = ctl("--url", url, "--token", TOKEN, "call", "health")
    after = ctl("--url", "ws://127.0.0.1:1", "call", "--url", url, "--token", TOKEN, "health")

    assert before.exit_code == after.exit_code == 0


def test_a_token_after_the_command_beats_a_file_before_it(ctl, url, tmp_path):
    """Token and token file count as one option."""
    result = ctl("--token-file", str(tmp_path / "none"), "methods", "--url", url, "--token", TOKEN)

    assert result.exit_code == 0


def test_on_the_host_nothing_is_needed(environ):
    """Without any setting it is the default address with the token of the state directory."""
    target = resolve(Flags(), environ)

    assert (target.url, target.token) == ("ws://127.0.0.1:18789", TOKEN + "-of-the-state")
    assert TOKEN not in repr(target)


def test_the_order_of_token_sources(environ, tmp_path):
    """Option, token file, environment, configuration, state directory: the first one counts."""
    (tmp_path / "file").write_text("from-file\n")
    config = write_config(tmp_path, '[auth]\ntoken = { file = "secret" }')
    (tmp_path / "secret").write_text("from-config\n")
    everything = {**environ, **config, "GATEWAY_TOKEN": " from-env "}

    def token(environ, **flags):
        return resolve(Flags(**flags), environ).token

    assert token(everything, token="from-option", token_file="x") == "from-option"
    assert token(everything, token_file=str(tmp_path / "file")) == "from-file"
    assert token(everything) == "from-env"
    assert token({**environ, **config}) == "from-config"
    assert token(environ) == TOKEN + "-of-the-state"
    assert token({"GATEWAY_STATE_DIR": str(tmp_path)}) is None
    assert token(environ, state_dir=str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ('[auth]\nmode = "none"', None),
        ('[auth]\nmode = "password"\npassword = "pw-1"', "pw-1"),
        ('[auth]\ntoken = "t-1"', "t-1"),
    ],
)
def test_the_configuration_decides_about_the_token(environ, tmp_path, text, token):
    """No token where none is asked for, the password where that is the mode."""
    environ.update(write_config(tmp_path, text))

    assert resolve(Flags(), environ).token == token


def test_the_address_comes_from_the_configuration(environ, tmp_path):
    """The first address that the gateway listens on is the default, GATEWAY_URL and --url go before."""
    environ.update(write_config(tmp_path, '[server]\nlisten = ["0.0.0.0:4000"]'))

    assert resolve(Flags(), environ).url == "ws://127.0.0.1:4000"
    environ["GATEWAY_URL"] = "ws://localhost:5000"
    assert resolve(Flags(), environ).url == "ws://localhost:5000"
    assert resolve(Flags(url="ws://[::1]:6000"), environ).url == "ws://[::1]:6000"


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (["127.0.0.1:1"], "ws://127.0.0.1:1"),
        (["[::1]:2"], "ws://[::1]:2"),
        (["[::]:3"], "ws://[::1]:3"),
        (["localhost:4"], "ws://localhost:4"),
        (["unix:/run/g.sock", "box:5"], "ws://box:5"),
        (["tcp:6"], "ws://127.0.0.1:6"),
        (["tcp6:7"], "ws://[::1]:7"),
    ],
)
def test_addresses_to_connect_to(listen, url):
    """What the gateway listens on is turned into an address that reaches it from this host."""
    assert url_of(listen) == url


def test_an_address_that_is_none():
    """A gateway that listens on no TCP address can not be found by itself."""
    with pytest.raises(StartError, match="--url"):
        url_of(["unix:/run/g.sock"])


def test_the_token_of_this_host_stays_here(environ):
    """To another host only a token goes that was given for it."""
    remote = Flags(url="wss://gateway.example")

    assert resolve(remote, environ).token is None
    assert resolve(remote, {**environ, "GATEWAY_TOKEN": "mine"}).token == "mine"


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("h", False)],
)
def test_what_is_this_host(host, local):
    """Only loopback addresses and localhost are this host for sure."""
    assert is_loopback(host) is local


def test_a_configuration_is_read_only_where_it_is_needed(environ, tmp_path):
    """With address and token given, a broken configuration does no harm."""
    environ.update(write_config(tmp_path, "= 1"))

    target = resolve(Flags(url="ws://127.0.0.1:1", token="t"), environ)

    assert (target.url, target.token) == ("ws://127.0.0.1:1", "t")


def test_a_broken_configuration_is_one_line(ctl, tmp_path):
    """A configuration that does not load stops a connecting command with one line and status 2."""
    ctl.environ.update(write_config(tmp_path, "[server]\nlisten = 5"))

    assert "server.listen" in one_line(ctl("methods"))
