"""Whether a series is flat.

The slope is that of Theil and Sen: the median of the slopes between all pairs of points, which a few
outliers do not move; the points are medians of up to 60 stretches of the time after the warm-up. It is
given as the drift over that time. A series is flat when its drift is within its tolerance, or when an
interval of 95 % (Sen, 1968) leaves room for no drift at all.

Python and its allocator take memory that they do not give back until the load has shown its peaks: what
is to be proved is a plateau, so the beginning does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

Points = Sequence[tuple[float, float]]
"""Seconds and values."""

_STRETCHES = 60
_Z = 1.96


@dataclass(frozen=True)
class Rule:
    """How far a series may drift: the greatest of a floor, a rate per hour and a part of its median."""

    floor: float
    per_hour: float = 0.0
    part: float = 0.0

    def tolerance(self, hours: float, middle: float) -> float:
        """Return the drift that is allowed over so many hours."""
        return max(self.floor, self.per_hour * hours, self.part * abs(middle))


RULES = {
    "rss_mb": Rule(1.0, per_hour=1.0),
    "descriptors": Rule(2.0),
    "threads": Rule(2.0),
    "children": Rule(2.0),
    "connections": Rule(2.0),
    "runs": Rule(2.0),
    "timers": Rule(2.0, part=0.02),
    "outbox_kb": Rule(16.0),
}


@dataclass(frozen=True)
class Trend:
    """How a series went after the warm-up; drifts are over ``hours``."""

    hours: float
    low: float
    middle: float
    high: float
    drift: float
    least: float
    most: float
    tolerance: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow beyond what is allowed."""
        return self.drift <= self.tolerance or self.least <= 0


def trend(points: Points, rule: Rule) -> Trend | None:
    """Return the trend of a series, or None where there is too little of it."""
    if len(points) < 3:
        return None
    values = sorted(value for _, value in points)
    hours = (points[-1][0] - points[0][0]) / 3600
    slope, least, most = slope_of(stretches(points))
    seconds = hours * 3600
    return Trend(
        hours,
        values[0],
        median(values),
        values[-1],
        slope * seconds,
        least * seconds,
        most * seconds,
        rule.tolerance(hours, median(values)),
    )


def stretches(points: Points) -> Points:
    """Return the medians of up to 60 stretches with the same number of points."""
    size = max(1, math.ceil(len(points) / _STRETCHES))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(median(t for t, _ in part), median(v for _, v in part)) for part in parts]


def slope_of(points: Points) -> tuple[float, float, float]:
    """Return the slope of Theil and Sen, and the ends of its interval of 95 %."""
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]
    )
    count = len(points)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    lower = max(0, int((len(slopes) - spread) / 2))
    upper = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return median(slopes), slopes[lower], slopes[upper]
