"""Load OpenClaw's own gateway and this one in turn, and print how they compare.

    python -m bench.compare_openclaw --wsload PATH [--rounds 3] [--clients 300] [--json FILE]

Run it from the repository's root. OpenClaw comes from the cache of the interop tests (it is installed
if it is missing); the load comes from the program at PATH, which takes ``--url --token --pid --proto
--clients --calls --rounds --method --fan-method`` and prints one JSON object a line for each test.
Every round starts both gateways afresh, one after the other, with a state directory of their own, so
that memory starts from the same place. Rates are per second of the server's own CPU time, which other
load on the machine disturbs less than it disturbs wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.interop.install import V3, Installation, install_all, node_environment
from tests.interop.processes import descendants, stop, wait_until
from tests.interop.server import Gateway, free_port

_START_SECONDS = 120.0
_SETTLE_SECONDS = 60.0
_QUIET_CPU_SECONDS = 0.03
_LOAD_SECONDS = 900.0

Result = dict[str, Any]
"""What the load program printed for one test."""


@dataclass(frozen=True)
class Metric:
    """One line of the table: where its figure stands in the load's output, and the ratio wanted."""

    title: str
    test: str
    """Beginning of the test's name in the load's output."""
    key: str
    goal: float | None = None
    """The ratio of our figure to OpenClaw's that is wanted: at least, or at most for ``less``."""
    less: bool = False
    """Whether less is better."""

    def value(self, results: list[Result]) -> float:
        """Return this metric's figure; raise SystemExit if the load did not print it."""
        for result in results:
            if result["test"].startswith(self.test) and self.key in result:
                return float(result[self.key])
        raise SystemExit(f"the load printed no {self.key} for {self.test}: {results}")

    def met(self, ratio: float) -> bool:
        """Return whether a ratio is as good as wanted."""
        return self.goal is None or (ratio <= self.goal if self.less else ratio >= self.goal)

    def wanted(self) -> str:
        """Return the goal as the table shows it."""
        if self.goal is None:
            return "–"
        return f"{'≤' if self.less else '≥'} {self.goal:.2g}"


METRICS = (
    Metric("handshakes per CPU second", "handshake", "per_cpu_s", goal=4.0),
    Metric("`health` per CPU second, one at a time", "rpc health 1x1", "per_cpu_s", goal=5.0),
    Metric("`health` per CPU second, 10×10", "rpc health 10x10", "per_cpu_s", goal=5.0),
    Metric("delivered events per CPU second", "fanout", "per_cpu_s", goal=1.0),
    Metric("memory per connection, KiB", "handshake", "kib_per_conn", goal=0.2, less=True),
    Metric("memory before the load, MiB", "handshake", "rss_before_mb", less=True),
)


@dataclass(frozen=True)
class Target:
    """A gateway that runs: where, with which token, as which process, in which protocol."""

    url: str
    token: str
    pid: int
    protocol: int


@dataclass(frozen=True)
class Row:
    """One metric, compared: medians over the rounds, and the figures that they come from."""

    title: str
    openclaw: float
    ours: float
    ratio: float
    wanted: str
    met: bool
    openclaw_rounds: list[float]
    our_rounds: list[float]


@contextmanager
def openclaw_gateway(installation: Installation, state: Path) -> Iterator[Target]:
    """Run OpenClaw's own gateway on a free port of loopback; end it with all that it started."""
    port, token = free_port(), secrets.token_urlsafe(24)
    _write_openclaw_configuration(state, port, token)
    environment = {
        **node_environment(installation.node),
        "HOME": str(state),
        "OPENCLAW_STATE_DIR": str(state / ".openclaw"),
        "TMPDIR": str(state),
        "NODE_COMPILE_CACHE": str(installation.compile_cache),
    }
    log = state / "gateway.output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*installation.argv, "gateway", "run"],
            env=environment,
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if not wait_until(lambda: _listens(port) or process.poll() is not None, _START_SECONDS):
            raise SystemExit(f"OpenClaw did not listen:\n{log.read_text(errors='replace')}")
        if process.poll() is not None:
            raise SystemExit(f"OpenClaw ended at once:\n{log.read_text(errors='replace')}")
        yield Target(f"ws://127.0.0.1:{port}", token, process.pid, V3.protocol)
    finally:
        stop(process, 15.0)


@contextmanager
def our_gateway(state: Path, protocol: int) -> Iterator[Target]:
    """Run this project's gateway as anybody would, with nothing configured."""
    gateway = Gateway(state)
    try:
        yield Target(gateway.url, gateway.token, gateway.pid, protocol)
    finally:
        gateway.stop()


def _write_openclaw_configuration(state: Path, port: int, token: str) -> None:
    configuration = {
        "gateway": {
            "mode": "local",
            "bind": "loopback",
            "port": port,
            "auth": {"mode": "token", "token": token},
        },
        "agents": {"defaults": {"workspace": str(state / "workspace")}},
        "logging": {"file": str(state / "openclaw.log")},
    }
    home = state / ".openclaw"
    home.mkdir(parents=True, exist_ok=True)
    (home / "openclaw.json").write_text(json.dumps(configuration), encoding="utf-8")


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def settle(pid: int) -> None:
    """Wait until the process and its children have nothing left to do from their start."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    quiet = 0
    before = _cpu_seconds(pid)
    while quiet < 3 and time.monotonic() < deadline:
        time.sleep(1)
        now = _cpu_seconds(pid)
        quiet = quiet + 1 if now - before < _QUIET_CPU_SECONDS else 0
        before = now


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for one in (pid, *descendants(pid)):
        try:
            fields = (
                Path(f"/proc/{one}/stat").read_text(errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(target: Target, arguments: argparse.Namespace) -> list[Result]:
    """Run the load program once and return what it printed for each test."""
    settle(target.pid)
    time.sleep(arguments.rest)
    done = subprocess.run(
        [
            *(arguments.python, str(arguments.wsload)),
            *("--url", target.url, "--token", target.token, "--pid", str(target.pid)),
            *("--proto", str(target.protocol), "--clients", str(arguments.clients)),
            *("--calls", str(arguments.calls), "--rounds", str(arguments.broadcasts)),
            *("--method", "health", "--fan-method", "system-event"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LOAD_SECONDS,
        check=True,
    )
    results: list[Result] = [json.loads(line) for line in done.stdout.splitlines()]
    for result in results:
        if result.get("delivered") != result.get("expected") or "error" in result:
            raise SystemExit(f"the load failed: {result}")
    return results


def compare(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, list[list[Result]]]]:
    """Run all rounds; return the table and everything that the load printed."""
    installation = install_all()[V3]
    collected: dict[str, list[list[Result]]] = {"openclaw": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="compare-openclaw-") as place:
        root = Path(place)
        _first_start(installation, root / "openclaw")
        for number in range(1, arguments.rounds + 1):
            _say(f"round {number} of {arguments.rounds}: OpenClaw {V3.version}")
            with openclaw_gateway(installation, root / "openclaw") as target:
                collected["openclaw"].append(load(target, arguments))
            _say(f"round {number} of {arguments.rounds}: ours")
            with our_gateway(root / f"ours-{number}", arguments.protocol) as target:
                collected["ours"].append(load(target, arguments))
    return [_row(metric, collected) for metric in METRICS], collected


def _first_start(installation: Installation, state: Path) -> None:
    """Let OpenClaw make its workspace: that start is slower and four times as large as later ones."""
    state.mkdir(parents=True)
    with openclaw_gateway(installation, state) as target:
        settle(target.pid)


def _row(metric: Metric, collected: Mapping[str, list[list[Result]]]) -> Row:
    theirs = [metric.value(results) for results in collected["openclaw"]]
    ours = [metric.value(results) for results in collected["ours"]]
    their_median, our_median = statistics.median(theirs), statistics.median(ours)
    ratio = our_median / their_median
    return Row(
        metric.title,
        their_median,
        our_median,
        ratio,
        metric.wanted(),
        metric.met(ratio),
        theirs,
        ours,
    )


def markdown(rows: list[Row], arguments: argparse.Namespace) -> str:
    """Return the table, with what it was measured with above it."""
    return "\n".join(
        [
            f"{arguments.clients} clients, {arguments.rounds} rounds, medians (range); "
            f"OpenClaw {V3.version} on Node.js {V3.node}, ours on Python "
            f"{sys.version.split()[0]}, protocol {arguments.protocol}; {os.cpu_count()} CPUs; "
            f"{arguments.rest:g} s idle before the load.",
            "",
            "| | OpenClaw | ours | ratio | wanted | met |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row.title} | {row.openclaw:g} ({_spread(row.openclaw_rounds)}) "
                f"| {row.ours:g} ({_spread(row.our_rounds)}) | {row.ratio:.2f} "
                f"| {row.wanted} | {'yes' if row.met else '**no**'} |"
                for row in rows
            ),
        ]
    )


def _spread(values: list[float]) -> str:
    return f"{min(values):g}–{max(values):g}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare this gateway with OpenClaw's own.")
    parser.add_argument("--wsload", type=Path, required=True, help="the load program")
    parser.add_argument("--python", default=sys.executable, help="Python that has its libraries")
    parser.add_argument("--rounds", type=int, default=3, help="how often each gateway is measured")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--calls", type=int, default=5000, help="health calls of each kind")
    parser.add_argument("--broadcasts", type=int, default=100)
    parser.add_argument("--rest", type=float, default=0.0, help="idle seconds before the load")
    parser.add_argument("--protocol", type=int, choices=(3, 4), default=3, help="spoken with ours")
    parser.add_argument(
        "--json", type=Path, default=None, help="also write everything to this file"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is not met")
    arguments = parser.parse_args(argv)
    if not arguments.wsload.is_file():
        parser.error(f"{arguments.wsload} is not a file")
    return arguments


def main() -> int:
    """Measure, print the table, write the JSON."""
    arguments = parse()
    rows, collected = compare(arguments)
    sys.stdout.write(markdown(rows, arguments) + "\n")
    if arguments.json is not None:
        everything = {"table": [asdict(row) for row in rows], "rounds": collected}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    return int(arguments.check and not all(row.met for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
