"""The state directory: who owns it, what lies in it, and the token that is made in it.

::

    token               the shared token, made on first start
    lock                flock; holds {"pid", "since"} of the gateway that owns the directory
    agents.toml         agents that clients have made, changed or deleted
    gateway.db          sessions, transcripts, runs, devices
    logs/               gateway-YYYY-MM-DD.jsonl
    workspace/          where agents work that are told no other place
    trash/              workspaces of agents that were deleted
    secrets/            keys of the gateway itself
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gateway.config import Secret, SecretRef, resolve_secret
from gateway.errors import StartError

if TYPE_CHECKING:
    from gateway.interfaces import IClock, IEntropy

_TOKEN_BYTES = 32
_TOKEN_CHARS_MIN = 16
_READ_MAX = 65_536


class Token(NamedTuple):
    """The shared token and where it came from: a path, or words for people."""

    value: str
    source: str
    warnings: tuple[str, ...]


def default_path() -> Path:
    """Return the user's own state directory of the gateway."""
    import platformdirs  # only where no directory is named

    return Path(platformdirs.user_state_dir("gateway", appauthor=False))


class StateDirectory:
    """One state directory. :meth:`ensure` comes first, :meth:`lock` before anything is written."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.token = self.path / "token"
        self.lock_file = self.path / "lock"
        self.database = self.path / "gateway.db"
        self.logs = self.path / "logs"
        self.workspace = self.path / "workspace"
        self.secrets = self.path / "secrets"
        self.agents = self.path / "agents.toml"
        self._lock: int | None = None

    def ensure(self) -> tuple[str, ...]:
        """Create the directory and those in it, for its owner only; return warnings for the log.

        Raises StartError.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            warnings = [_private_directory(self.path)]
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise StartError(f"state directory {self.path} is not writable")
            for path in (self.logs, self.workspace, self.secrets):
                warnings.append(_private_directory(path))
        except OSError as error:
            raise StartError(f"state directory {self.path}: {error.strerror}") from error
        return tuple(filter(None, warnings))

    def lock(self, clock: IClock) -> None:
        """Become the owner until :meth:`unlock` or the end of the process.

        To be taken after a fork to the background: the owner's pid is written into the file. Raises
        StartError, which names the present owner.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.lock_file, flags, 0o600)
        except OSError as error:
            raise StartError(f"lock {self.lock_file}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            since = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).isoformat(timespec="seconds")
            self._write_lock(descriptor, {"pid": os.getpid(), "since": since})
        except BlockingIOError as error:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise StartError(f"state directory {self.path} is in use by {owner}") from error
        except OSError as error:
            os.close(descriptor)
            raise StartError(f"lock {self.lock_file}: {error.strerror}") from error
        self._lock = descriptor

    def announce(self, url: str) -> None:
        """Tell clients of this host where the gateway is; only its owner may."""
        assert self._lock is not None, "lock() comes first"
        held = json.loads(os.pread(self._lock, _READ_MAX, 0))
        self._write_lock(self._lock, {**held, "url": url})

    def announced_url(self) -> str | None:
        """Return where the gateway that owns this directory is, as far as it has said so."""
        try:
            held = json.loads(self.lock_file.read_bytes()[:_READ_MAX])
        except (OSError, ValueError):
            return None
        url = held.get("url") if isinstance(held, dict) else None
        return url if isinstance(url, str) else None

    def owner(self) -> int | None:
        """Return the process that has the directory: its name stands in the lock, and it is alive.

        Looking does not take the lock from whoever comes next.
        """
        try:
            held = json.loads(self.lock_file.read_bytes()[:_READ_MAX])
            pid = held.get("pid") if isinstance(held, dict) else None
            if not isinstance(pid, int) or pid <= 0:
                return None
            os.kill(pid, 0)
        except PermissionError:
            return pid  # it is alive, and somebody else's
        except (OSError, ValueError, OverflowError):
            return None
        return pid

    def owned_by(self, pid: int) -> bool:
        """Whether a process has the directory."""
        return self.owner() == pid

    def _write_lock(self, descriptor: int, content: dict[str, object]) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)

    def unlock(self) -> None:
        """Give the directory up; the file stays, since removing it would let two in."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def load_token(
        self,
        token_file: Path | None,
        environ: Mapping[str, str],
        configured: Secret | None,
        base_dir: Path,
        entropy: IEntropy,
    ) -> Token:
        """Return the shared token, which is made if nobody gave one.

        First comes ``token_file``, then GATEWAY_TOKEN, then ``configured``, whose relative file
        lies in ``base_dir``, then the directory's own. Raises StartError.
        """
        if token_file is not None:
            secret: Secret = SecretRef(file=str(token_file.absolute()))
            return _given(secret, str(token_file), environ, base_dir)
        if environ.get("GATEWAY_TOKEN"):
            return _given(SecretRef(env="GATEWAY_TOKEN"), "$GATEWAY_TOKEN", environ, base_dir)
        if configured is not None:
            return _given(configured, "auth.token of the configuration", environ, base_dir)
        if not os.path.lexists(self.token):
            value = urlsafe_b64encode(entropy.token_bytes(_TOKEN_BYTES)).rstrip(b"=")
            try:
                _create(self.token, value + b"\n", entropy)
            except OSError as error:
                raise StartError(f"token {self.token}: {error.strerror}") from error
        return self.read_token()

    def rotate_token(self, entropy: IEntropy) -> str:
        """Put another token in the place of the directory's own, and return it. Raises StartError.

        A gateway that runs takes it within five seconds.
        """
        value = urlsafe_b64encode(entropy.token_bytes(_TOKEN_BYTES)).rstrip(b"=")
        try:
            _create(self.token, value + b"\n", entropy, replace=True)
        except OSError as error:
            raise StartError(f"token {self.token}: {error.strerror}") from error
        return value.decode()

    def read_token(self) -> Token:
        """Read the directory's own token, and close its file to others. Raises StartError."""
        try:
            descriptor = os.open(self.token, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as stream:
                mode = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(mode):
                    raise StartError(f"token {self.token}: not a file")
                if mode & 0o077:
                    os.fchmod(descriptor, 0o600)
                value = stream.read(_READ_MAX).decode().strip()
        except OSError as error:
            raise StartError(f"token {self.token}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise StartError(f"token {self.token}: not text") from error
        _check_token(value, f"token {self.token}")
        if len(value) < _TOKEN_CHARS_MIN:
            raise StartError(f"token {self.token}: too short; remove the file to have one made")
        warning = f"token {self.token} could be read by others: it is 0600 now"
        return Token(value, str(self.token), (warning,) if mode & 0o077 else ())


def _given(secret: Secret, source: str, environ: Mapping[str, str], base_dir: Path) -> Token:
    value = resolve_secret(secret, environ, base_dir, key="token").strip()
    _check_token(value, f"token from {source}")
    warning = f"token from {source} has less than {_TOKEN_CHARS_MIN} characters and can be guessed"
    return Token(value, source, (warning,) if len(value) < _TOKEN_CHARS_MIN else ())


def _check_token(value: str, what: str) -> None:
    if not value:
        raise StartError(f"{what}: empty")
    if not value.isprintable() or " " in value:
        raise StartError(f"{what}: not one word of printable characters")


def _private_directory(path: Path) -> str:
    """Make sure of a directory that only its owner can enter; return a warning, or nothing."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"state directory {path} is not a directory")
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return ""
    if status.st_uid != os.geteuid():
        raise StartError(
            f"state directory {path} belongs to another user and is open to others (mode {mode:04o})"
        )
    path.chmod(0o700)
    return f"state directory {path} was open to others (mode {mode:04o}): it is 0700 now"


def _create(path: Path, content: bytes, entropy: IEntropy, *, replace: bool = False) -> None:
    """Write a private file that is either there as a whole or not at all; an existing one stays.

    With ``replace`` it is the existing one that goes.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    partial = path.with_name(f".{path.name}.{entropy.token_bytes(8).hex()}")
    descriptor = os.open(partial, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        if replace:
            partial.replace(path)
        else:
            with suppress(FileExistsError):  # another gateway was first: its token holds
                os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, _READ_MAX, 0))
        return f"gateway pid {int(owner['pid'])} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another gateway"  # which has the lock and has not written yet who it is
