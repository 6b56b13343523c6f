"""The gateway's ends of an agent's pipes: none of them can hold the loop, or fill the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from gateway.interfaces import IClock

TURN_S = 0.002
"""How long the output of one process may be worked at before it is left alone for a while."""
REST = 3.0
"""How much longer it is left alone than it was worked at."""
MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""What may wait for a process that does not read its input."""

SECRET_CHARS_MIN = 8
STDERR_LINE_CHARS = 1000
STDERR_LINES_PER_WINDOW = 200
STDERR_WINDOW_S = 10.0


class InputFull(Exception):
    """So much waits for the process already that it can not be given more."""


@implementer(IPushProducer)
class Outlet:
    """Writes to a process as fast as it reads. At most 64 MiB wait, beside the 64 KiB of the transport.

    ``pipe`` is the writer of one of its descriptors, a Twisted IConsumer.
    """

    def __init__(self, pipe: Any, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._pipe = pipe
        self._max = max_bytes
        self._waiting: deque[bytes] = deque()
        self._paused = False
        self._open = True
        self.queued = 0
        """Bytes that wait."""
        pipe.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Write, or keep it until there is room; nothing once closed. Raises InputFull."""
        if not self._open:
            return
        if not self._paused:
            self._pipe.write(data)
        elif self.queued + len(data) > self._max:
            raise InputFull(f"more than {self._max} bytes wait for it")
        else:
            self._waiting.append(data)
            self.queued += len(data)

    def close(self) -> None:
        """Drop what waits, and let go of the pipe; it is left to the caller to close it."""
        if self._open:
            self._open = False
            self._drop()
            self._pipe.unregisterProducer()

    def pauseProducing(self) -> None:
        """Keep what is written from now on."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Write what was kept."""
        self._paused = False
        while self._waiting and not self._paused:
            data = self._waiting.popleft()
            self.queued -= len(data)
            self._pipe.write(data)

    def stopProducing(self) -> None:
        """Forget what waits: nobody will read it."""
        self._open = False
        self._drop()

    def _drop(self) -> None:
        self._waiting.clear()
        self.queued = 0


class Intake:
    """Hands on what one pipe brings, and sees that it takes a quarter of the loop's time at most.

    The reactor reads 8 KiB at a time. When :data:`TURN_S` was spent on them, the pipe is not read for
    three times as long; meanwhile it fills, and the process waits. Less than that costs nothing.
    """

    def __init__(self, pipe: Any, clock: IClock, handle: Callable[[bytes], None]) -> None:
        self._pipe = pipe
        self._clock = clock
        self._handle = handle
        self._spent = 0.0
        self._rest: IDelayedCall | None = None
        self._open = True

    def take(self, data: bytes) -> None:
        """Hand on what was read."""
        before = self._clock.seconds()
        self._handle(data)
        self._spent += self._clock.seconds() - before
        if self._spent >= TURN_S and self._rest is None and self._open:
            self._pipe.stopReading()
            self._rest = self._clock.callLater(self._spent * REST, self._go_on)

    def close(self) -> None:
        """The pipe is gone, or about to be: it is not read again."""
        self._open = False
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _go_on(self) -> None:
        self._rest = None
        self._spent = 0.0
        self._pipe.startReading()


class StderrLog:
    """Logs a child's standard error line by line: lines cut at 1000 characters, at most 200 in 10 s."""

    def __init__(self, log: Logger, clock: IClock) -> None:
        self._log = log
        self._secrets: list[str] = []
        self._clock = clock
        self._rest = b""
        self._window_end = 0.0
        self._lines = 0

    def hide(self, secrets: Iterable[str]) -> None:
        """Leave these out: a child is given keys, and many a program prints them when it fails.

        One of less than 8 characters is left in, as it may be a word.
        """
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        long = (text for text in lines if len(text) >= SECRET_CHARS_MIN)
        self._secrets = sorted(long, key=len, reverse=True)

    def feed(self, data: bytes) -> None:
        """Log the lines that ``data`` completes."""
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines):
            if self._full():
                # Nobody will read them: they are not worth looking at either.
                self._lines += len(lines) - number
                self._rest = b""
                break
            self._line(self._rest + line)
            self._rest = b""
        self._rest = (self._rest + rest)[: 4 * STDERR_LINE_CHARS]

    def flush(self) -> None:
        """Log what is left without a newline, and what was left out."""
        self._line(self._rest)
        self._rest = b""
        self._left_out()

    def _line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if not text:
            return
        full = self._full()
        self._lines += 1
        if not full:
            for secret in self._secrets:
                text = text.replace(secret, "[redacted]")
            shown = "".join(
                char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
            )
            if len(shown) > STDERR_LINE_CHARS:
                shown = shown[:STDERR_LINE_CHARS] + "…"
            self._log.info("{line}", line=shown)

    def _full(self) -> bool:
        now = self._clock.seconds()
        if now >= self._window_end:
            self._left_out()
            self._window_end = now + STDERR_WINDOW_S
        return self._lines >= STDERR_LINES_PER_WINDOW

    def _left_out(self) -> None:
        if self._lines > STDERR_LINES_PER_WINDOW:
            left_out = self._lines - STDERR_LINES_PER_WINDOW
            self._log.warn("{left_out} more lines left out", left_out=left_out)
        self._lines = 0
