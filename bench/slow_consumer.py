"""One client in a hundred stops reading: what it costs the gateway, and the others.

    python -m bench.slow_consumer [--runs 5] [--clients 99] [--cap 1048576] [--json FILE]

Run it from the repository's root. Each run starts ``twistd gateway`` afresh, with ``limits.outbox_bytes``
at the cap, lets the clients in (in a process of their own), and publishes 20 times the cap in messages
of 16 KiB by ``chat.inject``: events ``chat``, of class ``must``. The next is published when all who read
have the last one, so what is measured is the fan-out, not a queue. Runs with and without a client that
stops reading alternate.

The slow client reads nothing until the gateway has closed it and half a second more, reads on to the end
of its stream, connects again, and looks for every message: in what it read before, in the history, in
what it hears from then on. Where the gateway has ``connection.resume`` it is called, too. In a run without
it some client reads the history at the end, so that this is not taken for a cost of being slow.

The exit status is 1 if a bound does not hold:

- ``gateway_outbox_bytes``, scraped every 50 ms, is never over the cap;
- the highest memory of the runs with the slow client exceeds that of those without by at most the cap
  and 8 MiB (medians);
- the others' median latency is within 25 %, and their p99 within twice that of the control runs (medians
  of the runs);
- the slow client sees 1008, ``slow consumer``, and misses no message; nobody else is closed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.daemon import Daemon
from tests.net.gate import FrameReader
from tests.net.wire import close_frame, masked, upgrade

MESSAGE = 16 * 1024
KEY = "agent:main:main"
SCOPES = ["operator.admin", "operator.read", "operator.write"]
STAMP = re.compile(rb"#(\d+)@(\d+)#")
MARGIN = 8 * 1024 * 1024
PAGE = 100


class Line:
    """A WebSocket client on a blocking socket."""

    def __init__(self, port: int, token: str, *, receive: int = 0) -> None:
        self.socket = socket.socket()
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(upgrade())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65_536)
        self._reader = FrameReader()
        self._frames = self._reader.feed(data.partition(b"\r\n\r\n")[2])
        self.numbers: list[int] = []
        """The messages that were heard."""
        self.closed: tuple[int, str] | None = None
        client = {"id": "cli", "version": "1", "platform": "bench", "mode": "cli"}
        params = {"minProtocol": 4, "maxProtocol": 4, "client": client, "scopes": SCOPES}
        self.hello = self.call("connect", params | {"auth": {"token": token}})

    def call(self, method: str, params: Any) -> Any:
        """Send a request and return the payload of its answer; what is heard meanwhile is noted."""
        frame_id = f"{method} {time.monotonic_ns()}"
        request = {"type": "req", "id": frame_id, "method": method, "params": params}
        self.socket.sendall(masked(json.dumps(request).encode()))
        while True:
            for payload in self.hear():
                if payload.startswith(b'{"type":"res"'):
                    answer = json.loads(payload)
                    if answer["id"] == frame_id:
                        if not answer["ok"]:
                            raise RuntimeError(f"{method}: {answer['error']}")
                        return answer["payload"]
            self.read()

    def hear(self) -> list[bytes]:
        """Return the messages that are there, and note numbers, pings and the close."""
        frames, self._frames = self._frames, []
        for opcode, payload in frames:
            if opcode == 8:
                self.closed = int.from_bytes(payload[:2], "big"), payload[2:].decode()
            elif opcode == 9:
                self.socket.sendall(masked(payload, 10))
            elif payload.startswith(b'{"type":"event","event":"chat"'):
                found = STAMP.search(payload)
                if found:
                    self.numbers.append(int(found[1]))
        return [payload for opcode, payload in frames if opcode == 1]

    def read(self) -> bool:
        """Read once; return False at the end of the stream."""
        try:
            data = self.socket.recv(262_144)
        except ConnectionResetError:
            return False
        self._frames += self._reader.feed(data)
        return bool(data)

    def history(self) -> list[int]:
        """Return the numbers of all messages of the session, oldest first."""
        numbers: list[int] = []
        while True:
            params = {"sessionKey": KEY, "limit": PAGE, "offset": len(numbers)}
            page = [
                int(found[1])
                for message in self.call("chat.history", params)["messages"]
                if (found := STAMP.search(json.dumps(message).encode()))
            ]
            if not page:
                return numbers
            numbers = page + numbers


def crowd(port: int, token: str, clients: int, count: int, arrived: Any, results: Any) -> None:
    """Be so many clients that read; ``arrived`` counts the messages that came, to all of them together."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        line = Line(port, token)
        line.socket.setblocking(False)
        selector.register(line.socket, selectors.EVENT_READ, bytearray())
    results.send("ready")
    latencies: list[float] = []
    closed = 0
    while len(latencies) < clients * count and not closed:
        for key, _ in selector.select(10):
            data = key.fileobj.recv(262_144)  # type: ignore[union-attr]
            closed += not data
            buffer: bytearray = key.data
            buffer += data
            now = time.monotonic_ns()
            while len(buffer) >= 4:
                size, start = buffer[1], 2
                if size > 125:
                    start = 4 if size == 126 else 10
                    size = int.from_bytes(buffer[2:start], "big")
                if len(buffer) < start + size:
                    break
                closed += buffer[0] & 15 == 8
                found = STAMP.search(buffer, start, min(start + size, start + 600))
                if found:
                    latencies.append((now - int(found[2])) / 1e6)
                del buffer[: start + size]
        arrived.value = len(latencies)
    results.send((closed, latencies))


@dataclass
class Run:
    """What one run measured; times in milliseconds, memory in bytes."""

    slow: bool
    median: float = 0.0
    p99: float = 0.0
    rss: int = 0
    seconds: float = 0.0
    gauge: int = 0
    scrapes: int = 0
    closed: tuple[int, str] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    resumed: str = ""
    wrong: list[str] = field(default_factory=list)


class Watch(threading.Thread):
    """Scrapes the gauge, and sees when the slow client is closed."""

    def __init__(self, daemon: Daemon, run: Run) -> None:
        super().__init__(daemon=True)
        self._request = urllib.request.Request(
            f"http://127.0.0.1:{daemon.port}/metrics",
            headers={"Authorization": f"Bearer {daemon.token}"},
        )
        self._run = run
        self.closed = threading.Event()
        self.done = threading.Event()

    def run(self) -> None:
        """Scrape until it is done."""
        while not self.done.wait(0.05):
            with urllib.request.urlopen(self._request, timeout=10) as answer:
                text = answer.read().decode()
            for line in text.splitlines():
                name, _, value = line.rpartition(" ")
                if name == "gateway_outbox_bytes":
                    self._run.gauge = max(self._run.gauge, int(float(value)))
                    self._run.scrapes += 1
                elif name == 'gateway_outbox_dropped_total{class="must"}':
                    self._run.dropped["must"] = int(float(value))
                    self.closed.set()


class Slow(threading.Thread):
    """The client that stops reading, and comes back."""

    def __init__(self, daemon: Daemon, run: Run, watch: Watch, count: int) -> None:
        super().__init__(daemon=True)
        self._daemon, self._run, self._watch, self._count = daemon, run, watch, count
        self._line = Line(daemon.port, daemon.token, receive=4096)

    def run(self) -> None:
        """Live through it."""
        if not self._watch.closed.wait(300):
            self._run.wrong.append("the slow client was never closed")
            return
        time.sleep(0.5)
        line = self._line
        while line.closed is None and line.read():
            line.hear()
        self._run.closed = line.closed
        if line.closed is not None:
            line.socket.sendall(close_frame(1000))
        line.socket.close()
        back = Line(self._daemon.port, self._daemon.token)
        if "connection.resume" in back.hello["features"]["methods"]:
            answer = back.call("connection.resume", {"runs": [], "sessions": [KEY]})
            self._run.resumed = json.dumps(answer)
            if answer.get("sessions") != [KEY]:
                self._run.wrong.append(f"connection.resume answered {answer}")
        missed = back.history()
        while not {*missed, *back.numbers} >= {self._count - 1}:
            if not back.read():
                self._run.wrong.append("the slow client was closed a second time")
                return
            back.hear()
        known = {*line.numbers, *missed, *back.numbers}
        if known != set(range(self._count)):
            self._run.wrong.append(f"{self._count - len(known)} messages are missing")
        if line.numbers != list(range(len(line.numbers))):
            self._run.wrong.append("before the close there was a hole")
        if back.history() != list(range(self._count)):
            self._run.wrong.append("the history is not complete and in order")
        back.socket.close()


def measure(directory: Path, clients: int, cap: int, *, slow: bool) -> Run:
    """Run once."""
    directory.mkdir()
    config = directory / "gateway.toml"
    config.write_text(f"[limits]\noutbox_bytes = {cap}\n")
    run, count = Run(slow), 20 * cap // MESSAGE
    daemon = Daemon(directory, "--config", config)
    try:
        spawn = multiprocessing.get_context("spawn")
        arrived, (results, theirs) = spawn.Value("q", 0), spawn.Pipe()
        args = (daemon.port, daemon.token, clients, count, arrived, theirs)
        listeners = spawn.Process(target=crowd, args=args, daemon=True)
        listeners.start()
        results.recv()
        publisher = Line(daemon.port, daemon.token)
        publisher.call("sessions.create", {"key": KEY})
        watch = Watch(daemon, run)
        victim = Slow(daemon, run, watch, count) if slow else None
        watch.start()
        if victim:
            victim.start()
        begin = time.monotonic()
        publish(publisher, clients, count, arrived, listeners)
        run.seconds = round(time.monotonic() - begin, 1)
        closed, latencies = results.recv()
        listeners.join(30)
        if victim:
            victim.join(120)
        else:  # the control run has a client that reads the history, too
            reader = Line(daemon.port, daemon.token)
            reader.history()
            reader.socket.close()
        watch.done.set()
        watch.join()
        if closed:
            run.wrong.append(f"{closed} clients that read were closed")
        latencies.sort()
        run.median = round(statistics.median(latencies), 3)
        run.p99 = round(latencies[len(latencies) * 99 // 100], 3)
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        run.rss = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        publisher.socket.close()
    finally:
        daemon.kill()
    return run


def publish(line: Line, clients: int, count: int, arrived: Any, listeners: Any) -> None:
    """Publish message after message, each when all have the last."""
    for number in range(count):
        stamp = f"#{number}@{time.monotonic_ns()}#"
        text = stamp + "x" * (MESSAGE - len(stamp))
        line.call("chat.inject", {"sessionKey": KEY, "message": text})
        while arrived.value < clients * (number + 1):
            if not listeners.is_alive():
                return
            time.sleep(0.0002)


def judge(runs: list[Run], cap: int) -> list[str]:
    """Return what does not hold."""
    wrong = [text for run in runs for text in run.wrong]

    def middle(name: str, slow: bool) -> float:
        return float(statistics.median(getattr(run, name) for run in runs if run.slow is slow))

    extra = middle("rss", True) - middle("rss", False)
    ratio = middle("median", True) / middle("median", False)
    tail = middle("p99", True) / middle("p99", False)
    gauge = max(run.gauge for run in runs)
    print(f"highest gauge {gauge:,} of {cap:,} bytes; memory {extra / 1024:+,.0f} KiB")
    print(f"the others' median {ratio:.2f} times, p99 {tail:.2f} times that of the control runs")
    if gauge > cap:
        wrong.append("the gauge was over the cap")
    if extra > cap + MARGIN:
        wrong.append("the slow client cost more memory than the cap and 8 MiB")
    if not 0.75 <= ratio <= 1.25:
        wrong.append("the median of the others moved by more than 25 %")
    if tail > 2:
        wrong.append("the p99 of the others more than doubled")
    for run in runs:
        if run.slow and run.closed != (1008, "slow consumer"):
            wrong.append(f"the slow client saw {run.closed}")
    return wrong


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=99)
    parser.add_argument("--cap", type=int, default=1_048_576)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(2 * options.runs):
            place = Path(directory, str(number))
            run = measure(place, options.clients, options.cap, slow=number % 2 == 1)
            runs.append(run)
            print(
                f"{'slow' if run.slow else 'control':8} median {run.median:7.3f} ms  "
                f"p99 {run.p99:8.3f} ms  memory {run.rss / 1048576:6.1f} MiB  gauge {run.gauge:9,}  "
                f"scrapes {run.scrapes:4}  {run.seconds} s  {run.closed or ''} {run.dropped or ''}",
                flush=True,
            )
    wrong = judge(runs, options.cap)
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    for text in wrong:
        print("NOT HELD:", text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
