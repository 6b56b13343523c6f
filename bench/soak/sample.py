"""What is measured of a gateway's process from outside, and what it tells of itself."""

from __future__ import annotations

import http.client
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.processes import descendants

_LINE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
_REGISTRY = re.compile(r'registry="([^"]*)"')
_STAT = re.compile(r'stat="([^"]*)"')
_PROBES = 3
MB = 1024 * 1024
GAUGES = {
    "connections": "gateway_connections",
    "runs": "gateway_runs_active",
    "outbox_kb": "gateway_outbox_bytes",
    "timers": "gateway_timers",
    "store_failing": "gateway_store_failing",
    "lag_p99_ms": "gateway_loop_lag_seconds p99",
    "lag_max_ms": "gateway_loop_lag_seconds max",
    "holds": "gateway_loop_held_total",
}
_FACTORS = {"outbox_kb": 1 / 1024, "lag_p99_ms": 1000.0, "lag_max_ms": 1000.0}
COLUMNS = (
    "seconds",
    "rss_mb",
    "descriptors",
    "threads",
    "children",
    "cpu_percent",
    "probe_ms",
    *GAUGES,
    "registered",
    "database_mb",
    "log_mb",
)


@dataclass(frozen=True)
class Sample:
    """One look at a gateway; a value that it does not tell is missing."""

    values: dict[str, float]
    registries: dict[str, int] = field(default_factory=dict)

    def row(self) -> list[str]:
        """Return the values in the order of COLUMNS, then the registries by name."""
        cells = [f"{self.values[name]:.6g}" if name in self.values else "" for name in COLUMNS]
        return [*cells, " ".join(f"{name}={size}" for name, size in self.registries.items())]


class Sampler:
    """Looks at one gateway; ``seconds`` count from its making."""

    def __init__(self, pid: int, port: int, token: str, state: Path) -> None:
        self._pid = pid
        self._port = port
        self._token = token
        self._state = state
        self._started = time.monotonic()
        self._cpu: tuple[float, float] | None = None

    def seconds(self) -> float:
        """Return the time since the sampler was made."""
        return time.monotonic() - self._started

    def sample(self) -> Sample:
        """Look at everything once. Raises OSError where the gateway is gone or does not answer."""
        values = {"seconds": self.seconds(), **self._process(), **self._files()}
        values["probe_ms"] = max(self._probe() for _ in range(_PROBES)) * 1000
        told, registries = read_metrics(self._get("/metrics"))
        for name, metric in GAUGES.items():
            if metric in told:
                values[name] = told[metric] * _FACTORS.get(name, 1.0)
        values["registered"] = sum(registries.values())
        return Sample(values, registries)

    def _process(self) -> dict[str, float]:
        place = Path(f"/proc/{self._pid}")
        status = (place / "status").read_text()
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        values = {
            "rss_mb": int(status.partition("VmRSS:")[2].split()[0]) / 1024,
            "threads": float(status.partition("Threads:")[2].split()[0]),
            "descriptors": float(len(os.listdir(place / "fd"))),
            "children": float(len(descendants(self._pid))),
        }
        now, cpu = time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if self._cpu is not None and now > self._cpu[0]:
            values["cpu_percent"] = 100 * (cpu - self._cpu[1]) / (now - self._cpu[0])
        self._cpu = (now, cpu)
        return values

    def _files(self) -> dict[str, float]:
        return {
            "database_mb": _size(self._state, "gateway.db*") / MB,
            "log_mb": _size(self._state / "logs", "*.jsonl") / MB,
        }

    def _probe(self) -> float:
        """Return the seconds until a new connection is accepted and answered."""
        started = time.perf_counter()
        self._get("/healthz")
        return time.perf_counter() - started

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise OSError(f"{path} was answered {response.status}")
        return text


def read_metrics(text: str) -> tuple[dict[str, float], dict[str, int]]:
    """Return the sum of every family of a Prometheus text, and the sizes of the registries.

    A family with statistics has a name for each: ``gateway_loop_lag_seconds p99``.
    """
    sums: dict[str, float] = {}
    registries: dict[str, int] = {}
    for line in text.splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        name, value = match["name"], float(match["value"])
        labels = match["labels"] or ""
        if found := _STAT.search(labels):
            name = f"{name} {found[1]}"
        sums[name] = sums.get(name, 0.0) + value
        if name == "gateway_registry_size" and (found := _REGISTRY.search(labels)):
            registries[found[1]] = int(value)
    return sums, registries


def _size(directory: Path, pattern: str) -> int:
    total = 0
    for path in directory.glob(pattern):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # a write-ahead log that was just removed
    return total
