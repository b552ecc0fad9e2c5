"""Line charts as SVG text, with a description for screen readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from adapters.report.curves import Line, Panel, Points
from adapters.report.text import seen

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
MOST_POINTS = 400
"""A curve with more is thinned: the chart is 300 pixels wide."""
SMOOTHED_FROM, DOTS_UP_TO = 40, 20
"""From how many points on the average is drawn, up to how many each point is."""


def line_chart(panel: Panel) -> Markup:
    """The SVG of a panel: axes, bands, curves (long ones with their moving average)."""
    xs, ys = map(list, zip(*(point for line in panel.lines for point in line.points), strict=True))
    ys += [edge for line in panel.lines for _, *edges in line.band for edge in edges]
    steps = panel.across == "step"
    x_ticks, x0, x1 = _axis(min(xs), max(xs), whole=True, tight=True) if steps else _axis(0.0, 1.0)
    y_ticks, y0, y1 = _axis(*((0.0, 1.0) if panel.share else (min(ys), max(ys))))

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM):.1f}"

    svg = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(seen(summary(panel)))}" '
        f'data-scale="{x0!r} {x1!r} {y0!r} {y1!r}" data-frame="{LEFT} {WIDTH - RIGHT} {TOP} {HEIGHT - BOTTOM}">',
        f'<text x="{LEFT - 6}" y="{HEIGHT - 7}" text-anchor="end">{escape(panel.across)}</text>',
    ]
    for tick in y_ticks:
        at = place(x0, tick).split(",")[1]
        svg.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{at}" dy="0.32em" text-anchor="end">{_label(tick, y_ticks)}</text>')
    for tick in x_ticks:
        if tick != x0:  # the axis has its label there
            at = place(tick, y0).split(",")[0]
            svg.append(f'<text x="{at}" y="{HEIGHT - 7}" text-anchor="middle">{short(tick)}</text>')
    for n, line in enumerate(panel.lines):
        svg += _curve(n, line, place)
    return Markup("".join([*svg, "</svg>"]))  # noqa: S704 - numbers, fixed words, and one escaped label


def _curve(n: int, line: Line, place: Callable[[float, float], str]) -> Iterator[str]:
    if line.band:
        band = _thinned(line.band)
        edge = [place(x, high) for x, _, high in band] + [place(x, low) for x, low, _ in reversed(band)]
        yield f'<polygon class="band c{n}" points="{" ".join(edge)}"/>'
    smooth = len(line.points) >= SMOOTHED_FROM
    shown = [place(x, y) for x, y in _thinned(line.points)]
    yield f'<polyline class="line c{n}{" faint" if smooth else ""}" points="{" ".join(shown)}"/>'
    if smooth:
        average = " ".join(place(x, y) for x, y in _thinned(moving_average(line.points)))
        yield f'<polyline class="line c{n} average" points="{average}"/>'
    elif len(line.points) <= DOTS_UP_TO:
        for x, y in (point.split(",") for point in shown):
            yield f'<circle class="dot c{n}" r="2.5" cx="{x}" cy="{y}"/>'


def summary(panel: Panel) -> str:
    """The panel in a sentence, for screen readers."""
    sentences = []
    for line in panel.lines:
        (x0, first), (x1, last), values = line.points[0], line.points[-1], [y for _, y in line.points]
        ends = f"{short(first)} at {panel.across} {short(x0)}, {short(last)} at {panel.across} {short(x1)}"
        sentences.append(f"{line.name}: {ends}, lowest {short(min(values))}, highest {short(max(values))}")
    return f"{panel.title}. {'; '.join(sentences)}."


def short(value: float, digits: int = 3) -> str:
    """A number in few characters, with so many significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 10**digits - 0.5:  # also what rounds to a power of ten
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def moving_average(points: Points) -> Points:
    """Centred mean over a twentieth of the points, fewer at the ends."""
    half = max(1, len(points) // 40)
    total = [0.0]
    for _, y in points:
        total.append(total[-1] + y)
    out = []
    for n, (x, _) in enumerate(points):
        first, end = max(0, n - half), min(len(points), n + half + 1)
        out.append((x, (total[end] - total[first]) / (end - first)))
    return out


def _label(tick: float, ticks: Sequence[float]) -> str:
    """A tick's number with enough digits to differ from the next."""
    widest = max(map(abs, ticks)) / (ticks[1] - ticks[0])
    return short(tick, max(3, math.ceil(math.log10(widest)) + 1))


def _axis(low: float, high: float, *, whole: bool = False, tight: bool = False) -> tuple[list[float], float, float]:
    """Ticks at 1, 2 or 5 times a power of ten, and the ends of the axis."""
    if high - low <= max(abs(low), abs(high)) * 1e-9 or high - low < 1e-30:
        pad = 1.0 if whole else abs(low) * 0.1 if abs(low) > 1e-9 else 0.1
        low, high = low - pad, high + pad
    raw = (high - low) / (5 if tight else 4)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [n * step for n in range(first, last + 1)]
    return ([t for t in ticks if low <= t <= high], low, high) if tight else (ticks, ticks[0], ticks[-1])


def _thinned(points: Sequence[Any]) -> Sequence[Any]:
    stride = math.ceil(len(points) / MOST_POINTS)
    kept = points[::stride]
    return kept if stride == 1 or kept[-1] == points[-1] else [*kept, points[-1]]
