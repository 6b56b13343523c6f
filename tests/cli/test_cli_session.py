"""What goes wrong before a request: one line on stderr, exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.common import printable
from tests.cli.ctl import one_line
from tests.client.scripted import TOKEN
from tests.client.served import self_signed, served


@pytest.mark.parametrize("command", [("call", "health"), ("chat", "hi"), ("methods",)])
def test_no_server(ctl, command):
    """Without a server there is one line that names the address, and exit status 2."""
    line = one_line(ctl(*command, "--url", "ws://127.0.0.1:1", "--token", TOKEN))

    assert "ws://127.0.0.1:1" in line
    assert "connection refused" in line


def test_a_wrong_token(ctl, url):
    """A wrong token is one line with the reason, without the token, and exit status 2."""
    line = one_line(ctl("call", "health", "--url", url, "--token", "s3cret-wrong"))

    assert "unauthorized" in line
    assert "AUTH_TOKEN_MISMATCH" in line
    assert "s3cret" not in line


def test_a_missing_token(ctl, url):
    """Without a token the line says how to give one."""
    Path(ctl.environ["GATEWAY_STATE_DIR"], "token").unlink()

    line = one_line(ctl("call", "health", "--url", url))

    assert "--token-file" in line


def test_a_restart_during_the_call(to_script, script):
    """A connection that ends before the answer is one line with code and reason, and exit status 2."""
    script.handlers["x"] = lambda c, f: c.hang_up(1012, "service restart")

    line = one_line(to_script("call", "x"))

    assert "service restart (1012)" in line


@pytest.mark.parametrize("bad", ["http://h", "ws://u:s3cret@h", "nonsense"])
def test_a_bad_address(ctl, bad):
    """An address that makes no sense is one line, without what may be a secret in it."""
    line = one_line(ctl("call", "health", "--url", bad))

    assert "s3cret" not in line


def test_an_unreadable_token_file(ctl, tmp_path):
    """A token file that can not be read is named."""
    missing = tmp_path / "none"

    assert str(missing) in one_line(ctl("methods", "--token-file", str(missing)))


def test_a_token_that_is_no_text(ctl, url):
    """A token that can not be sent is one line that does not show it."""
    line = one_line(ctl("methods", "--url", url, GATEWAY_TOKEN="s3cret\udcff"))

    assert "s3cret" not in line


def test_text_of_the_gateway_can_not_steer_the_terminal(ctl, url, script):
    """Control characters in a message of the gateway are replaced before they are shown."""

    def refuse(connection, frame):
        connection.refuse(frame, "UNAVAILABLE", "a\x1b[2Jb\nc\x9b")
        connection.hang_up(1008, "no")

    script.handlers["connect"] = refuse

    line = one_line(ctl("call", "health", "--url", url, "--token", TOKEN))

    assert "\x1b" not in line
    assert "\x9b" not in line
    assert printable("tab\tline\nä") == "tab\tline\nä"


def test_a_gateway_behind_tls(ctl, script, tmp_path):
    """Over wss a certificate that the system trusts is accepted, any other one refused in one line."""
    certificate = self_signed(tmp_path / "localhost.pem")

    with served(script, certificate) as url:
        args = ("call", "health", "--url", url, "--token", TOKEN)
        trusted = ctl(*args, SSL_CERT_FILE=str(certificate))
        line = one_line(ctl(*args))

    assert trusted.exit_code == 0
    assert "certificate" in line
