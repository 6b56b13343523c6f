"""A gateway as users run it: ``twistd gateway`` in a process and a directory of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

import gateway
from gateway.client import OPERATOR_SCOPES, ClientOptions, Credentials
from gateway.client.chat import message_text
from gateway.client.twisted import Client, connect

ROOT = Path(gateway.__file__).parent.parent
TWISTD = Path(sys.executable).parent / "twistd"
MARK = "LC_GATEWAY_TEST"
"""A variable that agents inherit too, so that whatever a daemon leaves behind is found by it."""
START_S = 30.0
STOP_S = 20.0
"""Twice what a daemon takes to start or stop on a machine that is busy with much else."""
POLL_S = 0.01
Record = dict[str, Any]


class Answer(NamedTuple):
    """What a probe answered."""

    status: int
    body: Any


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


class World:
    """What a daemon sees of the machine: a home, and no configuration of anybody else's."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.mark = uuid4().hex
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GATEWAY_", "XDG_", "PYTHON"))
        }
        self.environ = kept | {
            "HOME": str(directory),
            "XDG_STATE_HOME": str(directory / "xdg"),
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
            **environ,
        }

    def processes(self) -> list[str]:
        """Return the command lines of the processes that were started here and have not ended."""
        wanted = f"{MARK}={self.mark}".encode()
        return [
            _read(entry / "cmdline").replace(b"\0", b" ").decode("utf-8", "replace")
            for entry in Path("/proc").glob("[0-9]*")
            if wanted in _read(entry / "environ").split(b"\0")
        ]

    def run(self, *command: str | Path) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


class Daemon:
    """``twistd -n gateway`` with some options; ready when the constructor returns.

    Without ``state`` it is expected where the environment says, without ``port`` it listens on a free
    one. ``ready`` is the probe that has to answer 200.
    """

    def __init__(
        self,
        directory: Path,
        *options: str | Path,
        port: int | None = None,
        state: Path | None = None,
        ready: str = "/readyz",
        **environ: str,
    ) -> None:
        self.port = port or free_port()
        if port is None:
            environ.setdefault("GATEWAY_LISTEN", f"127.0.0.1:{self.port}")
        self.world = World(directory, **environ)
        self.state = state or directory / "xdg" / "gateway"
        self._output = directory / f"output-{self.world.mark}"
        started = time.monotonic()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [TWISTD, "-n", "gateway", *options],
                cwd=directory,
                env=self.world.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            until(lambda: self._answers(ready), START_S, self.report)
        except BaseException:
            self.kill()
            raise
        self.started_in_s = time.monotonic() - started

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The token that it made."""
        return (self.state / "token").read_text().strip()

    @property
    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(errors="replace")

    @property
    def rss_mb(self) -> float:
        """The memory it holds, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def records(self) -> list[Record]:
        """Return the lines of its structured log, oldest first."""
        return log_records(self.state)

    def lines(self, start: str) -> list[str]:
        """Return the messages of the log that start so."""
        return [line for each in self.records() if (line := each["message"]).startswith(start)]

    def probe(self, path: str, method: str = "GET") -> Answer:
        """Ask a probe."""
        return probe(self.port, path, method)

    def connect(self, reactor: Any, **options: Any) -> Any:
        """Connect a client that may do everything; returns a Deferred of it."""
        return join(reactor, self.url, self.token, **options)

    def report(self) -> str:
        """Return what it printed and how it ended, for a test that failed."""
        return f"exit status {self.process.poll()}\n{self.output}"

    def stop(self) -> float:
        """Send SIGTERM, and check that nothing stays and nothing went wrong; return the seconds."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop\n{self.report()}") from None
        seconds = time.monotonic() - started
        assert self.process.returncode == -signal.SIGTERM, self.report()
        self.check()
        return seconds

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait()

    def _answers(self, ready: str) -> bool:
        assert self.process.poll() is None, self.report()
        return self.probe(ready).status == http.client.OK

    def check(self) -> None:
        """Check that no process stays, and that no traceback was printed or logged."""
        until(lambda: not self.world.processes(), STOP_S, lambda: str(self.world.processes()))
        assert_clean(self.output, self.state)


@contextmanager
def running(directory: Path, *options: str | Path, **how: Any) -> Iterator[Daemon]:
    """Run a daemon; whatever happens, it is gone afterwards."""
    daemon = Daemon(directory, *options, **how)
    try:
        yield daemon
        if daemon.process.poll() is None:
            daemon.stop()
    finally:
        if daemon.process.poll() is None:
            daemon.kill()

    # Here only where nothing was raised: the test has ended it, or stop() above has checked it.
    daemon.check()


def join(reactor: Any, url: str, token: str | None, **options: Any) -> Any:
    """Connect a client that asks for every scope; returns a Deferred of it.

    ``protocol`` is the only version that it speaks, ``endpoint`` where it connects instead of to the URL.
    """
    endpoint = options.pop("endpoint", None)
    if protocol := options.pop("protocol", None):
        options |= {"min_protocol": protocol, "max_protocol": protocol}
    options.setdefault("scopes", OPERATOR_SCOPES)
    made = ClientOptions(credentials=Credentials(token=token), **options)
    return connect(reactor, url, made, endpoint=endpoint)


class Watched:
    """The events of one client, and how its connection ended."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: list[Any] = []
        client.on_event(self.events.append)
        self.closed = client.when_closed()

    def payloads(self, name: str) -> list[Any]:
        """Return the payloads of the events of a name."""
        return [event.payload for event in self.events if event.name == name]

    def chat(self, run_id: str, *states: str) -> list[Any]:
        """Return the chat events of a run in these states."""
        found = [each for each in self.payloads("chat") if each["runId"] == run_id]
        return [each for each in found if each["state"] in states]

    def text(self, run_id: str) -> str:
        """Return the answer of a run as far as it was shown."""
        events = self.chat(run_id, "delta", "final", "aborted")
        texts = [message_text(event.get("message")) for event in events]
        return next((text for text in reversed(texts) if text), "")


def log_records(state: Path) -> list[Record]:
    """Return the lines of a state directory's structured log, oldest first."""
    text = "".join(path.read_text() for path in sorted(state.glob("logs/*.jsonl")))
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def assert_clean(output: str, state: Path) -> None:
    """Check that nothing unexpected was printed or logged."""
    for word in ("Traceback", "Unhandled", "Warning:"):
        assert word not in output, output
    failures = [each for each in log_records(state) if "traceback" in each]
    assert not failures, f"{failures}\n{output}"


def probe(port: int, path: str, method: str = "GET") -> Answer:
    """Ask a probe on loopback; status 0 if nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        kind = response.getheader("content-type") or ""
        return Answer(response.status, json.loads(body) if body and "json" in kind else body)
    except OSError:
        return Answer(0, None)
    finally:
        connection.close()


def until(
    condition: Callable[[], object], within_s: float, report: Callable[[], str] = str
) -> None:
    """Wait until something holds that nobody tells of."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, report()
        time.sleep(POLL_S)


async def soon(
    reactor: Any, condition: Callable[[], object], report: Callable[[], str] = str
) -> None:
    """As ``until``, while the test's own reactor turns."""
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, report()
        await deferLater(reactor, POLL_S, lambda: None)


def waited(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    """Do what belongs to asyncio, whose loop the reactor runs on."""
    return Deferred.fromFuture(asyncio.ensure_future(work))


def free_port() -> int:
    """Return a port that nothing listens on, out of those that no connection is given by itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
