"""gatewayctl secret rotate and hash-password."""

from __future__ import annotations

from pathlib import Path

from gateway.app.passwords import verify_password
from tests.cli.ctl import one_line, write_config


def test_the_token_is_rotated(ctl):
    """The state directory's token is replaced by another, which is not printed."""
    path = Path(ctl.environ["GATEWAY_STATE_DIR"], "token")
    before = path.read_text()
    result = ctl("secret", "rotate")
    after = path.read_text()
    assert result.exit_code == 0
    assert after != before
    assert len(after.strip()) >= 40
    assert after.strip() not in result.stdout
    assert str(path) in result.stdout


def test_a_secret_that_lies_elsewhere(ctl, tmp_path):
    """What is not the state directory's is changed where it lies."""
    assert "$GATEWAY_TOKEN" in one_line(ctl("secret", "rotate", GATEWAY_TOKEN="x"), 1)
    ctl.environ.update(write_config(tmp_path, '[auth]\nmode = "none"'))
    assert "none is asked for" in one_line(ctl("secret", "rotate"), 1)


def test_nothing_to_rotate_yet(ctl, tmp_path):
    """Before the first start there is no token, and none is made."""
    assert "first starts" in one_line(ctl("secret", "rotate", "--state-dir", str(tmp_path)), 1)


def test_a_token_that_can_not_be_read(ctl):
    """A token file that is none is one line."""
    path = Path(ctl.environ["GATEWAY_STATE_DIR"], "token")
    path.unlink()
    path.mkdir()
    assert "token" in one_line(ctl("secret", "rotate"), 1)


def test_a_password_is_hashed(ctl):
    """The first line of the input becomes a hash that fits it."""
    result = ctl("hash-password", stdin="correct horse\nrest\n")
    assert verify_password(result.stdout.strip(), "correct horse")
    assert "correct" not in result.stdout
    assert "no password" in one_line(ctl("hash-password", stdin="\n"), 1)


def test_a_hash_is_no_password_to_connect_with(ctl, tmp_path):
    """Where only the hash lies on this host, there is nothing that gatewayctl could show."""
    text = '[auth]\nmode = "password"\npassword = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"'
    ctl.environ.update(write_config(tmp_path, text))
    assert "only the hash" in one_line(ctl("token", "--show"), 1)
    assert ctl("token").stdout == "auth.password of the configuration\n"
