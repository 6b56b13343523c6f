"""Files inside one directory, and never outside of it.

Requirements. A path comes from somebody who is not trusted: an agent program, a client. No path leads
out of the root: not by ``..``, not by an absolute path, not by a symbolic link at any component, and not
by a directory that is exchanged for a link while the path is being walked. A device or a FIFO does not
hold up who reads. A write is whole or not there at all.

Design. A path is split into names, and each directory is opened relative to the one before it with
``O_NOFOLLOW``: what was checked is what is used, since both are the same descriptor. Files are opened
with ``O_NONBLOCK`` and looked at before they are read. A write goes to a new file in the same directory,
which then takes the name. Resolving the path first and opening it after was rejected: between the two
anybody who can write in the workspace can put a link there.

Every method blocks: call it in a thread. Several threads may use one :class:`Workspace`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import NamedTuple

KNOWN_FILES = (
    "AGENTS.md",
    "SOUL.md",
    "TOOLS.md",
    "IDENTITY.md",
    "USER.md",
    "HEARTBEAT.md",
    "BOOTSTRAP.md",
    "MEMORY.md",
)
"""The files at the top of an agent's workspace that tell it who it is and what it works on."""
FILE_BYTES = 8 * 1024 * 1024
"""Largest file that is read or written where nobody says otherwise."""
SCAN_BYTES = 64 * 1024 * 1024
"""How far into a file lines are looked for."""
ENTRIES_MAX = 1000
"""Entries of a directory that are listed."""
DEPTH_MAX = 64
"""Names of one path."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(StrEnum):
    """Why a path was refused."""

    OUTSIDE = "outside"
    """It leads out of the workspace, or through a symbolic link."""
    NOT_FOUND = "not-found"
    NOT_A_FILE = "not-a-file"
    """A directory, a device, a FIFO, a socket."""
    TOO_LARGE = "too-large"
    NOT_TEXT = "not-text"
    """It is not UTF-8."""
    FAILED = "failed"
    """The operating system said no; the text says why."""


class WorkspaceError(Exception):
    """A path was refused, or could not be used: ``reason`` for programs, the text for people."""

    def __init__(self, reason: Refused, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Entry(NamedTuple):
    """One name in a directory: what it is, its bytes, and when it was last changed (ms since 1970)."""

    name: str
    kind: str
    """``file``, ``directory``, ``link`` or ``other``."""
    size: int
    modified_ms: int


class Workspace:
    """The files under ``root``.

    Paths are relative to the root, or absolute and under it; both take ``/``. All methods raise
    :class:`WorkspaceError` for what they refuse.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self._numbers = count()

    def read(self, path: str, *, max_bytes: int = FILE_BYTES) -> bytes:
        """Return the content of a regular file of at most ``max_bytes``."""
        with self._opened(path) as (fd, name), os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise _too_large(name, max_bytes)
            return data

    def read_text(
        self,
        path: str,
        *,
        line: int | None = None,
        limit: int | None = None,
        max_bytes: int = FILE_BYTES,
    ) -> str:
        """Return a UTF-8 file, or ``limit`` lines of it from ``line`` on (the first is 1)."""
        if line is None and limit is None:
            return _decoded(path, self.read(path, max_bytes=max_bytes))
        found: list[bytes] = []
        size = scanned = 0
        first = max(1, line or 1)
        with self._opened(path) as (fd, name), os.fdopen(os.dup(fd), "rb") as file:
            for number in count(1):
                if limit is not None and number >= first + limit:
                    break
                text = file.readline(max_bytes + 1)
                if not text:
                    break
                scanned += len(text)
                size += len(text) if number >= first else 0
                if len(text) > max_bytes or size > max_bytes or scanned > SCAN_BYTES:
                    raise _too_large(name, max_bytes)
                if number >= first:
                    found.append(text)
        return _decoded(path, b"".join(found))

    def write(
        self, path: str, data: bytes, *, max_bytes: int = FILE_BYTES, parents: bool = True
    ) -> None:
        """Replace or make a regular file as a whole; directories to it are made with ``parents``."""
        if len(data) > max_bytes:
            raise _too_large(path, max_bytes)
        *directories, name = self._file_names(path)
        with _explained(path), self._directory(directories, make=parents) as directory:
            mode = _mode_for(directory, name, path)
            temporary, fd = self._temporary(directory)
            try:
                with os.fdopen(fd, "wb") as file:
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                raise

    def stat(self, path: str) -> Entry:
        """Return what a name in the workspace is; a link is not followed."""
        names = self._names(path)
        if not names:
            with _explained(path), self._directory([]) as directory:
                return _entry("", os.fstat(directory))
        with _explained(path), self._directory(names[:-1]) as directory:
            return _entry(names[-1], os.stat(names[-1], dir_fd=directory, follow_symlinks=False))

    def entries(self, path: str = "", *, limit: int = ENTRIES_MAX) -> tuple[Entry, ...]:
        """Return the entries of a directory by name, at most ``limit``; the root's for an empty path."""
        found: list[Entry] = []
        names = self._names(path)
        with _explained(path), self._directory(names) as fd, os.scandir(fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append(_entry(entry.name, entry.stat(follow_symlinks=False)))
                if len(found) >= limit:
                    break
        return tuple(sorted(found))

    def subdirectory(self, path: str | None) -> str:
        """Return the absolute path of a directory of the workspace, the root for None."""
        names = self._names(path or "")
        with _explained(path or ""), self._directory(names):
            return str(self.root.joinpath(*names))

    def _names(self, path: str) -> list[str]:
        """Return the names on the way from the root."""
        if "\0" in path:
            raise WorkspaceError(Refused.OUTSIDE, "a path has no NUL in it")
        if path.startswith("/"):
            path = self._below_root(path)
        names = [name for name in path.split("/") if name not in ("", ".")]
        if ".." in names:
            raise _outside(path)
        if len(names) > DEPTH_MAX:
            raise WorkspaceError(Refused.FAILED, f"{_shown(path)}: too many directories")
        return names

    def _file_names(self, path: str) -> list[str]:
        names = self._names(path)
        if not names or path.endswith("/"):
            raise _not_a_file(path)
        return names

    def _below_root(self, path: str) -> str:
        for root in (str(self.root), os.path.realpath(self.root)):
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return path[len(root.rstrip("/")) :].lstrip("/")
        raise _outside(path)

    @contextmanager
    def _directory(self, names: list[str], *, make: bool = False) -> Iterator[int]:
        """Open the directory at the end of ``names``, one after the other."""
        if make:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.root, _DIRECTORY)
        try:
            for name in names:
                below = _enter(fd, name, make=make)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[int, str]]:
        """Open a regular file to read it."""
        *directories, name = self._file_names(path)
        with _explained(path), self._directory(directories) as directory:
            fd = os.open(name, _READ, dir_fd=directory)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise _not_a_file(path)
                yield fd, path
            finally:
                os.close(fd)

    def _temporary(self, directory: int) -> tuple[str, int]:
        """Make a file under a name that nobody has; one that a crash left behind is passed over."""
        while True:
            name = f".{os.getpid()}-{next(self._numbers)}.gateway-tmp"
            with suppress(FileExistsError):
                return name, os.open(name, _CREATE, 0o666, dir_fd=directory)


def _enter(directory: int, name: str, *, make: bool) -> int:
    flags = _DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o777, dir_fd=directory)
    return os.open(name, flags, dir_fd=directory)


def _mode_for(directory: int, name: str, path: str) -> int | None:
    """Return the permissions of the file that is replaced, None if there is none."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        raise _outside(path)
    if not stat.S_ISREG(found):
        raise _not_a_file(path)
    return stat.S_IMODE(found) & 0o777


def _entry(name: str, found: os.stat_result) -> Entry:
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
    kind = next((text for test, text in kinds if test(found.st_mode)), "other")
    return Entry(name, kind, found.st_size, found.st_mtime_ns // 1_000_000)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn what the operating system says into WorkspaceError."""
    try:
        yield
    except FileNotFoundError:
        raise WorkspaceError(Refused.NOT_FOUND, f"{_shown(path)}: no such file") from None
    except IsADirectoryError:
        raise _not_a_file(path) from None
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.EMLINK):
            raise _outside(path) from None
        if isinstance(error, NotADirectoryError):
            # O_DIRECTORY with O_NOFOLLOW says so of links as well.
            text = "a directory of it is none, or a symbolic link"
            raise WorkspaceError(Refused.OUTSIDE, f"{_shown(path)}: {text}") from None
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            raise _not_a_file(path) from None
        text = (isinstance(error, OSError) and error.strerror) or "not a name that a file can have"
        raise WorkspaceError(Refused.FAILED, f"{_shown(path)}: {text}") from error


def _decoded(path: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        text = f"{_shown(path)}: not UTF-8 at byte {error.start}"
        raise WorkspaceError(Refused.NOT_TEXT, text) from None


def _outside(path: str) -> WorkspaceError:
    text = f"{_shown(path)}: outside of the workspace, or a symbolic link"
    return WorkspaceError(Refused.OUTSIDE, text)


def _not_a_file(path: str) -> WorkspaceError:
    return WorkspaceError(Refused.NOT_A_FILE, f"{_shown(path)}: not a regular file")


def _too_large(path: str, max_bytes: int) -> WorkspaceError:
    return WorkspaceError(Refused.TOO_LARGE, f"{_shown(path)}: more than {max_bytes} bytes")


def _shown(path: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in path)[
        :300
    ]
