"""Strangers besiege the door: what a client that is in notices of it.

    python -m bench.door_flood [--runs 5] [--sockets 10000] [--opens 2000] [--seconds 15] [--json FILE]

Run it from the repository's root, with room for the sockets (``ulimit -n``). Each run starts ``twistd
gateway`` afresh. A client that is authenticated calls ``health`` every 10 ms and notes how long the answer
takes; another person connects anew each second and notes whether that works. Three scenes take turns:

- ``control``: nobody else is there;
- ``loris``: a process holds so many sockets, from a hundred addresses, each of which sends a byte of a
  request head every 10 s; what the gateway closes it opens again, at most ``--opens`` a second;
- ``headers``: a process writes heads that never end, from 50 sockets, as fast as they are read. Its send
  buffers are small: a real sender's lie in another machine's kernel, while one's here would be freed at
  the cost of this one, in the midst of what the gateway does.

The exit status is 1 if a bound does not hold:

- the median of the runs' p99 of ``health`` under either flood is at most twice that of the control runs;
- the gateway's memory grows by at most 128 MiB;
- three seconds after the flood its descriptors are as many as before, give or take ten;
- nobody who was in was closed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.slow_consumer import Line
from tests.integration.daemon import Daemon
from tests.net.wire import upgrade

SCENES = ("control", "loris", "headers")
HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: "
BYTE_S = 10.0
SEND_BUFFER = 8192
FILL_S = 10.0
GROWTH = 128 * 1024 * 1024
SETTLE_S = 3.0
P99_RATIO = 2.0


@dataclass
class Run:
    """What one run measured; times in milliseconds, memory in bytes."""

    scene: str
    calls: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    newcomers: int = 0
    refused: int = 0
    held: int = 0
    """Most sockets that the flood held at once."""
    opened: int = 0
    growth: int = 0
    gateway_cpu: float = 0.0
    descriptors: tuple[int, int] = (0, 0)
    wrong: list[str] = field(default_factory=list)


def loris(port: int, sockets: int, opens: float, held: Any, opened: Any) -> None:
    """Hold sockets that are always about to say something."""
    os.nice(5)
    selector = selectors.DefaultSelector()
    due: deque[tuple[float, socket.socket]] = deque()
    allowance, before = 0.0, time.monotonic()
    while True:
        now = time.monotonic()
        allowance, before = min(opens / 10, allowance + (now - before) * opens), now
        while allowance >= 1 and held.value < sockets:
            allowance -= 1
            opened.value += 1
            try:
                new = socket.socket()
                new.setblocking(False)
                new.bind((f"127.{opened.value % 10}.{opened.value // 10 % 10}.2", 0))
                new.connect_ex(("127.0.0.1", port))
            except OSError:
                new.close()
                break
            held.value += 1
            selector.register(new, selectors.EVENT_READ)
            due.append((now + 0.2, new))
        for key, _ in selector.select(0.01):
            stranger: Any = key.fileobj
            with suppress(OSError):
                if stranger.recv(4096):
                    continue
            selector.unregister(stranger)
            stranger.close()
            held.value -= 1
        while due and due[0][0] <= now:
            _, stranger = due.popleft()
            if stranger.fileno() >= 0:
                with suppress(OSError):
                    stranger.send(HEAD[:1] if now % 2 else b"G")
                due.append((now + BYTE_S, stranger))


def headers(port: int, sockets: int, _opens: float, held: Any, opened: Any) -> None:
    """Write heads without end, and begin anew whenever one is cut."""
    os.nice(5)
    selector = selectors.DefaultSelector()
    junk = HEAD + b"x-filler: " + b"a" * 60_000

    def begin() -> None:
        new = socket.socket()
        new.setblocking(False)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        new.bind((f"127.1.{opened.value // 200 % 200}.{opened.value % 200 + 1}", 0))
        new.connect_ex(("127.0.0.1", port))
        opened.value += 1
        selector.register(new, selectors.EVENT_WRITE | selectors.EVENT_READ, [0])

    for _ in range(min(sockets, 50)):
        begin()
    held.value = len(selector.get_map())
    while True:
        for key, events in selector.select(1):
            stranger: Any = key.fileobj
            try:
                if events & selectors.EVENT_READ and not stranger.recv(4096):
                    raise OSError
                if events & selectors.EVENT_WRITE:
                    at = key.data[0] % len(junk)
                    key.data[0] += stranger.send(junk[at : at + 16_384])
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(stranger)
                stranger.close()
                begin()


def measure(directory: Path, scene: str, sockets: int, opens: float, seconds: float) -> Run:
    """Run once."""
    directory.mkdir()
    run, daemon = Run(scene), Daemon(directory)
    spawn = multiprocessing.get_context("spawn")
    held, opened = spawn.Value("q", 0), spawn.Value("q", 0)
    flood: Any = None
    try:
        inside = Line(daemon.port, daemon.token)
        for _ in range(100):
            inside.call("health", {})
        pid = daemon.process.pid
        before, memory, cpu = _descriptors(pid), _memory(pid), _cpu(pid)
        if scene != "control":
            target = loris if scene == "loris" else headers
            flood = spawn.Process(
                target=target, args=(daemon.port, sockets, opens, held, opened), daemon=True
            )
            flood.start()
            deadline = time.monotonic() + FILL_S
            while scene == "loris" and held.value < sockets and time.monotonic() < deadline:
                time.sleep(0.1)
                run.held = max(run.held, held.value)
        _watch(daemon, inside, run, seconds, held)
        run.gateway_cpu = round((_cpu(pid) - cpu) / seconds, 2)
        run.growth = _memory(pid) - memory
        run.opened = opened.value
        if flood is not None:
            flood.kill()
            flood.join()
        if scene != "control":
            time.sleep(SETTLE_S)
        run.descriptors = before, _descriptors(pid)
        inside.call("health", {})
        inside.socket.close()
    except (OSError, RuntimeError) as error:
        run.wrong.append(f"{scene}: who was in lost the connection: {error}")
    finally:
        if flood is not None and flood.is_alive():
            flood.kill()
        daemon.kill()
    return run


def _watch(daemon: Daemon, inside: Line, run: Run, seconds: float, held: Any) -> None:
    took: list[float] = []
    end = time.monotonic() + seconds
    newcomer = time.monotonic()
    while time.monotonic() < end:
        began = time.monotonic()
        inside.call("health", {})
        took.append((time.monotonic() - began) * 1000)
        run.held = max(run.held, held.value)
        if time.monotonic() >= newcomer:
            newcomer += 1
            run.newcomers += 1
            run.refused += not _comes_in(daemon)
        time.sleep(max(0.0, began + 0.01 - time.monotonic()))
    took.sort()
    run.calls = len(took)
    run.p50 = round(statistics.median(took), 3)
    run.p99 = round(took[len(took) * 99 // 100], 3)
    run.longest = round(took[-1], 3)


def _comes_in(daemon: Daemon) -> bool:
    """Whether somebody gets an answer to the upgrade, and the challenge after it, in five seconds."""
    with socket.socket() as stranger, suppress(OSError):
        stranger.settimeout(5)
        stranger.connect(("127.0.0.1", daemon.port))
        stranger.sendall(upgrade())
        heard = b""
        while b"connect.challenge" not in heard:
            data = stranger.recv(4096)
            if not data:
                return False
            heard += data
        return True
    return False


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def judge(runs: list[Run]) -> list[str]:
    """Return what does not hold."""
    wrong = [text for run in runs for text in run.wrong]
    p99 = {
        scene: statistics.median(run.p99 for run in runs if run.scene == scene) for scene in SCENES
    }
    for scene in SCENES[1:]:
        ratio = p99[scene] / p99["control"]
        print(
            f"{scene}: median p99 {p99[scene]:.2f} ms, {ratio:.2f} times that of the control runs"
        )
        if ratio > P99_RATIO:
            wrong.append(f"{scene}: the p99 of who is in is {ratio:.2f} times as long")
    for run in runs:
        if run.growth > GROWTH:
            wrong.append(f"{run.scene}: memory grew by {run.growth / 1048576:.0f} MiB")
        if abs(run.descriptors[1] - run.descriptors[0]) > 10:
            wrong.append(f"{run.scene}: descriptors {run.descriptors[0]} to {run.descriptors[1]}")
    return wrong


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--opens", type=float, default=2000.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(options.runs):
            for scene in SCENES:
                place = Path(directory, f"{number}-{scene}")
                run = measure(place, scene, options.sockets, options.opens, options.seconds)
                runs.append(run)
                print(
                    f"{scene:8} p50 {run.p50:6.2f}  p99 {run.p99:7.2f}  longest {run.longest:7.1f} ms"
                    f"  held {run.held:6,}  opened {run.opened:7,}"
                    f"  new {run.newcomers - run.refused}/{run.newcomers}"
                    f"  memory {run.growth / 1048576:+6.1f} MiB  CPU {run.gateway_cpu:.2f}"
                    f"  descriptors {run.descriptors}",
                    flush=True,
                )
    wrong = judge(runs)
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    for text in wrong:
        print("NOT HELD:", text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
