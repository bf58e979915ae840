"""SVG curves: valid XML, points where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from d2_multitask.reports.charts import HEIGHT, LEFT, TOP, WIDTH, line_chart


def test_points_are_where_the_axes_say():
    svg = line_chart({"a & b": ([0, 0.5, 1], [1, 0.25, float("nan")])}, "recall", "precision")
    root = ElementTree.fromstring(svg)
    paths = [p.get("d") for p in root.iter("path") if p.get("stroke-width") == "2"]
    numbers = [float(x) for x in re.findall(r"[0-9.]+", paths[0])]
    assert numbers == [LEFT, TOP, LEFT + WIDTH / 2, TOP + 0.75 * HEIGHT]  # NaN is left out
    texts = [t.text for t in root.iter("text")]
    assert {"a & b", "recall", "precision"} <= set(texts)


def test_no_points():
    assert ElementTree.fromstring(line_chart({"none": ([], [])}, "x", "y")) is not None
