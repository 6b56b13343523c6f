"""One agent burns a processor core, another writes as fast as it can: what the others notice.

    python -m bench.agents_isolation [--seconds 20] [--floods 1] [--json FILE]

Run it from the repository's root. Each scene starts ``twistd gateway`` afresh with three agents in
processes (``bench/unruly_agent.py``): ``spin`` runs ``/spin``, ``flood`` runs ``/flood KIND``, ``talk`` says
a word every 50 ms. Meanwhile a client calls ``health`` every 10 ms and notes how long the answer takes, and
another, in a process of its own, notes when the words of ``talk`` come. The scenes: ``quiet``, only ``talk``,
for comparison; ``chunks``, ``tools`` and ``noise``, the three kinds of flood. With ``--floods N`` so many
processes of ``flood`` write at once.

The exit status is 1 if a bound does not hold:

- p99 of ``health`` is at most 50 ms in every scene;
- the longest silence of ``talk`` is at most a second: its turn streams;
- the gateway's memory grows by at most 64 MiB in a scene;
- when it has stopped nothing is left of the agents.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.slow_consumer import Line
from tests.integration.daemon import Daemon

AGENT = Path(__file__).with_name("unruly_agent.py")
SCENES = ("quiet", "chunks", "tools", "noise")
ROLES = ("talk", "spin", "flood")
P99_MS = 50.0
SILENCE_MS = 1000.0
GROWTH = 64 * 1024 * 1024


@dataclass
class Scene:
    """What one scene measured; times in milliseconds, memory in bytes."""

    name: str
    calls: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    words: int = 0
    silence: float = 0.0
    growth: int = 0
    gateway_cpu: float = 0.0
    read_mb_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def listen(port: int, token: str, seconds: float, results: Any) -> None:
    """Note when the words of ``talk`` come; send how many, and the longest silence."""
    line = Line(port, token)
    line.call("sessions.subscribe", {})
    results.send("ready")
    end = time.monotonic() + seconds
    last, silence, words = time.monotonic(), 0.0, 0
    while (now := time.monotonic()) < end:
        for payload in line.hear():
            if payload.startswith(b'{"type":"event","event":"chat"') and b'"agent:talk:' in payload:
                words, silence, last = words + 1, max(silence, now - last), now
        line.read()
    results.send((words, 1000 * max(silence, end - last)))


def measure(directory: Path, name: str, seconds: float, floods: int) -> Scene:
    """Play one scene."""
    directory.mkdir()
    scene = Scene(name)
    command = json.dumps([sys.executable, "-I", "-S", str(AGENT)])
    tables = [
        f'[agents.{agent}]\nbackend = "acp"\npool = {floods}\ncommand = {command}\n'
        for agent in ROLES
    ]
    config = directory / "gateway.toml"
    config.write_text("\n".join(tables))
    daemon = Daemon(directory, "--config", config)
    try:
        _play(daemon, scene, seconds, floods)
    finally:
        daemon.stop()
    return scene


def _play(daemon: Daemon, scene: Scene, seconds: float, floods: int) -> None:
    line = Line(daemon.port, daemon.token)
    spawn = multiprocessing.get_context("spawn")
    results, theirs = spawn.Pipe()
    listener = spawn.Process(
        target=listen, args=(daemon.port, daemon.token, seconds + 2, theirs), daemon=True
    )
    listener.start()
    results.recv()
    before = _memory(daemon.process.pid)
    _send(line, "talk", f"/talk {int((seconds + 5) * 20)}")
    if scene.name != "quiet":
        _send(line, "spin", "/spin")
        for number in range(floods):
            _send(line, "flood", f"/flood {scene.name}", f"flood{number}")
    time.sleep(1)
    probe = Line(daemon.port, daemon.token)
    flooder = _flooder() if scene.name != "quiet" else None
    cpu, written = _cpu(daemon.process.pid), _written(flooder)
    times = []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        start = time.perf_counter()
        probe.call("health", {})
        times.append(1000 * (time.perf_counter() - start))
        time.sleep(0.01)
    took = time.monotonic() - begin
    scene.gateway_cpu = round((_cpu(daemon.process.pid) - cpu) / took, 2)
    scene.read_mb_s = round((_written(flooder) - written) / took / 1e6, 2)
    times.sort()
    scene.calls = len(times)
    scene.p50 = round(statistics.median(times), 2)
    scene.p99 = round(times[len(times) * 99 // 100], 2)
    scene.longest = round(times[-1], 2)
    scene.words, silence = results.recv()
    scene.silence = round(silence, 1)
    listener.join(30)
    scene.growth = _memory(daemon.process.pid) - before
    for text, value, bound in (
        ("p99 of health", scene.p99, P99_MS),
        ("silence of talk", scene.silence, SILENCE_MS),
        ("growth of memory", scene.growth, GROWTH),
    ):
        if value > bound:
            scene.wrong.append(f"{text}: {value} is over {bound}")


def _send(line: Line, agent: str, text: str, session: str = "main") -> None:
    params = {
        "sessionKey": f"agent:{agent}:{session}",
        "message": text,
        "idempotencyKey": f"bench-{agent}-{session}",
    }
    line.call("chat.send", params)


def _memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _flooder() -> int | None:
    """Return the agent process that has written most."""
    wanted = str(AGENT).encode()
    agents = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in argv and b"--" not in argv:
            agents.append(int(entry.name))
    return max(agents, key=_written, default=None)


def _written(pid: int | None) -> int:
    if pid is None:
        return 0
    text = Path(f"/proc/{pid}/io").read_text()
    return int(text.partition("wchar:")[2].split()[0])


def main() -> int:
    """Play all scenes; print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--floods", type=int, default=1)
    parser.add_argument("--scene", choices=SCENES, action="append")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("load of the machine before:", *(f"{load:.2f}" for load in os.getloadavg()))
    scenes = []
    with tempfile.TemporaryDirectory() as directory:
        for name in options.scene or SCENES:
            scene = measure(Path(directory, name), name, options.seconds, options.floods)
            scenes.append(scene)
            print(
                f"{name:7} health p50 {scene.p50:6.2f} ms, p99 {scene.p99:6.2f} ms, longest"
                f" {scene.longest:6.1f} ms; talk {scene.words} deltas, longest silence"
                f" {scene.silence:.0f} ms; flood read at {scene.read_mb_s:.1f} MB/s; gateway"
                f" {scene.gateway_cpu:.2f} cores, {scene.growth / 2**20:+.1f} MiB",
                *scene.wrong,
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([asdict(scene) for scene in scenes], indent=1))
    return 1 if any(scene.wrong for scene in scenes) else 0


if __name__ == "__main__":
    sys.exit(main())
