"""Let a gateway work for a long time under a mixed load, and see whether anything grows.

    python -m bench.soak --minutes 60 --out DIR [--rate 1] [--every 5] [--warm-up MINUTES]

Starts ``twistd -n gateway`` on a free port and in a directory of its own, and the load (bench.soak.load)
as another process; looks at the gateway every few seconds; ends the load and waits until the gateway is
at rest; stops it by SIGTERM. DIR then holds ``samples.csv``, ``soak.svg``, ``summary.md``, ``load.jsonl``
and the gateway's own ``home``. The exit status is 1 when a series is not flat (bench.soak.judge), when it
does not come to rest, when an answer was wrong, or when the log has an error. The database grows, as
nothing is thrown away; it is shown, not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.soak.judge import RULES, Rule, Trend, trend
from bench.soak.plot import Panel, Points, draw
from bench.soak.sample import COLUMNS, Sample, Sampler
from gateway.client import OPERATOR_SCOPES, ClientOptions, Credentials
from gateway.client.aio import connect
from tests.agents import fake_acp_agent
from tests.integration.daemon import ROOT, Daemon, log_records

CONFIG = """\
# Limits that a soak reaches: by default answers are remembered for 5 minutes and 16 MiB may wait.
[agents.main]
backend = "demo"
default = true
word_delay_ms = 20

[agents.worker]
backend = "acp"
command = {command}

[limits]
outbox_bytes = 262144
idempotency_ttl_s = 60
presence_ttl_s = 60
"""
REST_S = 480.0
"""How long the gateway may take to come to rest: it knows spoken words again for 5 minutes, and sweeps."""
STOP_S = 30.0
SERIOUS = ("error", "critical")


class Soak:
    """One run, from the start of the gateway to its end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.minutes: float = arguments.minutes
        self.rate: float = arguments.rate
        self.every: float = arguments.every
        self.warm_up_s = 60 * (
            arguments.minutes / 5 if arguments.warm_up is None else arguments.warm_up
        )
        self.samples: list[Sample] = []
        self.faults: list[str] = []
        self.load: dict[str, Any] = {}
        self.load_s = 0.0
        self.rest: Sample | None = None

    def run(self) -> bool:
        """Do all of it; return whether nothing was wrong."""
        home = self.out / "home"
        home.mkdir(parents=True)
        config = home / "gateway.toml"
        command = json.dumps([sys.executable, str(Path(fake_acp_agent.__file__).absolute())])
        config.write_text(CONFIG.format(command=command))
        daemon = Daemon(home, "--config", config)
        try:
            self._run(daemon)
        finally:
            if daemon.process.poll() is None:
                daemon.kill()
        self._read_log(daemon)
        self._judge()
        self._write()
        return not self.faults

    def _run(self, daemon: Daemon) -> None:
        asyncio.run(_touch(daemon))
        time.sleep(2)
        sampler = Sampler(daemon.process.pid, daemon.port, daemon.token, daemon.state)
        sampler.sample()
        base = sampler.sample()
        print(f"gateway pid={daemon.process.pid} port={daemon.port}; at rest: {_short(base)}")
        with (self.out / "samples.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, "registries"])
            with (self.out / "load.jsonl").open("wb") as output:
                load = self._start_load(daemon, output)
                try:
                    self._watch(daemon, sampler, load, writer, file)
                finally:
                    self._end_load(load)
            self.load_s = sampler.seconds()
        self._settle(sampler, base)
        self._stop(daemon)

    def _start_load(self, daemon: Daemon, output: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                *("-m", "bench.soak.load", "--port", str(daemon.port)),
                *("--token-file", daemon.state / "token", "--rate", str(self.rate)),
            ],
            cwd=ROOT,
            stdout=output,
            stdin=subprocess.DEVNULL,
        )

    def _watch(
        self,
        daemon: Daemon,
        sampler: Sampler,
        load: subprocess.Popen[bytes],
        writer: Any,
        file: Any,
    ) -> None:
        started = time.monotonic()
        told = 0.0
        while (passed := time.monotonic() - started) < self.minutes * 60:
            time.sleep(self.every - passed % self.every)
            if daemon.process.poll() is not None:
                raise SystemExit(f"the gateway ended: {daemon.report()[-4000:]}")
            if load.poll() is not None:
                raise SystemExit(f"the load ended with status {load.returncode}")
            self.samples.append(sampler.sample())
            writer.writerow(self.samples[-1].row())
            file.flush()
            if passed - told >= 60:
                told = passed
                print(f"{passed / 60:6.1f} min  {_short(self.samples[-1])}", flush=True)

    def _end_load(self, load: subprocess.Popen[bytes]) -> None:
        load.send_signal(signal.SIGTERM)
        try:
            load.wait(90)
        except subprocess.TimeoutExpired:
            load.kill()
            load.wait()
            self.faults.append("the load did not end")
        lines = (self.out / "load.jsonl").read_text().splitlines()
        self.load = json.loads(lines[-1]) if lines else {}
        if not self.load.get("over"):
            self.faults.append("the load did not come to its end")
        self.faults += [f"load: {fault}" for fault in self.load.get("faults", ())]

    # Rest and end.

    def _settle(self, sampler: Sampler, base: Sample) -> None:
        """Wait until nothing is left of the load but what is bounded and does not grow."""
        started = time.monotonic()
        told = -60.0
        while left := self._left(sample := sampler.sample(), base):
            passed = time.monotonic() - started
            if passed - told >= 60:
                told = passed
                print(f"{passed:4.0f} s after the load: {', '.join(left)}", flush=True)
            if passed > REST_S:
                self.faults.append(f"the gateway did not come to rest: {', '.join(left)}")
                break
            time.sleep(2)
        self.rest = sample
        print(f"at rest again: {_short(sample)}")

    def _left(self, sample: Sample, base: Sample) -> list[str]:
        values, before = sample.values, base.values
        allowed = {
            "connections": 0.0,
            "runs": 0.0,
            "outbox_kb": 0.0,
            "store_failing": 0.0,
            "children": before["children"],
            "descriptors": before["descriptors"] + 2,
            "timers": before.get("timers", 0.0) + 2,
        }
        left = [
            f"{name} {values[name]:g} > {most:g}"
            for name, most in allowed.items()
            if values.get(name, 0.0) > most
        ]
        for name, size in sample.registries.items():
            if size > max(1, base.registries.get(name, 0)) and not self._steady(name):
                left.append(f"registry {name} {size}")
        return left

    def _steady(self, registry: str) -> bool:
        """Whether a registry has not grown since the warm-up: one that is full stays so."""
        found = trend(self._registry(registry, after=self.warm_up_s), Rule(2.0, part=0.02))
        return found is not None and found.drift <= found.tolerance

    def _stop(self, daemon: Daemon) -> None:
        daemon.process.send_signal(signal.SIGTERM)
        try:
            status = daemon.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.faults.append("the gateway did not stop")
            return
        # twistd ends itself by the signal that stopped it.
        if status not in (0, -signal.SIGTERM):
            self.faults.append(f"the gateway ended with status {status}")
        time.sleep(1)
        if left := daemon.world.processes():
            self.faults.append(f"processes stayed: {left}")

    def _read_log(self, daemon: Daemon) -> None:
        serious = [each for each in log_records(daemon.state) if _is_serious(each)]
        self.faults += [f"log: {_shown(each)}" for each in serious[:20]]
        if len(serious) > 20:
            self.faults.append(f"log: {len(serious) - 20} more")
        self.faults += [
            f"output has {word!r}"
            for word in ("Traceback", "Unhandled", "Warning:")
            if word in daemon.output
        ]

    # The result.

    def _series(self, name: str, *, after: float = 0.0) -> Points:
        return [
            (each.values["seconds"], each.values[name])
            for each in self.samples
            if name in each.values and each.values["seconds"] >= after
        ]

    def _registry(self, name: str, *, after: float = 0.0) -> Points:
        return [
            (each.values["seconds"], float(each.registries[name]))
            for each in self.samples
            if name in each.registries and each.values["seconds"] >= after
        ]

    def _judge(self) -> None:
        self.trends: dict[str, Trend] = {}
        for name, rule in RULES.items():
            found = trend(self._series(name, after=self.warm_up_s), rule)
            if found is not None:
                self.trends[name] = found
                if not found.flat:
                    self.faults.append(
                        f"{name} drifts by {found.drift:+.2f} in {found.hours * 60:.0f} minutes "
                        f"(95 %: {found.least:+.2f} to {found.most:+.2f}; "
                        f"allowed {found.tolerance:.2f})"
                    )

    def _write(self) -> None:
        (self.out / "soak.svg").write_text(self._drawing())
        (self.out / "summary.md").write_text(self.summary())

    def _drawing(self) -> str:
        def lines(**named: str) -> dict[str, Points]:
            return {name.replace("_", " "): self._series(column) for name, column in named.items()}

        names = sorted({name for each in self.samples for name in each.registries})
        panels = [
            Panel("Resident memory, MB", lines(rss="rss_mb"), zero=False),
            Panel("CPU, % of a core", lines(cpu="cpu_percent")),
            Panel(
                "Descriptors and connections",
                lines(descriptors="descriptors", connections="connections"),
            ),
            Panel("Threads and processes below", lines(threads="threads", processes="children")),
            Panel("Timers and runs", lines(timers="timers", runs="runs")),
            Panel(
                "Entries of registries",
                {name: points for name in names if (points := self._registry(name))},
            ),
            Panel("Bytes that wait in outboxes, KiB", lines(outbox="outbox_kb")),
            Panel(
                "Loop lag and probe, ms",
                lines(probe="probe_ms", lag_p99="lag_p99_ms"),
            ),
            Panel("Database and log, MB", lines(database="database_mb", log="log_mb")),
        ]
        seconds = max(self.load_s, 1.0)
        title = f"Gateway under a mixed load for {self.minutes:g} minutes"
        return draw(title, panels, min(self.warm_up_s, seconds), seconds)

    def summary(self) -> str:
        """Return the figures as Markdown."""
        minutes = max(self.load_s, 1.0) / 60
        counts = self.load.get("counts", {})
        lines = [
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {self.minutes:g} minutes, rate {self.rate:g}, "
            f"{len(self.samples)} samples; the first {self.warm_up_s / 60:g} minutes are warm-up.",
            "",
            "| series | least | median | most | drift | 95 % | allowed | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, found in self.trends.items():
            lines.append(
                f"| {name} | {found.low:.4g} | {found.middle:.4g} | {found.high:.4g} "
                f"| {found.drift:+.2f} | {found.least:+.2f} to {found.most:+.2f} "
                f"| {found.tolerance:.2f} | {'flat' if found.flat else 'GROWS'} |"
            )
        lines += ["", "| not judged | first | median | last | most |", "|---|---|---|---|---|"]
        for name in (
            "cpu_percent",
            "probe_ms",
            "lag_p99_ms",
            "lag_max_ms",
            "holds",
            "database_mb",
            "log_mb",
        ):
            if values := [value for _, value in self._series(name)]:
                middle = sorted(values)[len(values) // 2]
                cells = (values[0], middle, values[-1], max(values))
                lines.append(f"| {name} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |")
        lines += ["", "| the load | in all | a minute |", "|---|---|---|"]
        lines += [f"| {name} | {n} | {n / minutes:.1f} |" for name, n in sorted(counts.items())]
        if self.rest is not None:
            lines += ["", f"At rest afterwards: {_short(self.rest)}"]
        lines += ["", *(f"- FAULT {fault}" for fault in self.faults)]
        lines.append("" if self.faults else "Nothing was wrong.")
        return "\n".join(lines).strip() + "\n"


async def _touch(daemon: Daemon) -> None:
    """Use every part once, so that what is made at its first use is there before the load."""
    options = ClientOptions(credentials=Credentials(token=daemon.token), scopes=OPERATOR_SCOPES)
    async with await connect(daemon.url, options) as client:
        for key in ("agent:main:touch", "agent:worker:touch"):
            await client.chat("hello", key).result()
        for method in ("health", "status", "sessions.list", "node.list", "logs.tail"):
            await client.call(method, {})


def _is_serious(record: dict[str, Any]) -> bool:
    return record["level"] in SERIOUS or "traceback" in record


def _shown(record: dict[str, Any]) -> str:
    last = str(record.get("traceback", "")).strip().rpartition("\n")[2]
    return f"{record['time']} {record['level']} {record['message'][:300]} {last}".strip()


def _short(sample: Sample) -> str:
    values = sample.values
    names = ("rss_mb", "cpu_percent", "descriptors", "connections", "threads", "children", "timers")
    shown = [f"{name}={values[name]:.1f}" for name in names if name in values]
    shown += [f"{name}={size}" for name, size in sample.registries.items()]
    return " ".join(shown).replace(".0 ", " ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a soak; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the load lasts")
    parser.add_argument("--out", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument("--rate", type=float, default=1.0, help="how much of the load")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument(
        "--warm-up", type=float, help="minutes that are not judged (default: a fifth)"
    )
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True)
    soak = Soak(arguments)
    good = soak.run()
    print(soak.summary())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
