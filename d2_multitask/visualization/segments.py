"""Pictures of segments that were found without labels: patches, graphs, levels, relations.

Letters: H x W pixels of the picture, h x w patches, n nodes. The image that is drawn on has been
enlarged before (`style.enlarge`).
"""

from __future__ import annotations

import cv2
import numpy as np

from d2_multitask.patch_graph import PatchGraph, Segmentation
from d2_multitask.visualization import style
from d2_multitask.visualization.contact_sheet import contact_sheet

STRIP_CELL = 256  # pixels
_MAX_LEVELS = 3
_EDGES_PER_NODE = 3
_DIM = 0.45  # brightness of the image behind a graph
_SHIFT = 4  # OpenCV draws with 1 / 2**4 pixel


def draw_patches(image: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """The image (H, W, 3) cut into patches by thin lines; a new array."""
    picture = image.copy()
    height, width = image.shape[:2]
    for k in range(1, grid_hw[0]):
        picture[round(k * height / grid_hw[0])] = 255
    for k in range(1, grid_hw[1]):
        picture[:, round(k * width / grid_hw[1])] = 255
    return picture


def draw_segments(image: np.ndarray, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Tint each segment and draw the lines between them.

    ``labels``: integers >= 0 of any size, stretched over the image.
    """
    labels = _stretched(labels, image.shape[:2])
    palette = np.array(style.OBJECT_COLORS, np.float32)
    picture = image * (1 - alpha) + palette[labels % len(palette)] * alpha
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    picture[_thick(border)] = 255
    return picture.clip(0, 255).astype(np.uint8)


def draw_foreground(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The object in its colours, the rest dimmed; all dimmed where there is no object.

    ``mask``: bool of any size, stretched over the image; ``None`` = no object.
    """
    if mask is None:
        return (image * _DIM).astype(np.uint8)
    mask = _stretched(mask.astype(np.uint8), image.shape[:2]).astype(bool)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * np.ones(3) * _DIM
    picture = np.where(mask[..., None], image, grey).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(round(style.line_width(image.shape[:2])), 1)
    return cv2.drawContours(picture, outlines, -1, style.object_color(0), width, cv2.LINE_AA)


def draw_graph(
    image: np.ndarray,
    graph: PatchGraph,
    *,
    labels: np.ndarray | None = None,
    edges_per_node: int = _EDGES_PER_NODE,
) -> np.ndarray:
    """Nodes and the strongest edges over the dimmed image; strong edges are bright and thick.

    ``graph``: n nodes. ``labels``: (n,) colours of the nodes; one colour without them.
    ``edges_per_node``: about so many edges per node are drawn.
    """
    height, width = image.shape[:2]
    scale_yx = np.array([height / graph.grid_hw[0], width / graph.grid_hw[1]])
    points = (graph.positions_yx + 0.5) * scale_yx
    fixed = np.round(points[:, ::-1] * 2**_SHIFT).astype(int)  # (n, 2) x, y
    picture = np.ascontiguousarray((image * _DIM).astype(np.uint8))
    first, second, weight = graph.edges()
    order = np.argsort(weight)[-edges_per_node * graph.num_nodes :]
    shares = weight[order] / max(float(weight.max(initial=0)), 1e-12)
    shades = (80 + 175 * shares).astype(np.uint8)[:, None]
    # OpenCV has no colours of nothing: the graph of an image of one colour has no edges
    colored = cv2.applyColorMap(shades, style.HEATMAP_COLORS) if len(shades) else shades
    colors = colored.reshape(-1, 3)[:, ::-1].tolist()
    base = style.line_width((height, width))
    for k, share, color in zip(order, shares, colors, strict=True):
        ends = fixed[first[k]].tolist(), fixed[second[k]].tolist()
        cv2.line(picture, *ends, color, max(round(base * 2 * share), 1), cv2.LINE_AA, _SHIFT)
    sizes = np.sqrt([len(m) for m in graph.members]) if graph.members else np.ones(len(points))
    radii = np.minimum(base * (1.2 + 1.2 * sizes), min(scale_yx) * 0.9) * 2**_SHIFT
    for k, (center, radius) in enumerate(zip(fixed.tolist(), radii, strict=True)):
        color = (255, 255, 255) if labels is None else style.object_color(int(labels[k]))
        cv2.circle(picture, center, round(radius), color, -1, cv2.LINE_AA, _SHIFT)
    return picture


def region_graph(graph: PatchGraph, labels: np.ndarray) -> PatchGraph:
    """Regions as nodes: edges are the mean weight between the patches of two regions.

    Args:
        graph: nodes are patches.
        labels: (h, w), regions 0..C-1.
    """
    flat = labels.ravel()
    count = int(flat.max()) + 1
    member = np.zeros((count, flat.size))
    member[flat, np.arange(flat.size)] = 1
    sizes = member.sum(1)
    weights = (member @ (graph.weights @ member.T)) / np.outer(sizes, sizes)
    np.fill_diagonal(weights, 0)
    positions = (member @ graph.positions_yx) / sizes[:, None]
    members = tuple(np.flatnonzero(flat == k) for k in range(count))
    return PatchGraph((weights + weights.T) / 2, positions, graph.grid_hw, members)


def strip_panels(
    image: np.ndarray, result: Segmentation, min_long_side: int = 2 * STRIP_CELL
) -> dict[str, np.ndarray]:
    """From patches to segments, step by step: caption -> (H, W, 3) uint8 RGB.

    Patches, their graph, Louvain's levels, larger and larger graphs of regions, final segments,
    foreground.

    ``image``: (H', W', 3) uint8 RGB. ``result``: of that image.
    """
    image = style.enlarge(image, min_long_side)
    grid_hw = result.graph.grid_hw
    panels = {
        f"{grid_hw[0]} x {grid_hw[1]} patches": draw_patches(image, grid_hw),
        "graph": draw_graph(image, result.graph),
    }
    for labels in result.levels[-_MAX_LEVELS:]:
        caption = _counted(labels, "communities", panels)
        panels[caption] = draw_segments(image, labels)
    for labels in _stages(result):
        larger = region_graph(result.graph, labels)
        tinted = draw_segments(image, labels, alpha=0.35)
        caption = _counted(labels, "larger nodes", panels)
        panels[caption] = draw_graph(tinted, larger, labels=np.arange(larger.num_nodes))
    panels[_counted(result.pixel_labels, "segments", panels)] = draw_segments(
        image, result.pixel_labels
    )
    if result.foreground is not None:
        caption = "no object" if result.foreground_mask is None else "foreground"
        panels[caption] = draw_foreground(image, result.foreground_mask)
    return panels


def draw_strip(image: np.ndarray, result: Segmentation, cell: int = STRIP_CELL) -> np.ndarray:
    """`strip_panels` in one row; (H, W, 3) uint8 RGB."""
    panels = strip_panels(image, result, 2 * cell)
    pictures = list(panels.values())
    return contact_sheet(pictures, list(panels), columns=len(panels), cell_width=cell, gap=6)


def draw_relation_of_patch(
    image: np.ndarray, values: np.ndarray, patch_yx: tuple[int, int]
) -> np.ndarray:
    """How one patch is related to all others, the strongest in the brightest colour.

    ``values``: (h, w); what is not above 0 stays dark. ``patch_yx``: the patch, which is framed.
    """
    height, width = image.shape[:2]
    share = np.maximum(values, 0) / max(float(values.max()), 1e-12)
    stretched = _stretched(share.astype(np.float32), (height, width))
    picture = style.blend_heatmap(image, stretched)
    (y, x), (rows, columns) = patch_yx, values.shape
    corner = (round(x * width / columns), round(y * height / rows))
    opposite = (round((x + 1) * width / columns), round((y + 1) * height / rows))
    line = max(round(style.line_width((height, width)) * 1.5), 1)
    return cv2.rectangle(np.ascontiguousarray(picture), corner, opposite, (255, 255, 255), line)


def _stages(result: Segmentation) -> list[np.ndarray]:
    """Regions before growing, half way, and at its end: as few as were asked for, or else two."""
    if result.dendrogram is None or not result.dendrogram.merges:
        return []
    start, final = (int(x.max()) + 1 for x in (result.dendrogram.labels, result.patch_labels))
    end = final if final < start else 2
    counts = sorted({start, (start + end + 1) // 2, end}, reverse=True)
    return [result.dendrogram.labels_at(num_regions=count) for count in counts if count > 1]


def _counted(labels: np.ndarray, what: str, taken: dict[str, np.ndarray]) -> str:
    caption = f"{len(np.unique(labels))} {what}"
    while caption in taken:
        caption += " "  # captions are keys; two levels may be equally many
    return caption


def _stretched(values: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    if values.shape == tuple(size_hw):
        return values
    kept = values if values.dtype == np.float32 else values.astype(np.int32)
    return cv2.resize(kept, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _thick(border: np.ndarray) -> np.ndarray:
    width = max(round(style.line_width(border.shape)), 1)
    return cv2.dilate(border.astype(np.uint8), np.ones((width, width), np.uint8)).astype(bool)
