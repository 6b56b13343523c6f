"""One child process of an agent: spawned under the launcher, its pipes, and its certain end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.interfaces import IClock

TERM_AFTER_S = 1.0
"""How long a child has to end by itself once its standard input is closed."""
KILL_AFTER_S = 2.0
"""How long it has then to heed SIGTERM."""
LINGER_S = 1.0
"""How long something else may hold the pipes of a child that has exited."""
STDERR_LINE_CHARS = 1000
STDERR_LINES_PER_WINDOW = 200
STDERR_WINDOW_S = 10.0

ALLOWED_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_RUNTIME_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""What a child gets of the gateway's environment, beside ``LC_*``; never a key or a token."""

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Exit(NamedTuple):
    """How a process ended: its exit status, or the number of the signal that ended it."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {self.code}"
        try:
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        except ValueError:
            return f"signal {self.signal}"


class Command(NamedTuple):
    """What to run. ``env`` is the whole environment of the child."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the gateway's environment that an agent may see."""
    return {
        name: value
        for name, value in environ.items()
        if name in ALLOWED_ENVIRONMENT or name.startswith("LC_")
    }


class ChildProcess(ProcessProtocol):
    """A child in a session of its own.

    ``on_output`` gets what it writes on standard output; its standard error goes to the log. When it
    has exited and its output is read, ``on_exit`` is called, once: then nothing is left of it or of
    its process group, and no call is pending on the clock.

    :ivar pid: its process id, which is its process group's too.
    """

    def __init__(
        self,
        name: str,
        *,
        reactor: Any,
        clock: IClock,
        on_output: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        kill_group: Callable[[int, int], None] = os.killpg,
    ) -> None:
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._stderr = StderrLog(self._log, clock)
        self._reactor = reactor
        self._clock = clock
        self._on_output = on_output
        self._on_exit = on_exit
        self._kill_group = kill_group
        self._process: IProcessTransport | None = None
        self._input_open = False
        self._exit: Exit | None = None
        self._call: IDelayedCall | None = None
        self.pid: int | None = None

    def spawn(self, command: Command) -> None:
        """Start it. Raises OSError if there can be no new process."""
        launch = [sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid()), "--"]
        self._process = self._reactor.spawnProcess(
            self,
            sys.executable,
            [*launch, *command.argv],
            env=dict(command.env),
            path=command.cwd,
        )
        self.pid = self._process.pid
        self._input_open = True

    def write(self, data: bytes) -> None:
        """Write to its standard input; nothing once that is closed."""
        if self._process is not None and self._input_open:
            self._process.writeToChild(0, data)

    def stop(self) -> None:
        """Close its input; SIGTERM for its group after 1 s, SIGKILL after 2 s more."""
        if self._process is not None and self._exit is None:
            self._input_open = False
            self._process.closeChildFD(0)
            self._arm(TERM_AFTER_S, self._terminate)

    def kill(self) -> None:
        """End it and its group now."""
        if self._exit is None:
            self._signal(signal.SIGKILL)

    def outReceived(self, data: bytes) -> None:
        """Hand on standard output."""
        self._on_output(data)

    def errReceived(self, data: bytes) -> None:
        """Log standard error."""
        self._stderr.feed(data)

    def childConnectionLost(self, child_fd: int) -> None:
        """A pipe is gone. Without its standard input it is about to end, or deaf for good."""
        if child_fd == 0 and self._input_open:
            self._input_open = False
            self._arm(LINGER_S, self.kill)

    def processExited(self, reason: Failure) -> None:
        """It is gone; what it started goes too, so that the pipes close."""
        value: Any = reason.value
        self._exit = Exit(value.exitCode, value.signal)
        self._signal(signal.SIGKILL)
        self._arm(LINGER_S, self._let_go)

    def processEnded(self, reason: Failure) -> None:
        """Its output is read to the end."""
        self._arm(None, None)
        self._stderr.flush()
        assert self._exit is not None
        self._on_exit(self._exit)

    def _terminate(self) -> None:
        self._log.warn("does not end by itself: SIGTERM, pid={pid}", pid=self.pid)
        self._arm(KILL_AFTER_S, self._kill_late)
        self._signal(signal.SIGTERM)

    def _kill_late(self) -> None:
        self._call = None
        self._log.warn("does not heed SIGTERM: SIGKILL, pid={pid}", pid=self.pid)
        self.kill()

    def _let_go(self) -> None:
        self._call = None
        self._log.warn("something else holds the pipes of pid={pid}", pid=self.pid)
        if self._process is not None:
            self._process.loseConnection()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole group; only the child itself while it has not made its group yet."""
        if self.pid is None or self._process is None:
            return
        try:
            self._kill_group(self.pid, number)
        except ProcessLookupError:
            if self._exit is None:
                try:
                    self._process.signalProcess(number.name.removeprefix("SIG"))
                except ProcessExitedAlready:
                    self._log.debug("pid={pid} has exited already", pid=self.pid)
        except PermissionError:
            self._log.warn("the process group of pid={pid} holds what is not ours", pid=self.pid)

    def _arm(self, delay: float | None, call: Callable[[], None] | None) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if delay is not None and call is not None:
            self._call = self._clock.callLater(delay, call)


class StderrLog:
    """Logs a child's standard error line by line: lines cut at 1000 characters, at most 200 in 10 s."""

    def __init__(self, log: Logger, clock: IClock) -> None:
        self._log = log
        self._clock = clock
        self._rest = b""
        self._window_end = 0.0
        self._lines = 0

    def feed(self, data: bytes) -> None:
        """Log the lines that ``data`` completes."""
        *lines, rest = data.split(b"\n")
        for line in lines:
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
        now = self._clock.seconds()
        if now >= self._window_end:
            self._left_out()
            self._window_end, self._lines = now + STDERR_WINDOW_S, 0
        self._lines += 1
        if self._lines <= STDERR_LINES_PER_WINDOW:
            shown = "".join(
                char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text
            )
            if len(shown) > STDERR_LINE_CHARS:
                shown = shown[:STDERR_LINE_CHARS] + "…"
            self._log.info("{line}", line=shown)

    def _left_out(self) -> None:
        if self._lines > STDERR_LINES_PER_WINDOW:
            left_out = self._lines - STDERR_LINES_PER_WINDOW
            self._log.warn("{left_out} more lines left out", left_out=left_out)
        self._lines = 0
