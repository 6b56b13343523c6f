"""One child process of an agent: spawned under the launcher, its pipes, and its certain end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.error import ConnectionDone, ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.agents.pipes import Intake, Outlet, StderrLog
from gateway.interfaces import IClock

TERM_AFTER_S = 1.0
"""How long a child has to end by itself once its standard input is closed."""
KILL_AFTER_S = 2.0
"""How long it has then to heed SIGTERM."""
LINGER_S = 1.0
"""How long something else may hold the pipes of a child that has exited."""
NOTICE_S = 0.5
"""How long after its death its end, read and swept, is waited for before its runs are told."""
OVERRUN_S = 3.0
"""How long the launcher has to end everything; it gives up after 2.5 s itself."""
SWEEP_S = 3.0
"""How long the search for what a killed launcher has left may take."""
MAX_STATUS_BYTES = 100

ALLOWED_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
    *("VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_RUNTIME_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""What a child gets of the gateway's environment, beside ``LC_*``; never a key or a token."""

MARK_VARIABLE = "GATEWAY_PROCESS"
"""In the environment of an agent and of what it starts: which process of the gateway's it belongs to."""

LAUNCH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")))
"""The launcher, whose interpreter takes no module from where the agent may write."""


class Exit(NamedTuple):
    """How a process ended: its exit status, or the number of the signal that ended it; and why, if known."""

    code: int | None
    signal: int | None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.why}: {self._how}" if self.why else self._how

    @property
    def _how(self) -> str:
        if self.signal is None:
            meaning = {126: " (the command can not be run)", 127: " (command not found)"}
            return f"exit status {self.code}{meaning.get(self.code or 0, '')}"
        try:
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        except ValueError:
            return f"signal {self.signal}"


class Command(NamedTuple):
    """What to run. ``env`` is the whole environment of the child."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    secrets: tuple[str, ...] = ()
    """What of ``env`` must not stand in the log, should the child print it."""


class Limits(NamedTuple):
    """What one process may take: bytes of address space, open files, and how nice it is."""

    memory_bytes: int | None = None
    open_files: int | None = None
    nice: int = 0

    def options(self) -> list[str]:
        """Return them as options of the launcher."""
        given = {"--memory": self.memory_bytes, "--files": self.open_files, "--nice": self.nice}
        return [word for name, value in given.items() if value for word in (name, str(value))]


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the gateway's environment that an agent may see."""
    return {
        name: value
        for name, value in environ.items()
        if name in ALLOWED_ENVIRONMENT or name.startswith("LC_")
    }


class ChildProcess(ProcessProtocol):
    """An agent program and all that it starts, under a launcher that stays with them.

    ``on_output`` gets what it writes on standard output; its standard error goes to the log. When it
    has ended and its output is read, ``on_exit`` is called, once: then nothing is left of it nor of what
    it started, and no call is pending on the clock. Where that takes longer than half a second,
    ``on_death`` is called before.

    ``mark`` is text that no other process has: it is put into the environment, to find what is left if
    the launcher is killed.

    :ivar pid: the agent's process id, None until the launcher has told it.
    :ivar launcher_pid: the process id of its parent.
    """

    def __init__(
        self,
        name: str,
        *,
        reactor: Any,
        clock: IClock,
        mark: str,
        on_output: Callable[[bytes], None],
        on_death: Callable[[Exit], None],
        on_exit: Callable[[Exit], None],
        limits: Limits | None = None,
    ) -> None:
        self._log = Logger(namespace=f"gateway.agents.{name}")
        self._stderr = StderrLog(self._log, clock)
        self._reactor = reactor
        self._clock = clock
        self._mark = f"{MARK_VARIABLE}={mark}"
        self._limits = limits or Limits()
        self._on_output = on_output
        self._on_death = on_death
        self._on_exit = on_exit
        self._process: Any = None
        self._outlet: Outlet | None = None
        self._intakes: dict[int, Intake] = {}
        self._told = b""
        self._exit: Exit | None = None
        self._why = ""
        self._launcher: Exit | None = None
        self._status_closed = self._pipes_gone = self._killed = False
        self._sweep: Sweep | None = None
        self._call: IDelayedCall | None = None
        self._notice: IDelayedCall | None = None
        self.pid: int | None = None
        self.launcher_pid: int | None = None

    def spawn(self, command: Command) -> None:
        """Start it. Raises OSError if there can be no new process."""
        self._stderr.hide(command.secrets)
        name, _, mark = self._mark.partition("=")
        options = ["--parent", str(os.getpid()), "--status", "3", *self._limits.options()]
        self._process = process = self._reactor.spawnProcess(
            self,
            sys.executable,
            [*LAUNCH, *options, "--", *command.argv],
            env=dict(command.env) | {name: mark},
            path=command.cwd,
            childFDs={0: "w", 1: "r", 2: "r", 3: "r"},
        )
        self.launcher_pid = process.pid
        self._outlet = Outlet(process.pipes[0])
        for descriptor, handle in ((1, self.outReceived), (2, self.errReceived)):
            self._intakes[descriptor] = Intake(process.pipes[descriptor], self._clock, handle)

    def write(self, data: bytes) -> None:
        """Write to its standard input; nothing once that is closed. Raises InputFull."""
        if self._outlet is not None:
            self._outlet.write(data)

    def stop(self) -> None:
        """Close its input; SIGTERM for its group after 1 s, SIGKILL for all of it after 2 s more."""
        if self._process is not None and not self._ending:
            self.close_input()
            self._arm(TERM_AFTER_S, self._terminate)

    def close_input(self) -> None:
        """Let it see the end of its input; what waits to be written is dropped."""
        self._close_input()
        self._process.closeChildFD(0)

    def kill(self) -> None:
        """End it and all that it started, now."""
        if self._process is not None and not self._ending:
            self._killed = True
            self._arm(OVERRUN_S, self._overrun)
            self._signal(signal.SIGUSR1)

    @property
    def _ending(self) -> bool:
        return self._killed or self._exit is not None or self._launcher is not None

    def childDataReceived(self, child_fd: int, data: bytes) -> None:
        """Hand on what it writes; read what the launcher tells."""
        if child_fd in self._intakes:
            self._intakes[child_fd].take(data)
        else:
            *lines, rest = (self._told + data).split(b"\n")
            self._told = rest[:MAX_STATUS_BYTES]
            for line in lines:
                self._status(line.decode("ascii", "replace"))

    def outReceived(self, data: bytes) -> None:
        """Hand on standard output."""
        self._on_output(data)

    def errReceived(self, data: bytes) -> None:
        """Log standard error."""
        self._stderr.feed(data)

    def childConnectionLost(self, child_fd: int) -> None:
        """A pipe is gone. Without its input or its output it is about to end, or of no use any more."""
        if child_fd in self._intakes:
            self._intakes[child_fd].close()
        if child_fd == 3:
            self._status_closed = True
            self._judge()
        elif child_fd < 2 and self._outlet is not None:
            self._close_input()
            if not self._ending:
                self._arm(LINGER_S, self._kill_useless)

    def processExited(self, reason: Failure) -> None:
        """The launcher is gone; what it has told may still have to be read."""
        value: Any = reason.value
        self._launcher = Exit(value.exitCode, value.signal)
        self._arm(LINGER_S, self._let_go)
        self._judge()

    def _judge(self) -> None:
        """Unless the launcher has said that nothing is left, look for what is."""
        how = self._launcher
        if how is not None and self._status_closed and (self._exit is None or how.code != 0):
            self._log.warn("the launcher ended before its work: {how}", how=how)
            self._died(how)
            self._sweep = Sweep(self._mark, self._log, self._clock, self._finish)
            self._sweep.start(self._reactor)

    def processEnded(self, reason: Failure) -> None:
        """Its output is read to the end."""
        self._pipes_gone = True
        self._arm(None, None)
        self._close_input()
        self._finish()

    def _finish(self) -> None:
        if self._pipes_gone and (self._sweep is None or self._sweep.ended):
            if self._notice is not None and self._notice.active():
                self._notice.cancel()
            self._stderr.flush()
            assert self._exit is not None
            self._on_exit(self._exit)

    def _status(self, line: str) -> None:
        """Take one line of the launcher: ``pid N``, ``exit N``, ``signal N`` or ``left N``."""
        word, _, digits = line.partition(" ")
        number = int(digits) if digits.isdecimal() else 0
        if word == "pid":
            self.pid = number
        elif word == "left":
            self._log.warn("{left} of its processes do not end", left=number)
        elif word in ("exit", "signal"):
            # The launcher ends the rest now, in milliseconds unless that resists.
            self._died(Exit(number, None) if word == "exit" else Exit(None, number))
            if self._launcher is None:
                self._arm(OVERRUN_S, self._overrun)

    def _died(self, how: Exit) -> None:
        if self._exit is None:
            self._exit = how._replace(why=self._why)
            self._close_input()
            self._announce(self._exit)

    def _announce(self, how: Exit) -> None:
        if self._notice is None:
            self._notice = self._clock.callLater(NOTICE_S, self._on_death, how)

    def _close_input(self) -> None:
        """Write no more."""
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            outlet.close()

    def _terminate(self) -> None:
        self._log.warn("does not end by itself: SIGTERM, pid={pid}", pid=self.pid)
        self._arm(KILL_AFTER_S, self._kill_late)
        self._signal(signal.SIGTERM)

    def _kill_late(self) -> None:
        self._call = None
        self._log.warn("does not heed SIGTERM: SIGKILL, pid={pid}", pid=self.pid)
        self.kill()

    def _kill_useless(self) -> None:
        self._call = None
        self._log.warn("has closed its input or its output: SIGKILL, pid={pid}", pid=self.pid)
        self._why = "it had closed its input or its output"
        # A launcher that does not run tells nothing, and nobody has to wait for it.
        self._announce(Exit(None, int(signal.SIGKILL), self._why))
        self.kill()

    def _overrun(self) -> None:
        self._call = None
        self._log.warn("the launcher of pid={pid} does not end: SIGKILL", pid=self.pid)
        self._signal(signal.SIGKILL)

    def _let_go(self) -> None:
        self._call = None
        self._log.warn("something else holds the pipes of pid={pid}", pid=self.pid)
        for intake in self._intakes.values():
            intake.close()
        for descriptor in (1, 2, 3):
            self._process.closeChildFD(descriptor)
        if 0 in self._process.pipes:
            # To close it would be to wait until what is left has been read.
            self._process.pipes[0].connectionLost(Failure(ConnectionDone()))

    def _signal(self, number: signal.Signals) -> None:
        try:
            self._process.signalProcess(int(number))
        except ProcessExitedAlready:
            self._log.debug("the launcher of pid={pid} has ended already", pid=self.pid)

    def _arm(self, delay: float | None, call: Callable[[], None] | None) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if delay is not None and call is not None:
            self._call = self._clock.callLater(delay, call)


class Sweep(ProcessProtocol):
    """Ends what has a mark in its environment, by a process of its own: the loop does not wait for /proc.

    ``on_end`` is called when it is done, or was given up.

    :ivar ended: whether it is done.
    """

    def __init__(self, mark: str, log: Logger, clock: IClock, on_end: Callable[[], None]) -> None:
        self._mark = mark
        self._log = log
        self._clock = clock
        self._on_end = on_end
        self._process: Any = None
        self._deadline: IDelayedCall | None = None
        self.ended = False

    def start(self, reactor: Any) -> None:
        """Start it. Where no process can be had, that is logged, and it is given up."""
        argv = [*LAUNCH, "--sweep", self._mark]
        try:
            self._process = reactor.spawnProcess(self, sys.executable, argv, env={}, path="/")
        except OSError as error:
            self._log.error("its processes can not be looked for: {why}", why=error.strerror)
            self.ended = True
        else:
            self._deadline = self._clock.callLater(SWEEP_S, self._give_up)

    def errReceived(self, data: bytes) -> None:
        """Log what it has to say."""
        self._log.warn("{line}", line=data[:1000].decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        """It is done."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if not reason.check(ProcessDone):
            self._log.error("some of its processes may be left")
        self.ended = True
        self._on_end()

    def _give_up(self) -> None:
        try:
            self._process.signalProcess("KILL")
        except ProcessExitedAlready:
            self._log.debug("the search for its processes has just ended")
