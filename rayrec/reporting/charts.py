"""Charts of the report: inline SVGs that stretch with the page. Text is outside, as HTML, and does not stretch.

Shapes are SVG instead of CSS boxes, because browsers print SVG fills by default, but not backgrounds. All functions
take and return only numbers in markup, so nothing needs escaping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from rayrec.monitoring.run_statistics import bin_edges
from rayrec.numerics.types import Float64s


def bar(share: float, colour: int = 1) -> Markup:
    """A horizontal bar filling `share` in [0, 1] of its line."""
    return _svg("bar", 100, 10, f'<rect class="c{colour}" width="{_n(100 * np.clip(share, 0, 1))}" height="10"/>')


def stacked(shares: Sequence[float]) -> Markup:
    """Segments that sum to at most 1, side by side, each in the colour of its position."""
    parts, at = [], 0.0
    for place, share in enumerate(shares):
        rect = f'<rect class="c{place % 6 + 1}" x="{_n(100 * at)}" width="{_n(100 * share)}" height="10"/>'
        parts.append(rect)
        at += share
    return _svg("bar", 100, 10, "".join(parts))


def bars(heights: Float64s, colour: int = 1) -> Markup:
    """A histogram of equal steps; the highest bar fills the plot."""
    if not len(heights):
        return Markup("")
    scaled = 100 * heights / max(float(heights.max()), 1e-12)
    width = 100 / len(heights)
    rects = (
        f'<rect x="{_n(place * width)}" y="{_n(100 - height)}" width="{_n(width * 0.92)}" height="{_n(height)}"/>'
        for place, height in enumerate(scaled)
        if height > 0
    )
    return _svg("plot", 100, 100, f'<g class="c{colour}">{"".join(rects)}</g>')


def line(x: Float64s, y: Float64s, colour: int = 1) -> Markup:
    """A curve through the points, from the least to the greatest value of both."""
    if len(x) < 2:
        return Markup("")
    across = 100 * (x - x.min()) / max(float(np.ptp(x)), 1e-12)
    down = 96 - 92 * (y - y.min()) / max(float(np.ptp(y)), 1e-12)
    points = " ".join(f"{_n(a)},{_n(d)}" for a, d in zip(across, down, strict=True))
    return _svg("plot", 100, 100, f'<polyline class="l{colour}" points="{points}"/>')


def interval(low: float, value: float, high: float, span: tuple[float, float], colour: int = 1) -> Markup:
    """A value and its interval on the scale `span`, with a thin mark at 0 where the scale contains it."""
    least, most = span
    scale = 100 / max(most - least, 1e-12)
    start, mid, end = ((number - least) * scale for number in (low, value, high))
    zero = f'<path class="axis" d="M{_n(-least * scale)},0V10"/>' if least < 0 < most else ""
    whisker = f'<path class="l{colour}" d="M{_n(start)},5H{_n(end)}"/>'
    return _svg("bar", 100, 10, f'{zero}{whisker}<path class="l{colour} mark" d="M{_n(mid)},0V10"/>')


def histogram(counts: Mapping[str, float], bins: int = 40) -> tuple[Float64s, float, float]:
    """Convert counts by score bin to (heights [bins], from, to) on equal steps, without the outer 0.5% of each side."""
    numbers = sorted((int(key), count) for key, count in counts.items() if count > 0)
    if not numbers:
        return np.zeros(0), 0.0, 0.0
    edges = np.array([bin_edges(number) for number, _ in numbers])
    count = np.array([count for _, count in numbers])
    reached = np.cumsum(count) / count.sum()
    low, high = edges[np.searchsorted(reached, 0.005), 0], edges[np.searchsorted(reached, 0.995), 1]
    grid = np.linspace(low, high, bins + 1)
    # The mass of a bin lies evenly between its edges: interpolate the cumulative curve on the grid, then difference
    # it.
    corner = np.concatenate([edges[:, 0], edges[:, 1]])
    below = np.concatenate([np.cumsum(count) - count, np.cumsum(count)])
    order = np.lexsort((below, corner))
    return np.diff(np.interp(grid, corner[order], below[order])), float(low), float(high)


def _svg(kind: str, width: int, height: int, inside: str) -> Markup:
    shape = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true"'
    return Markup(f'<svg class="{kind}" {shape}>{inside}</svg>')


def _n(number: float) -> str:
    return f"{float(number):.2f}".rstrip("0").rstrip(".")
