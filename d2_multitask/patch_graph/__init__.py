"""Segments without labels, from what an autoencoder needs to see to reconstruct what.

- `autoencoder.py`: what the autoencoder must offer, and batches of visible sets;
- `relation.py`: how much patch j helps to reconstruct patch i; its kinds are in `estimators.py`
  (from errors) and `similarity.py` (at most one pass); `tiles.py`: of large images;
  `shifted.py`: of cells finer than a patch;
- `graph.py`, `communities.py`: patches as a graph, and its division;
- `growing.py`: larger and larger graphs; `foreground.py`: which segments are the object;
  `absorption.py`: by random walks that end at the border;
  `maskcut.py`: several objects by cuts, in place of communities;
  `refine.py`: patches to pixels; `color_regions.py`: whose borders they follow;
- `segmenter.py`: all of it, one image in, segments out, and its settings.

No part of it needs Detectron2 nor a trainer.
"""

from __future__ import annotations

from d2_multitask.patch_graph.communities import consensus, louvain
from d2_multitask.patch_graph.foreground import Foreground, choose_foreground
from d2_multitask.patch_graph.graph import PatchGraph, graph_from_relation
from d2_multitask.patch_graph.growing import Dendrogram, grow
from d2_multitask.patch_graph.relation import (
    Budget,
    Relation,
    measure_anytime,
    measure_relation,
    rank_average,
)
from d2_multitask.patch_graph.segmenter import Segmentation, SegmenterSettings, segment_image
from d2_multitask.patch_graph.shifted import enlarge, measure_shifted

__all__ = [
    "Budget",
    "Dendrogram",
    "Foreground",
    "PatchGraph",
    "Relation",
    "Segmentation",
    "SegmenterSettings",
    "choose_foreground",
    "consensus",
    "enlarge",
    "graph_from_relation",
    "grow",
    "louvain",
    "measure_anytime",
    "measure_relation",
    "measure_shifted",
    "rank_average",
    "segment_image",
]
