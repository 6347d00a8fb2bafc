"""The dashboard's panels with a run's data, as an SVG: Grafana itself is not to be had here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from prometheus import WINDOW, Prometheus

COLUMN, ROW, GAP = 48, 26, 8  # Grafana's grid has 24 columns
COLOURS = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#d44a3a", "#8ab8ff", "#b7a100", "#37872d")
POINTS = 120
STYLE = (
    "text{font:11px sans-serif;fill:#c8cdd7}.t{font-weight:600;fill:#fff}"
    ".p{fill:#181b1f;stroke:#2c3235}.g{stroke:#2c3235}polyline{fill:none;stroke-width:1.5}"
)

Line = tuple[str, list[tuple[float, float]]]


def draw(prometheus: Prometheus, dashboard: Path, start: float, end: float) -> str:
    """Return the picture of what the run between those times has left."""
    panels = json.loads(dashboard.read_text())["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * ROW
    parts = [part for panel in panels for part in _panel(prometheus, panel, start, end)]
    size = f'width="{24 * COLUMN}" height="{height}"'
    ground = '<rect width="100%" height="100%" fill="#111217"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{ground}'
        + "\n".join(parts)
        + "</svg>\n"
    )


def _panel(
    prometheus: Prometheus, panel: dict[str, Any], start: float, end: float
) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = place["x"] * COLUMN + GAP / 2, place["y"] * ROW + GAP / 2
    width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
    if panel["type"] == "row":
        yield f'<text class="t" x="{x}" y="{y + 14}">{escape(panel["title"])}</text>'
        return
    yield f'<rect class="p" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'
    yield f'<text class="t" x="{x + 8}" y="{y + 17}">{escape(panel["title"])}</text>'
    lines = list(_lines(prometheus, panel, start, end))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "stat":
        across = max(1, int(width // 180))
        for number, (name, points) in enumerate(lines):
            at = f'x="{x + 10 + number % across * 180}" y="{y + 50 + number // across * 24}"'
            yield f"<text {at}>{escape(name)}: {_shown(points[-1][1], unit)}</text>"
        return
    yield from _plot(lines, unit, (x + 52, y + 26, width - 62, height - 64), (start, end))
    for number, (name, _) in enumerate(lines[:8]):
        at = f'x="{x + 8 + number % 4 * 92}" y="{y + height - 22 + number // 4 * 14}"'
        colour = COLOURS[number % len(COLOURS)]
        yield f'<text {at}><tspan fill="{colour}">●</tspan> {escape(name[:12])}</text>'


def _plot(
    lines: Sequence[Line],
    unit: str,
    box: tuple[float, float, float, float],
    span: tuple[float, float],
) -> Iterator[str]:
    x, y, width, height = box
    most = max((value for _, points in lines for _, value in points), default=1) or 1
    for part in (0, 0.5, 1):
        level = y + height * (1 - part)
        yield f'<line class="g" x1="{x}" x2="{x + width}" y1="{level}" y2="{level}"/>'
        text = _shown(most * part, unit)
        yield f'<text x="{x - 4}" y="{level + 4}" text-anchor="end">{text}</text>'
    for number, (_, points) in enumerate(lines):
        across = width / (span[1] - span[0])
        where = " ".join(
            f"{x + (at - span[0]) * across:.1f},{y + height * (1 - value / most):.1f}"
            for at, value in points
        )
        yield f'<polyline stroke="{COLOURS[number % len(COLOURS)]}" points="{where}"/>'


def _lines(
    prometheus: Prometheus, panel: dict[str, Any], start: float, end: float
) -> Iterator[Line]:
    for target in panel["targets"]:
        expr = target["expr"].replace("$__rate_interval", WINDOW).replace("[1h]", "[10m]")
        step = max((end - start) / POINTS, 1)
        found = prometheus.get("/query_range", query=expr, start=start, end=end, step=step)
        for series in found["result"]:
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(float(at), float(value)) for at, value in series["values"]]
            if points := [point for point in points if math.isfinite(point[1])]:
                yield name, points


def _shown(value: float, unit: str) -> str:
    if unit == "bytes":
        power = int(math.log(value, 1024)) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    sign = {"s": " s", "reqps": "/s"}.get(unit, "")
    return f"{value:.3g}{sign}"
