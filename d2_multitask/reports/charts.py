"""Curves as SVG text, without a drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

# Of Okabe and Ito, told apart with any kind of colour vision, on light and dark ground.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
# The plot in the SVG's units, its corner and size; the rest is for the labels.
LEFT, TOP, WIDTH, HEIGHT = 46, 10, 290, 220
LINE = 15  # of the legend

Curve = tuple[Sequence[float], Sequence[float]]


def line_chart(
    curves: Mapping[str, Curve], x_label: str, y_label: str, *, diagonal: bool = False
) -> str:
    """Curves with both axes from 0 to 1, and a legend below.

    Args:
        curves: name -> (x, y).
        x_label: below the plot.
        y_label: left of the plot.
        diagonal: draw y = x, dashed, too.
    """
    bottom = TOP + HEIGHT
    total = bottom + 38 + LINE * len(curves)
    parts = [
        f'<svg viewBox="0 0 {LEFT + WIDTH + 14} {total}" role="img" font-size="11" '
        f'aria-label="{escape(y_label)} by {escape(x_label)}" fill="none">'
    ]
    for tick in np.linspace(0, 1, 6):
        x, y = LEFT + WIDTH * tick, bottom - HEIGHT * tick
        parts.append(
            f'<path d="M{x:.0f} {TOP}V{bottom}M{LEFT} {y:.0f}H{LEFT + WIDTH}" '
            'stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{tick:.1f}</text>'
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{tick:.1f}</text>'
        )
    if diagonal:
        parts.append(
            f'<path d="M{LEFT} {bottom}L{LEFT + WIDTH} {TOP}" stroke="currentColor" '
            'stroke-dasharray="4"/>'
        )
    middle = LEFT + WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 28}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {TOP + HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        color, y = COLORS[number % len(COLORS)], bottom + 44 + LINE * number
        parts.append(
            f'<path d="{_path(*curve)}" stroke="{color}" stroke-width="2"/>'
            f'<path d="M{LEFT} {y - 4}h18" stroke="{color}" stroke-width="3"/>'
            f'<text x="{LEFT + 24}" y="{y}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    xy = np.stack([np.asarray(x, float), np.asarray(y, float)], 1)
    xy = xy[np.isfinite(xy).all(1)].clip(0, 1) * [WIDTH, -HEIGHT] + [LEFT, TOP + HEIGHT]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in xy) if len(xy) else ""
