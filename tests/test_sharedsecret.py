"""The shared secret: where it lies, and how a change of its file is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from gateway.app.threads import here
from gateway.config import AuthConfig, SecretRef
from gateway.errors import StartError
from gateway.sharedsecret import SecretWatch, SharedSecret
from gateway.statedir import StateDirectory
from gateway.testing import FakeEntropy, result_of
from tests.app.test_passwords import CHEAP

LONG = "0123456789abcdef"
LONGER = "fedcba9876543210-and-more"


def secret_of(
    tmp_path: Path,
    auth: AuthConfig,
    *,
    token_file: Path | None = None,
    environ: dict[str, str] | None = None,
) -> SharedSecret:
    state = StateDirectory(tmp_path / "state")
    state.ensure()
    return SharedSecret(
        auth,
        state,
        token_file=token_file,
        environ=environ or {},
        base_dir=tmp_path,
        entropy=FakeEntropy(),
    )


def test_where_the_secret_lies(tmp_path: Path) -> None:
    """A file is named where the secret lies in one, and only there."""
    file = tmp_path / "token"
    file.write_text(LONG)
    in_file = AuthConfig(token=SecretRef(file="token"))
    own = secret_of(tmp_path, AuthConfig())
    assert own.file == tmp_path / "state" / "token"
    assert own.load().value == own.reload().value != ""
    assert secret_of(tmp_path, in_file).file == file
    assert secret_of(tmp_path, in_file).load().value == LONG
    assert secret_of(tmp_path, AuthConfig(), token_file=file).file == file
    assert secret_of(tmp_path, AuthConfig(), environ={"GATEWAY_TOKEN": LONG}).file is None
    assert secret_of(tmp_path, AuthConfig(token=LONG)).file is None
    assert secret_of(tmp_path, AuthConfig(mode="none")).file is None
    assert secret_of(tmp_path, AuthConfig(mode="trusted-proxy")).file is None
    password = AuthConfig(mode="password", password=SecretRef(file="token"))
    assert secret_of(tmp_path, password).file == file


def test_modes_without_a_secret(tmp_path: Path) -> None:
    """Nothing is shared where nothing is asked for, or where proxies say who it is."""
    assert secret_of(tmp_path, AuthConfig(mode="none")).load().value is None
    shared = secret_of(tmp_path, AuthConfig(mode="trusted-proxy")).load()
    assert (shared.value, shared.warnings) == (None, ())


def test_passwords(tmp_path: Path) -> None:
    """A password is taken as it is, a short one with a warning; a hash has to be whole."""

    def load(text: str) -> Any:
        return secret_of(tmp_path, AuthConfig(mode="password", password=text)).load()

    assert load("correct horse").warnings == ()
    assert "can be guessed" in load("short").warnings[0]
    hashed = load(CHEAP + " ")
    assert (hashed.value, hashed.warnings) == (CHEAP, ())
    assert "hash" in hashed.source
    with pytest.raises(StartError, match="hash-password"):
        load("$argon2id$v=19$half")


class Watched:
    """A token file that is watched, and what was taken of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "shared"
        self.write(LONG)
        secret = secret_of(tmp_path, AuthConfig(token=SecretRef(file="shared")))
        self.taken: list[str] = []
        current = secret.load().value
        self.watch = SecretWatch(secret, current, self.taken.append, here)
        self.look()

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.stamp = getattr(self, "stamp", 1_700_000_000) + 1
        os.utime(self.file, (self.stamp, self.stamp))

    def look(self) -> list[str]:
        """Look once; return the lines of the log."""
        with capturedLogs() as log:
            result_of(Deferred.fromCoroutine(self.watch.look()))
        return [event["log_format"].format(**event) for event in log]


def test_a_change_is_taken_with_the_second_look(tmp_path: Path) -> None:
    """What has just changed may be half written: it is read once it stays as it is."""
    watched = Watched(tmp_path)
    assert watched.look() == []
    watched.write("half")
    assert watched.look() == []
    watched.write(LONGER)
    watched.look()
    assert watched.taken == []
    (line,) = watched.look()
    assert watched.taken == [LONGER]
    assert LONGER not in line
    assert watched.look() == []


def test_the_same_secret_written_again(tmp_path: Path) -> None:
    """Touching the file closes nobody."""
    watched = Watched(tmp_path)
    watched.write(LONG)
    assert [watched.look(), watched.look()] == [[], []]
    assert watched.taken == []


@pytest.mark.parametrize("text", ["", "  \n", "two words", "\x00"])
def test_a_bad_file_takes_nothing_away(tmp_path: Path, text: str) -> None:
    """The last good secret stays; it is logged once; a good one is taken later."""
    watched = Watched(tmp_path)
    watched.write(text)
    watched.look()
    (line,) = watched.look()
    assert "stays as it was" in line
    assert watched.look() == []
    watched.write(LONGER)
    watched.look()
    watched.look()
    assert watched.taken == [LONGER]


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    """Removing the file takes nothing away either, and no other token is made."""
    watched = Watched(tmp_path)
    watched.file.unlink()
    watched.look()
    (line,) = watched.look()
    assert "gone" in line
    watched.write(LONGER)
    watched.look()
    watched.look()
    assert watched.taken == [LONGER]


def test_a_change_between_the_start_and_the_first_look(tmp_path: Path) -> None:
    """What was changed while the gateway started is not overlooked; a short token is warned of."""
    file = tmp_path / "shared"
    file.write_text("short")
    secret = secret_of(tmp_path, AuthConfig(token=SecretRef(file="shared")))
    taken: list[str] = []
    watch = SecretWatch(secret, LONG, taken.append, here)
    with capturedLogs() as log:
        result_of(Deferred.fromCoroutine(watch.look()))
    assert taken == ["short"]
    assert any("can be guessed" in str(event.get("warning")) for event in log)


def test_the_state_directory_s_token_is_rotated(tmp_path: Path) -> None:
    """A rotated token is another one, whole, private, and taken by a gateway that runs."""
    secret = secret_of(tmp_path, AuthConfig())
    first = secret.load().value
    taken: list[str] = []
    watch = SecretWatch(secret, first, taken.append, here)
    state = StateDirectory(tmp_path / "state")

    def look() -> None:
        result_of(Deferred.fromCoroutine(watch.look()))

    look()
    value = state.rotate_token(FakeEntropy("other"))
    look()
    look()
    assert taken == [value] != [first]
    assert state.token.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in state.path.iterdir() if each.name.startswith(".")] == []


def test_a_token_that_can_not_be_rotated(tmp_path: Path) -> None:
    """A directory that is not there is one line."""
    with pytest.raises(StartError, match="token"):
        StateDirectory(tmp_path / "none").rotate_token(FakeEntropy())
