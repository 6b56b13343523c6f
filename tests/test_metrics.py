"""gateway.metrics: what is counted, and the text that a scraper reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

import gateway.metrics
from gateway.metrics import Metrics

STATS = ("p50", "p99", "max")


def samples(metrics: Metrics) -> dict[str, float]:
    """Return the rendered samples by ``name{label=value,…}``."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_everything_is_rendered() -> None:
    """What was counted is what a scraper reads, under the gateway's names."""
    metrics = Metrics()
    metrics.frames_in += 3
    metrics.frames_out += 2
    metrics.outbox_bytes += 10
    metrics.connection_opened("operator", 3)
    metrics.connection_opened("operator", 3)
    metrics.connection_ended("operator", 3)
    metrics.connection_opened("node", 4)
    metrics.connection_closed("slow-consumer")
    metrics.handshake_refused("unauthorized")
    metrics.outbox_dropped("droppable", 4)
    metrics.outbox_dropped("latest")
    metrics.request_done("health", "ok")
    metrics.request_done("health", "ok")
    metrics.request_done("agent", "UNAVAILABLE")
    metrics.runs_active(5)
    metrics.run_ended("done")
    metrics.listener_failed()
    metrics.approvals_pending(6)
    metrics.approval_ended("deny")
    metrics.ends_waiting(2)
    metrics.end_dropped()
    metrics.store_state(failing=True)
    metrics.timers(7)
    metrics.loop_lag(0.001, 0.02, 0.3)
    metrics.loop_held("callback")
    metrics.registry_swept("runs", 9, 1)
    metrics.registry_swept("runs", 8, 2)
    found = {name: value for name, value in samples(metrics).items() if "seconds" not in name}
    assert found == {
        "gateway_frames_in_total": 3,
        "gateway_frames_out_total": 2,
        "gateway_outbox_bytes": 10,
        "gateway_connections{protocol=3,role=operator}": 1,
        "gateway_connections{protocol=4,role=node}": 1,
        "gateway_connections_closed_total{cause=slow-consumer}": 1,
        "gateway_handshakes_refused_total{cause=unauthorized}": 1,
        "gateway_outbox_dropped_total{class=droppable}": 4,
        "gateway_outbox_dropped_total{class=latest}": 1,
        "gateway_requests_total{method=health,outcome=ok}": 2,
        "gateway_requests_total{method=agent,outcome=UNAVAILABLE}": 1,
        "gateway_runs_active": 5,
        "gateway_runs_total{outcome=done}": 1,
        "gateway_listener_errors_total": 1,
        "gateway_approvals_pending": 6,
        "gateway_approvals_total{outcome=deny}": 1,
        "gateway_ends_waiting": 2,
        "gateway_ends_dropped_total": 1,
        "gateway_store_failing": 1,
        "gateway_timers": 7,
        "gateway_node_invocations_pending": 0,
        "gateway_loop_held_total{cause=callback}": 1,
        "gateway_registry_size{registry=runs}": 8,
        "gateway_registry_swept_total{registry=runs}": 3,
        "gateway_sweeps_total{registry=runs}": 2,
    }
    lags = {stat: samples(metrics)[f"gateway_loop_lag_seconds{{stat={stat}}}"] for stat in STATS}
    assert lags == {"p50": 0.001, "p99": 0.02, "max": 0.3}


def test_metrics_are_their_own() -> None:
    """Two gateways in one process share no count, and rendering twice gives the same."""
    one, two = Metrics(), Metrics()
    one.listener_failed()
    assert samples(one) == samples(one)
    assert samples(one)["gateway_listener_errors_total"] == 1
    assert samples(two)["gateway_listener_errors_total"] == 0


def test_store_recovers() -> None:
    """The store counts as failing until it is said to work again."""
    metrics = Metrics()
    metrics.store_state(failing=True)
    metrics.store_state(failing=False)
    assert samples(metrics)["gateway_store_failing"] == 0


def test_request_seconds() -> None:
    """The time of requests is a histogram whose buckets include their upper bound."""
    metrics = Metrics()
    for seconds in (0.0, 0.001, 0.002, 0.5, 120.0):
        metrics.request_done("health", "ok", seconds)
    found = samples(metrics)
    assert found["gateway_request_seconds_bucket{le=0.001}"] == 2
    assert found["gateway_request_seconds_bucket{le=0.0025}"] == 3
    assert found["gateway_request_seconds_bucket{le=0.25}"] == 3
    assert found["gateway_request_seconds_bucket{le=0.5}"] == 4
    assert found["gateway_request_seconds_bucket{le=60.0}"] == 4
    assert found["gateway_request_seconds_bucket{le=+Inf}"] == 5
    assert found["gateway_request_seconds_count"] == 5
    assert found["gateway_request_seconds_sum"] == 0.0 + 0.001 + 0.002 + 0.5 + 120.0


def test_unknown_methods_share_a_series() -> None:
    """Methods that do not exist are counted together, whatever clients call them."""
    metrics = Metrics(methods=["health"])
    for method in ("health", "x", "y"):
        metrics.request_done(method, "ok")
    found = samples(metrics)
    assert found["gateway_requests_total{method=health,outcome=ok}"] == 1
    assert found["gateway_requests_total{method=other,outcome=ok}"] == 2


def test_series_are_bounded() -> None:
    """A label that takes ever new values ends in one series, and known ones go on counting."""
    metrics = Metrics()
    for number in range(1100):
        metrics.request_done(f"method-{number}", "ok")
    metrics.request_done("method-0", "ok")
    found = samples(metrics)
    assert sum(name.startswith("gateway_requests_total") for name in found) == 1001
    assert found["gateway_requests_total{method=other,outcome=other}"] == 100
    assert found["gateway_requests_total{method=method-0,outcome=ok}"] == 2


def test_import_is_cheap() -> None:
    """Importing the module does not load the Prometheus library; rendering does."""
    for name, value in vars(gateway.metrics).items():
        origin = getattr(value, "__module__", None) or getattr(value, "__name__", None) or ""
        assert not origin.startswith("prometheus_client"), name
