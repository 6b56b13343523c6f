"""gateway.statedir: who owns a state directory, and the token in it."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.config import Secret, SecretRef
from gateway.errors import StartError
from gateway.statedir import StateDirectory, Token, default_path
from gateway.testing import FakeClock, FakeEntropy

LONG = "0123456789abcdef"


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    """A state directory that is ready for use."""
    state = StateDirectory(tmp_path / "state")
    assert state.ensure() == ()
    return state


@contextmanager
def full_disk() -> Iterator[None]:
    """Let every write to a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def load(
    state: StateDirectory,
    *,
    file: Path | None = None,
    environ: dict[str, str] | None = None,
    configured: Secret | None = None,
) -> Token:
    return state.load_token(file, environ or {}, configured, state.path, FakeEntropy())


def test_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an option the state lies in the user's own state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert default_path() == Path("/somewhere/gateway")


def test_ensure_creates_private_directories(tmp_path: Path) -> None:
    """The directory, those in it and its parents are made; only the owner can enter."""
    state = StateDirectory(tmp_path / "a" / "b")
    assert state.ensure() == ()
    for path in (state.path, state.logs, state.workspace, state.secrets):
        assert mode_of(path) == 0o700
    assert state.ensure() == ()


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path, or one of the user's home, stays what it was when the process moves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert StateDirectory(Path("s")).database == tmp_path / "s" / "gateway.db"
    assert StateDirectory(Path("~/s")).path == Path("/home/me/s")


def test_ensure_closes_an_open_directory(tmp_path: Path) -> None:
    """A directory of ours that others can enter is closed to them, with a warning."""
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o755)
    assert StateDirectory(path).ensure() == (
        f"state directory {path} was open to others (mode 0755): it is 0700 now",
    )
    assert mode_of(path) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_ensure_refuses_an_open_directory_of_others(tmp_path: Path) -> None:
    """An open directory of another user is refused, a closed one is not changed."""
    path = tmp_path / "foreign"
    path.mkdir()
    os.chown(path, 12345, 12345)
    path.chmod(0o770)
    with pytest.raises(StartError, match=r"belongs to another user and is open .*\(mode 0770\)$"):
        StateDirectory(path).ensure()
    path.chmod(0o700)
    assert StateDirectory(path).ensure() == ()
    assert path.stat().st_uid == 12345


def test_ensure_refuses_what_is_no_directory(tmp_path: Path) -> None:
    """A file in the place of the directory, or of one above it, is one line."""
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StartError, match=f"^state directory {path} is not a directory$"):
        StateDirectory(path).ensure()
    with pytest.raises(StartError, match=f"^state directory {path}/x/y: Not a directory$"):
        StateDirectory(path / "x" / "y").ensure()


def test_ensure_refuses_an_unwritable_directory() -> None:
    """A directory that can not be written to is refused before anything is tried in it."""
    with pytest.raises(StartError, match=r"^state directory /proc/"):
        StateDirectory(Path("/proc/gateway")).ensure()


def test_unwritable_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of a read-only disk is called not writable."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root nothing else refuses
    with pytest.raises(StartError, match=f"^state directory {tmp_path}/s is not writable$"):
        StateDirectory(tmp_path / "s").ensure()


def test_lock_names_its_owner(state: StateDirectory) -> None:
    """A second gateway on the same directory is refused and told who has it and since when."""
    state.lock(FakeClock())
    assert json.loads(state.lock_file.read_bytes()) == {
        "pid": os.getpid(),
        "since": "2023-11-14T22:13:20+00:00",
    }
    assert mode_of(state.lock_file) == 0o600
    with pytest.raises(StartError) as caught:
        StateDirectory(state.path).lock(FakeClock())
    assert str(caught.value) == (
        f"state directory {state.path} is in use by gateway pid {os.getpid()}"
        " since 2023-11-14T22:13:20+00:00"
    )
    state.unlock()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x", "since": 1}', "null"])
def test_lock_of_an_unknown_owner(state: StateDirectory, content: str) -> None:
    """An owner that has not written its name yet still keeps others out."""
    state.lock(FakeClock())
    state.lock_file.write_text(content)
    with pytest.raises(StartError, match=r"is in use by another gateway$"):
        StateDirectory(state.path).lock(FakeClock())
    state.unlock()


def test_unlock(state: StateDirectory) -> None:
    """A directory that was given up, or whose owner died, can be owned again."""
    state.unlock()
    state.lock(FakeClock())
    state.unlock()
    assert state.lock_file.read_bytes() == b""
    state.lock_file.write_text('{"pid": 1, "since": "what a killed process leaves behind"}')
    state.lock(FakeClock())
    assert json.loads(state.lock_file.read_bytes())["pid"] == os.getpid()
    state.unlock()


def test_who_owns_it(state: StateDirectory) -> None:
    """A process owns the directory while its name stands in the lock and it is alive."""
    assert not state.owned_by(os.getpid())
    state.lock(FakeClock())
    assert state.owned_by(os.getpid())
    assert not state.owned_by(os.getpid() + 2**22)
    (state.path / "lock").write_text(json.dumps({"pid": 1}))
    assert not state.owned_by(os.getpid())
    assert state.owned_by(1)
    state.unlock()
    assert not state.owned_by(os.getpid())
    (state.path / "lock").write_text("[]")
    assert not state.owned_by(os.getpid())


def test_lock_that_can_not_be_taken(state: StateDirectory) -> None:
    """A lock that can not be opened or written is one line, and holds nothing."""
    with full_disk(), pytest.raises(StartError, match=r"lock: File too large$"):
        state.lock(FakeClock())
    state.lock(FakeClock())
    state.unlock()
    state.lock_file.unlink()
    state.lock_file.symlink_to("elsewhere")
    with pytest.raises(StartError, match=r"/lock: Too many levels of symbolic links$"):
        state.lock(FakeClock())


def test_token_is_made_once(state: StateDirectory) -> None:
    """The first start makes a token of 32 random bytes for the owner's eyes, later ones read it."""
    made = load(state)
    assert made.source == str(state.token)
    assert made.warnings == ()
    assert len(made.value) == 43
    assert state.token.read_text() == made.value + "\n"
    assert mode_of(state.token) == 0o600
    assert load(state) == made == state.read_token()
    assert sorted(path.name for path in state.path.iterdir()) == [
        "logs",
        "secrets",
        "token",
        "workspace",
    ]


def test_token_of_two_first_starts(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """When two gateways make a token at once, both end with the one that was there first."""
    first = load(state)
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    assert state.load_token(None, {}, None, state.path, FakeEntropy("other")) == first


def test_token_file_is_closed_to_others(state: StateDirectory) -> None:
    """A token file that others could read is closed to them, with a warning."""
    made = load(state)
    state.token.chmod(0o644)
    token = load(state)
    assert token.value == made.value
    assert token.warnings == (f"token {state.token} could be read by others: it is 0600 now",)
    assert mode_of(state.token) == 0o600


def test_token_precedence(state: StateDirectory, tmp_path: Path) -> None:
    """The option's file goes before the environment, that before the configuration."""
    file = tmp_path / "t"
    file.write_text(f" file-{LONG}\n\n")
    environ = {"GATEWAY_TOKEN": f"env-{LONG}", "X": f"conf-{LONG}"}
    configured = SecretRef(env="X")
    assert load(state, file=file, environ=environ, configured=configured) == Token(
        f"file-{LONG}", str(file), ()
    )
    assert load(state, environ=environ, configured=configured) == Token(
        f"env-{LONG}", "$GATEWAY_TOKEN", ()
    )
    environ["GATEWAY_TOKEN"] = ""
    assert load(state, environ=environ, configured=configured) == Token(
        f"conf-{LONG}", "auth.token of the configuration", ()
    )
    assert not state.token.exists()


def test_short_token_warns(state: StateDirectory) -> None:
    """A short token that someone chose is taken, with a warning that does not hold it."""
    token = load(state, environ={"GATEWAY_TOKEN": "hunter2"})
    assert token.value == "hunter2"
    assert token.warnings == (
        "token from $GATEWAY_TOKEN has less than 16 characters and can be guessed",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"short\n", "too short; remove the file to have one made"),
        (b"0123456789 abcdefghi", "not one word of printable characters"),
        (b"0123456789\nabcdefghi", "not one word of printable characters"),
        (b"\xff" * 20, "not text"),
    ],
)
def test_damaged_token(state: StateDirectory, content: bytes, message: str) -> None:
    """A token file that holds no token is one line, and is never replaced."""
    state.token.write_bytes(content)
    with pytest.raises(StartError, match=f"^token {state.token}: {message}$"):
        load(state)
    assert state.token.read_bytes() == content


def test_token_that_is_no_file(state: StateDirectory) -> None:
    """A link, a directory or a pipe in the place of the token is refused at once."""
    state.token.symlink_to("/etc/passwd")
    with pytest.raises(StartError, match="symbolic links"):
        load(state)
    state.token.unlink()
    os.mkfifo(state.token)
    with pytest.raises(StartError, match=r"not a file$"):
        load(state)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a b", "token from \\$GATEWAY_TOKEN: not one word of printable characters"),
        (" ", "token: environment variable GATEWAY_TOKEN is empty"),
    ],
)
def test_given_token_that_is_none(state: StateDirectory, value: str, message: str) -> None:
    """What someone gives as a token and can be none is refused, not replaced."""
    with pytest.raises(StartError, match=f"^{message}$"):
        load(state, environ={"GATEWAY_TOKEN": value})
    with pytest.raises(StartError, match=r"^token: file .*none: No such file or directory$"):
        load(state, file=state.path / "none")


def test_token_on_a_full_disk(state: StateDirectory) -> None:
    """A token that can not be written as a whole is not there at all."""
    with full_disk(), pytest.raises(StartError, match=r"/token: File too large$"):
        load(state)
    assert sorted(path.name for path in state.path.iterdir()) == ["logs", "secrets", "workspace"]


def test_the_owner_announces_where_it_is(tmp_path: Path) -> None:
    """Clients of the host learn the address from the lock; before and after there is none."""
    state = StateDirectory(tmp_path / "state")
    state.ensure()
    assert state.announced_url() is None
    state.lock(FakeClock())
    assert state.announced_url() is None
    state.announce("ws://127.0.0.1:4711")
    assert StateDirectory(state.path).announced_url() == "ws://127.0.0.1:4711"
    state.unlock()
    assert state.announced_url() is None


def test_a_damaged_lock_announces_nothing(tmp_path: Path) -> None:
    """A lock file that holds something else is no address."""
    state = StateDirectory(tmp_path / "state")
    state.ensure()
    for content in (b"\xff", b"[]", b'{"url": 5}'):
        state.lock_file.write_bytes(content)
        assert state.announced_url() is None
