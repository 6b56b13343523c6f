"""Draw the samples of a soak as an SVG: small panels over one time, with the standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

Points = Sequence[tuple[float, float]]

COLOURS = ("#1f6feb", "#d1661c", "#2b8a3e", "#a5308f", "#6b7280", "#b59f00")
COLUMNS = 2
PANEL_W, PANEL_H = 400, 150
LEFT, TOP, GAP_X, GAP_Y = 56, 64, 76, 62
POINTS = 200
"""Points of a line; each is the median of a stretch, around which a band shows the least and the most."""


@dataclass(frozen=True)
class Panel:
    """One diagram: its title with the unit, and its lines by name."""

    title: str
    lines: Mapping[str, Points]
    zero: bool = True
    """Whether the axis begins at zero."""


def draw(title: str, panels: Sequence[Panel], warm_up: float, seconds: float) -> str:
    """Return the SVG of panels that all go from 0 to ``seconds``, the warm-up shaded."""
    rows = math.ceil(len(panels) / COLUMNS)
    width = LEFT + COLUMNS * (PANEL_W + GAP_X) - GAP_X + 24
    height = TOP + rows * (PANEL_H + GAP_Y) - GAP_Y + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="11" fill="#24292f">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=14, bold=True),
        _text(LEFT, 38, "shaded: warm-up; bands: least and most", size=10, colour="#57606a"),
    ]
    for index, panel in enumerate(panels):
        x = LEFT + index % COLUMNS * (PANEL_W + GAP_X)
        y = TOP + index // COLUMNS * (PANEL_H + GAP_Y)
        parts += _panel(panel, x, y, warm_up, seconds)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, x: float, y: float, warm_up: float, seconds: float) -> list[str]:
    lines = {name: _thinned(points) for name, points in panel.lines.items() if points}
    low, high, step = _range(lines.values(), zero=panel.zero)

    def at(second: float) -> float:
        return round(x + PANEL_W * second / seconds, 1)

    def up(value: float) -> float:
        return round(y + PANEL_H * (1 - (value - low) / (high - low)), 1)

    parts = [
        f'<rect x="{x}" y="{y}" width="{at(warm_up) - x:.1f}" height="{PANEL_H}" fill="#f3f4f6"/>',
        _text(x, y - 8, panel.title, bold=True),
    ]
    for tick in _ticks(low, high, step):
        parts.append(f'<path d="M{x} {up(tick)}h{PANEL_W}" stroke="#e1e4e8"/>')
        parts.append(_text(x - 6, up(tick) + 4, f"{tick:g}", anchor="end"))
    unit, factor = ("h", 3600) if seconds > 3 * 3600 else ("min", 60)
    for tick in _ticks(0, seconds / factor, _nice(seconds / factor / 6)):
        label = f"{tick:g} {unit}" if tick == 0 else f"{tick:g}"
        parts.append(_text(at(tick * factor), y + PANEL_H + 14, label, anchor="middle"))
    parts.append(f'<path d="M{x} {y}v{PANEL_H}h{PANEL_W}" fill="none" stroke="#8c959f"/>')
    for colour, points in zip(COLOURS, lines.values(), strict=False):
        band = [(at(t), up(most)) for t, _, _, most in points]
        band += [(at(t), up(least)) for t, _, least, _ in reversed(points)]
        line = [(at(t), up(middle)) for t, middle, _, _ in points]
        parts.append(f'<polygon points="{_path(band)}" fill="{colour}" fill-opacity="0.15"/>')
        parts.append(
            f'<polyline points="{_path(line)}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        )
    return [*parts, *_legend(list(lines), x, y)]


def _legend(names: list[str], x: float, y: float) -> list[str]:
    """Return the names of the lines, right-aligned above the panel; one line needs none."""
    parts: list[str] = []
    right = x + PANEL_W
    if len(names) > 1:
        for colour, name in reversed(list(zip(COLOURS, names, strict=False))):
            parts.append(_text(right, y - 8, name, anchor="end"))
            right -= 6.2 * len(name) + 6
            parts.append(
                f'<rect x="{right - 8:.1f}" y="{y - 15}" width="8" height="8" fill="{colour}"/>'
            )
            right -= 16
    return parts


def _thinned(points: Points) -> list[tuple[float, float, float, float]]:
    """Return (time, median, least, most) of stretches with the same number of points."""
    size = max(1, math.ceil(len(points) / POINTS))
    found = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part]
        found.append((median(t for t, _ in part), median(values), min(values), max(values)))
    return found


def _range(lines: object, *, zero: bool) -> tuple[float, float, float]:
    """Return the ends of the axis and the distance of its ticks."""
    points = [point for line in lines for point in line]  # type: ignore[attr-defined]
    low = min((point[2] for point in points), default=0.0)
    high = max((point[3] for point in points), default=1.0)
    if zero:
        low = min(0.0, low)
    high = max(high, low + (1.0 if zero else 8.0))
    step = _nice((high - low) / 4)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _nice(rough: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-9)))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [round(low + index * step, 9) for index in range(int((high - low) / step + 1.001))]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    bold: bool = False,
    colour: str = "",
) -> str:
    style = f' font-weight="{600 if bold else 400}"' + (f' fill="{colour}"' if colour else "")
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {where}{style}>{escape(text)}</text>"
