"""The structured log: one JSON object a line, in files by day, and the reading of their ends.

A line is ``{"time", "level", "logger", "message", ...fields, "traceback"?}``: ``time`` in ISO 8601 UTC
with milliseconds, the fields those of the event that are text, numbers, booleans or null.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, LogPublisher, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

_NAME = re.compile(r"gateway-(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.jsonl")
_SECRET_CHARS_MIN = 12
_SECRETS_MAX = 512
_TEXT_MAX = 16_384
_EARLY_MAX = 1000

# Keys with a meaning of their own in a line, and those that Twisted adds for its older observers.
_RESERVED = frozenset(
    {"time", "level", "logger", "message", "traceback"}
    | {"system", "format", "isError", "logLevel", "failure", "why"}
)


class Redactor:
    """Replaces secrets in text. It remembers the newest 512."""

    def __init__(self) -> None:
        self._secrets: dict[str, None] = {}

    def add(self, secret: str) -> None:
        """Remember a secret; one of less than 12 characters is left out, as it may be a word."""
        if len(secret) >= _SECRET_CHARS_MIN:
            self._secrets.pop(secret, None)
            self._secrets[secret] = None
            if len(self._secrets) > _SECRETS_MAX:
                del self._secrets[next(iter(self._secrets))]

    def clean(self, text: str) -> str:
        """Return the text with ``[redacted]`` for every secret."""
        for secret in tuple(self._secrets):  # other threads may add while this one reads
            if secret in text:
                text = text.replace(secret, "[redacted]")
        return text


@implementer(ILogObserver)
class LogFile:
    """A log observer that writes to ``gateway-YYYY-MM-DD.jsonl`` (UTC) in a directory.

    Over ``max_bytes`` a day goes on in ``gateway-YYYY-MM-DD.1.jsonl`` and so on; the newest ``keep``
    files stay. It never raises: what could not be written is counted in ``failures``, and told once
    on ``stderr``. Events below ``level`` are left out. May be called from any thread.
    """

    def __init__(
        self,
        directory: Path,
        redactor: Redactor,
        *,
        keep: int = 14,
        max_bytes: int = 100_000_000,
        level: Any = LogLevel.info,
        stderr: TextIO | None = None,
    ) -> None:
        self.failures = 0
        self._directory = directory
        self._redactor = redactor
        self._keep = keep
        self._max_bytes = max_bytes
        self._level = level
        self._stderr = stderr
        # Reentrant, since a collection of garbage inside of a write may log a lost failure.
        self._mutex = RLock()
        self._descriptor: int | None = None
        self._day = ""
        self._part = 0
        self._torn = False
        self._early: dict[int, LogEvent] | None = None

    def install(self, publisher: LogPublisher, reactor: Any = None) -> None:
        """Begin to observe.

        :param reactor: given where twistd begins its log later, but before this reactor runs: it then
            publishes all again that came before, which is to be written once.
        """
        if reactor is not None:
            self._early = {}
            reactor.callWhenRunning(self._forget_early)
        publisher.addObserver(self)

    def _forget_early(self) -> None:
        self._early = None

    def _again(self, event: LogEvent) -> bool:
        """Whether this very event came before; as long as they are kept no other has its identity."""
        early = self._early
        if early is None:
            return False
        if id(event) in early:
            return True
        if len(early) < _EARLY_MAX:
            early[id(event)] = event
        return False

    def remove(self, publisher: LogPublisher) -> None:
        """Stop observing and close the file; a later event opens it again."""
        publisher.removeObserver(self)
        self._early = None
        with self._mutex:
            self._close()

    def __call__(self, event: LogEvent) -> None:
        """Write one event as a line."""
        if event.get("log_level", LogLevel.info) < self._level or self._again(event):
            return
        try:
            line = json.dumps(self._fields(event)).encode() + b"\n"
            day = _moment(event).date().isoformat()
            with self._mutex:
                self._write(day, line)
        except Exception as error:  # a log that can not be written must not stop what it tells of
            self._failed(error)

    def _fields(self, event: LogEvent) -> dict[str, Any]:
        failure = event.get("log_failure")
        level = event.get("log_level", LogLevel.info)
        fields: dict[str, Any] = {
            "time": _moment(event).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level.name,
            "logger": str(event.get("log_namespace", "")),
            "message": self._text(formatEvent(event)),
        }
        for key, value in event.items():
            if key.startswith("log_") or key in _RESERVED:
                continue
            if isinstance(value, str):
                fields[key] = self._text(value)
            elif value is None or isinstance(value, int):
                fields[key] = value
            elif isinstance(value, float):
                fields[key] = value if math.isfinite(value) else str(value)
        if isinstance(failure, Failure):
            fields["traceback"] = self._text(failure.getTraceback())
        return fields

    def _text(self, text: str) -> str:
        text = self._redactor.clean(text)
        return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"

    def _write(self, day: str, line: bytes) -> None:
        if self._descriptor is None or day != self._day:
            parts = [part for date, part in _files(self._directory) if date == day]
            descriptor = self._open(day, max(parts, default=0))
        else:
            descriptor = self._descriptor
        status = os.fstat(descriptor)
        if not status.st_nlink:  # somebody has removed it
            descriptor = self._open(day, self._part)
        elif status.st_size and status.st_size + len(line) > self._max_bytes:
            descriptor = self._open(day, self._part + 1)
        data = b"\n" + line if self._torn else line
        self._torn = os.write(descriptor, data) != len(data)
        if self._torn:
            raise OSError("a line was written in part only")

    def _open(self, day: str, part: int) -> int:
        self._close()
        path = self._directory / (f"gateway-{day}.{part}.jsonl" if part else f"gateway-{day}.jsonl")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        self._descriptor, self._day, self._part, self._torn = descriptor, day, part, False
        os.fchmod(descriptor, 0o600)
        files = _files(self._directory)
        del files[day, part]  # never the one in use, though the clock may have been set back
        for name in sorted(files)[: max(0, len(files) - self._keep + 1)]:
            with suppress(FileNotFoundError):
                files[name].unlink()
        return descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            text = f"gateway: log {self._directory}: {error}; later failures are counted only\n"
            with suppress(OSError, ValueError):  # nowhere is left to tell it
                (self._stderr or sys.stderr).write(text)


class TailResult(NamedTuple):
    """The end of the newest log file. ``cursor`` is the offset to go on from, ``size`` the file's.

    ``reset`` says that the cursor asked for could not be continued, ``truncated`` that older bytes
    were left out; ``skipped_bytes`` how many of those lay behind the cursor.
    """

    file: str
    cursor: int
    size: int
    lines: list[str]
    truncated: bool
    reset: bool
    skipped_bytes: int

    def payload(self) -> dict[str, Any]:
        """Return what clients of both versions are told."""
        return {name: value for name, value in self._asdict().items() if name != "skipped_bytes"}


def tail(
    directory: Path, cursor: int | None = None, limit: int = 500, max_bytes: int = 250_000
) -> TailResult:
    """Read what was written since ``cursor``, or the last ``max_bytes``; the newest ``limit`` lines.

    A cursor beyond the file (a new day has begun) or too far behind starts anew at the end. A line
    that is still being written is left for the next call. Without any file the result is empty, and
    names the directory. Reads a file: to be called in a thread. Raises OSError.
    """
    files = _files(directory)
    if not files:
        return TailResult(str(directory), 0, 0, [], False, False, 0)
    path = files[max(files)]
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        latest = max(0, size - max_bytes)
        start = latest
        reset = cursor is not None and (cursor > size or cursor < latest)
        if cursor is not None and not reset:
            start = cursor
        skipped = latest - cursor if cursor is not None and cursor < latest else 0
        # One byte before the start tells whether a line begins there.
        stream.seek(max(0, start - 1))
        data = stream.read(size - stream.tell())
    lead = data[:1] if start else b"\n"
    data = data[1:] if start else data
    complete = data.rfind(b"\n") + 1
    lines = data[:complete].decode("utf-8", "replace").split("\n")[:-1]
    if lead != b"\n" and lines:
        del lines[0]
    truncated = start > 0 and (cursor is None or reset)
    end = start + complete if complete or not truncated else size
    return TailResult(str(path), end, size, lines[-limit:], truncated, reset, skipped)


def newest_first(directory: Path) -> list[Path]:
    """Return the log files of a directory, the newest first."""
    files = _files(directory)
    return [files[name] for name in sorted(files, reverse=True)]


def _moment(event: LogEvent) -> datetime:
    return datetime.fromtimestamp(event["log_time"], UTC)


def _files(directory: Path) -> dict[tuple[str, int], Path]:
    """Return the log files of a directory by day and part."""
    found = {}
    for path in directory.glob("gateway-*.jsonl"):
        if match := _NAME.fullmatch(path.name):
            found[match[1], int(match[2] or 0)] = path
    return found
