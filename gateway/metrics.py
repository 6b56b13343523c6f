"""What the gateway counts, and its Prometheus text.

Counting is plain arithmetic, since it happens for every frame; the Prometheus library is loaded by the
first :meth:`Metrics.render`, as it costs a start 30 ms and 1.2 MB. All calls belong to one thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

OTHER = "other"
"""Stands for every label value beyond those that are known."""

_SERIES_MAX = 1000
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class _Family:
    """A counter or gauge with labels: at most 1000 series, those beyond are one series ``other``."""

    def __init__(self, kind: str, name: str, text: str, *labels: str) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.labels = labels
        self._series: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, amount: float, *values: str) -> None:
        if values in self._series:
            self._series[values] += amount
        else:
            key = self._bounded(values)
            self._series[key] = self._series.get(key, 0) + amount

    def set(self, value: float, *values: str) -> None:
        self._series[self._bounded(values)] = value

    def collect(self) -> Metric:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = kind(self.name, self.text, labels=self.labels)
        for values, value in self._series.items():
            metric.add_metric(values, value)
        return metric

    def _bounded(self, values: tuple[str, ...]) -> tuple[str, ...]:
        if values in self._series or len(self._series) < _SERIES_MAX:
            return values
        return (OTHER,) * len(values)


class Metrics:
    """Every collector of one gateway.

    :ivar frames_in: frames received; the hot paths add to it, as to the next two.
    :ivar frames_out: frames sent.
    :ivar outbox_bytes: bytes that wait in all outboxes.
    """

    def __init__(self, methods: Iterable[str] | None = None) -> None:
        """Count the requests of ``methods`` under their names, all others as ``other``."""
        self.frames_in = 0
        self.frames_out = 0
        self.outbox_bytes = 0
        self._methods = None if methods is None else frozenset(methods)
        self._families: list[_Family] = []
        self._registry: CollectorRegistry | None = None
        self._seconds = [0] * (len(_BUCKETS) + 1)
        self._seconds_sum = 0.0
        gauge, counter = self._gauge, self._counter
        self._connections = gauge("connections", "Open connections.", "role", "protocol")
        self._closed = counter("connections_closed", "Connections by why they ended.", "cause")
        self._refused = counter("handshakes_refused", "Refused handshakes.", "cause")
        self._auth_failures = counter("auth_failures", "Wrong credentials.", "kind")
        self._auth_locks = counter("auth_locks", "Sources of too many wrong credentials.", "source")
        self._dropped = counter("outbox_dropped", "Frames lost to slow clients.", "class")
        self._requests = counter("requests", "Requests answered.", "method", "outcome")
        self._runs = counter("runs", "Runs ended.", "outcome")
        self._runs_active = gauge("runs_active", "Runs that have not ended.")
        self._listener_errors = counter("listener_errors", "Listeners of runs that raised.")
        self._ends_waiting = gauge("ends_waiting", "Ends of runs that the store has not taken yet.")
        self._ends_dropped = counter("ends_dropped", "Ends of runs that were never stored.")
        self._log_reads = counter("log_reads", "Positions in logs of runs answered.", "status")
        self._approvals = counter("approvals", "Approvals by how they ended.", "outcome")
        self._approvals_pending = gauge("approvals_pending", "Approvals that wait for an answer.")
        self._invocations = counter(
            "node_invocations", "Commands of nodes by how they ended.", "end"
        )
        self._invocations_pending = gauge(
            "node_invocations_pending", "Commands of nodes that wait for their answer."
        )
        self._retention = counter("retention_removed", "What the retention policy removed.", "what")
        self._loop_lag = gauge(
            "loop_lag_seconds", "How late the loop was in the last minute.", "stat"
        )
        self._loop_held = counter("loop_held", "Times that the loop was held too long.", "cause")
        self._timers = gauge("timers", "Calls that wait for their time in the reactor.")
        self._store_failing = gauge("store_failing", "1 while the store fails.")
        self._registry_size = gauge("registry_size", "Entries of a registry.", "registry")
        self._swept = counter("registry_swept", "Entries that sweeps removed.", "registry")
        self._sweeps = counter("sweeps", "Sweeps of a registry.", "registry")

    def connection_opened(self, role: str, protocol: int) -> None:
        """Count a connection whose handshake is done."""
        self._connections.add(1, role, str(protocol))

    def connection_ended(self, role: str, protocol: int) -> None:
        """Take back what :meth:`connection_opened` counted."""
        self._connections.add(-1, role, str(protocol))

    def connection_closed(self, cause: str) -> None:
        """Count the end of any connection, authenticated or not, by its close cause."""
        self._closed.add(1, cause)

    def handshake_refused(self, cause: str) -> None:
        """Count a refused handshake by its close cause."""
        self._refused.add(1, cause)

    def auth_failed(self, kind: str) -> None:
        """Count a wrong credential by its kind."""
        self._auth_failures.add(1, kind)

    def auth_locked(self, source: str) -> None:
        """Count a source that showed too many: address, origin, or loopback (which is slowed down)."""
        self._auth_locks.add(1, source)

    def outbox_dropped(self, delivery_class: str, count: int = 1) -> None:
        """Count frames that a client did not get as they were: must, latest or droppable."""
        self._dropped.add(count, delivery_class)

    def request_done(self, method: str, outcome: str, seconds: float | None = None) -> None:
        """Count a request by its method and ``ok`` or its error's code, and how long it took."""
        if self._methods is not None and method not in self._methods:
            method = OTHER
        self._requests.add(1, method, outcome)
        if seconds is not None:
            self._seconds[bisect_left(_BUCKETS, seconds)] += 1
            self._seconds_sum += seconds

    def runs_active(self, count: int) -> None:
        """Say how many runs have not ended."""
        self._runs_active.set(count)

    def run_ended(self, outcome: str) -> None:
        """Count the end of a run by its terminal state."""
        self._runs.add(1, outcome)

    def ends_waiting(self, count: int) -> None:
        """Say how many ends of runs wait for the store."""
        self._ends_waiting.set(count)

    def end_dropped(self) -> None:
        """Count the end of a run that is given up: the store did not take it, and too many wait."""
        self._ends_dropped.add(1)

    def listener_failed(self) -> None:
        """Count a listener of a run that raised."""
        self._listener_errors.add(1)

    def approvals_pending(self, count: int) -> None:
        """Say how many approvals wait for an answer."""
        self._approvals_pending.set(count)

    def approval_ended(self, outcome: str) -> None:
        """Count an approval by its decision, or by why there is none."""
        self._approvals.add(1, outcome)

    def invocations_pending(self, count: int) -> None:
        """Say how many commands of nodes wait for their answer."""
        self._invocations_pending.set(count)

    def invocation_ended(self, end: str) -> None:
        """Count a command of a node by how it ended."""
        self._invocations.add(1, end)

    def log_read(self, status: str) -> None:
        """Count an answer to a position in a run's log: up-to-date, replay, gap or unknown."""
        self._log_reads.add(1, status)

    def retained(self, *, runs: int, events: int, usage: int) -> None:
        """Count what one pass of the retention policy removed."""
        self._retention.add(runs, "runs")
        self._retention.add(events, "events")
        self._retention.add(usage, "usage")

    def store_state(self, *, failing: bool) -> None:
        """Say whether the store fails to write now."""
        self._store_failing.set(failing)

    def loop_lag(self, p50: float, p99: float, most: float) -> None:
        """Say how late the loop was in the last minute, in seconds."""
        for stat, seconds in (("p50", p50), ("p99", p99), ("max", most)):
            self._loop_lag.set(seconds, stat)

    def loop_held(self, cause: str) -> None:
        """Count that the loop was held for too long, by what."""
        self._loop_held.add(1, cause)

    def timers(self, count: int) -> None:
        """Say how many calls wait for their time."""
        self._timers.set(count)

    def registry_swept(self, registry: str, size: int, removed: int) -> None:
        """Count one sweep of a registry, after which it has ``size`` entries."""
        self._registry_size.set(size, registry)
        self._swept.add(removed, registry)
        self._sweeps.add(1, registry)

    def render(self) -> bytes:
        """Return everything as Prometheus text, version 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Tell the Prometheus registry no names in advance: this is its only collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric to the Prometheus registry."""
        from prometheus_client.metrics_core import HistogramMetricFamily

        plain = [
            ("counter", "frames_in", "Frames received.", self.frames_in),
            ("counter", "frames_out", "Frames sent.", self.frames_out),
            ("gauge", "outbox_bytes", "Bytes that wait in all outboxes.", self.outbox_bytes),
        ]
        for kind, name, text, value in plain:
            family = _Family(kind, f"gateway_{name}", text)
            family.set(value)
            yield family.collect()
        for family in self._families:
            yield family.collect()
        total, buckets = 0, []
        for bound, count in zip([*map(str, _BUCKETS), "+Inf"], self._seconds, strict=True):
            total += count
            buckets.append((bound, float(total)))
        name, text = "gateway_request_seconds", "Time from a request to its answer, in seconds."
        yield HistogramMetricFamily(name, text, buckets, self._seconds_sum)

    def _counter(self, name: str, text: str, *labels: str) -> _Family:
        self._families.append(_Family("counter", f"gateway_{name}", text, *labels))
        return self._families[-1]

    def _gauge(self, name: str, text: str, *labels: str) -> _Family:
        self._families.append(_Family("gauge", f"gateway_{name}", text, *labels))
        return self._families[-1]
