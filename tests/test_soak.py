"""bench.soak: what it takes for growth, and what it reads and draws."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest

from bench.soak.judge import RULES, Rule, slope_of, stretches, trend
from bench.soak.plot import POINTS, Panel, draw
from bench.soak.sample import read_metrics
from gateway.metrics import Metrics


def series(drift: float, noise: float, count: int = 500) -> list[tuple[float, float]]:
    """Return an hour of samples that drift and jump about."""
    source = random.Random(7)
    return [
        (3600 * n / count, 80 + drift * n / count + source.uniform(-noise, noise))
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("drift", "noise", "flat"),
    [(0.0, 5.0, True), (0.8, 0.2, True), (2.0, 3.0, False), (10.0, 0.0, False), (-9.0, 1.0, True)],
)
def test_growth_is_told_from_noise(drift: float, noise: float, flat: bool) -> None:
    """A series grows when it drifts by more than is allowed, however much it jumps about."""
    found = trend(series(drift, noise), RULES["rss_mb"])

    assert found is not None
    assert found.flat is flat
    assert found.least <= found.drift <= found.most
    assert abs(found.drift - drift) < max(0.1, noise / 4)


def test_outliers_are_no_growth() -> None:
    """A few samples far off, late ones above all, do not make a slope."""
    points = series(0.0, 0.1)
    points[-3:] = [(at, 500.0) for at, _ in points[-3:]]
    found = trend(points, Rule(1.0))

    assert found is not None
    assert (found.flat, found.high) == (True, 500.0)


def test_too_little_to_judge() -> None:
    """Of two samples there is no trend, of many there are 60 stretches at most."""
    assert trend(series(0.0, 0.0, 2), Rule(1.0)) is None
    assert len(stretches(series(0.0, 0.0, 1001))) <= 60
    assert slope_of([(0, 1.0), (1, 3.0), (2, 5.0)])[0] == 2.0


def test_metrics_are_read() -> None:
    """Families are summed, statistics are kept apart, registries have their sizes."""
    metrics = Metrics()
    metrics.connection_opened("operator", 3)
    metrics.connection_opened("node", 4)
    metrics.registry_swept("presence", 3, 0)
    metrics.loop_lag(0.001, 0.02, 0.3)
    sums, registries = read_metrics(metrics.render().decode())

    assert sums["gateway_connections"] == 2
    assert sums["gateway_loop_lag_seconds p99"] == 0.02
    assert registries == {"presence": 3}


def test_the_drawing_is_an_image_of_every_series() -> None:
    """Each line of each panel is drawn, thinned to what can be seen; an empty one is left out."""
    panels = [
        Panel("Memory, MB", {"rss": series(1.0, 1.0)}, zero=False),
        Panel("This & that", {"a": series(0.0, 0.0), "b": series(2.0, 0.0), "c": []}),
        Panel("Nothing", {"a": []}),
    ]
    root = ElementTree.fromstring(draw("A <soak>", panels, 60.0, 3600.0))
    lines = root.findall("{*}polyline")
    texts = [text.text for text in root.findall("{*}text")]

    assert len(lines) == 3
    assert all(len(line.attrib["points"].split()) <= POINTS for line in lines)
    assert {"A <soak>", "This & that", "Memory, MB", "0 min", "a", "b"} <= set(texts)
