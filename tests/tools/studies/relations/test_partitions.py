"""Segments at several levels against people, on drawn images whose numbers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bsds_support import halves, write_ground_truth
from d2_multitask.patch_graph import Relation
from d2_multitask.patch_graph.communities import canonical_labels
from mae_support import small_mae
from studies.relations.divisions import DIVISIONS, GROWN, LOUVAIN, Partition
from studies.relations.images import LabelledImage
from studies.relations.levels import NUM_SEGMENTS, RESOLUTIONS, grown_regions, levels_of
from studies.relations.partition_study import (
    COLOR_REGIONS,
    FOLLOWED,
    GRID,
    PATCHES,
    PIXELS,
    REFINED,
    PartitionStudy,
    covering,
)
from studies.relations.partition_table import (
    collect_partitions,
    partitions_json,
    partitions_markdown,
)
from studies.relations.relations import Measuring

WIDTH, HEIGHT = 64, 32


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[LabelledImage]:
    """Noise around two colours; people say left and right, as the colours do."""
    root = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    found = []
    for name, column in (("a", 32), ("b", 48), ("c", 16)):
        labels = halves(HEIGHT, WIDTH, column)
        pixels = labels[..., None] * [90, 40, 60] + random.integers(0, 20, (HEIGHT, WIDTH, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{name}.png")
        write_ground_truth(root / f"{name}.mat", [labels, labels])
        found.append(LabelledImage(name, root / f"{name}.png", root / f"{name}.mat"))
    return found


@pytest.fixture(scope="module")
def studied(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    model = small_mae(64, 8).eval()
    measuring = Measuring(model, 40, 0, folder / "relations", {"untrained": model})
    study = PartitionStudy(measuring, folder, long_side=64, relations=("color", "encoder_features"))
    methods = study.choose(images[:1])
    return methods, study.report(images[1:], methods)


def test_levels_are_scored_as_by_hand(studied):
    methods, records = studied
    names = ("color", "encoder_features", "encoder_features (untrained)")
    expected = [f"{relation} / {division}" for relation in names for division in DIVISIONS]
    assert [method.name for method in methods] == expected
    grown = ["colour regions / grown", "colour regions (untrained) / grown"]
    assert list(records[0]) == [GRID, COLOR_REGIONS, *grown, *expected]
    result = collect_partitions(records, PATCHES)
    # two colours are two parts, whose border is one of patches too
    assert result.scores["color / normalised_cut"]["covering-ODS"] == pytest.approx(100)
    assert result.scores["color / normalised_cut"]["segments"] == 2
    np.testing.assert_allclose(result.covering["color / normalised_cut"], 100)
    # of the grid's levels one segment is the best: it covers 3/4 with IoU 3/4, 1/4 with 1/4
    assert result.scores[GRID]["covering-ODS"] == pytest.approx(100 * 10 / 16)
    assert collect_partitions(records, REFINED).scores[GRID] == result.scores[GRID]
    # the image's two colours are people's halves
    assert result.scores[COLOR_REGIONS]["covering-ODS"] == 100
    followed = collect_partitions(records, FOLLOWED).scores
    assert followed["color / normalised_cut"]["VI-ODS"] == 0


def test_regions_grow_from_those_of_the_pixels():
    """Regions end inside patches; one that is most of no patch goes with the patch it is in."""
    regions = np.zeros((HEIGHT, WIDTH), np.int64)
    regions[:, 21:], regions[:, 45:], regions[10:13, 2:5] = 1, 2, 3
    torch.manual_seed(0)
    image = torch.rand(3, HEIGHT, WIDTH)
    three, two = grown_regions(regions, (3, 2), small_mae(64, 8).eval(), image)
    np.testing.assert_array_equal(three, np.where(regions == 3, 0, regions))
    merged = canonical_labels(two)
    alone = 2 if merged[0, 0] == merged[0, 30] else 0
    np.testing.assert_array_equal(merged == merged[regions == alone][0], three == alone)


def test_cells_of_half_a_patch(tmp_path):
    """People's border goes through the middle of patches."""
    labels = halves(HEIGHT, WIDTH, 36)
    Image.fromarray((labels[..., None] * [90, 40, 60]).astype(np.uint8)).save(tmp_path / "a.png")
    write_ground_truth(tmp_path / "a.mat", [labels])
    image = LabelledImage("a", tmp_path / "a.png", tmp_path / "a.mat")
    best = {}
    for shifts in (1, 2):
        folder = tmp_path / str(shifts)
        measuring = Measuring(small_mae(64, 8).eval(), 40, 0, folder / "relations", {}, shifts)
        study = PartitionStudy(measuring, folder, long_side=64, relations=("color",))
        records = study.report([image], study.choose([image]))
        scores = collect_partitions(records, PATCHES).scores
        best[shifts] = scores["color / normalised_cut"]["covering-ODS"]
        assert scores["color / grown"]["covering-ODS"] > 50
    assert best[2] == pytest.approx(100) and best[1] < 95


def test_table(studied):
    methods, records = studied
    results = {64: {what: collect_partitions(records, what) for what in PIXELS}}
    text = partitions_markdown(results, {64: methods}, [GRID], "Two images.", "command")
    verdict = (
        "- encoder_features / louvain: not distinguishable from an untrained autoencoder (+0.0 ±"
    )
    assert text.count(verdict) == 3 and "## 64 pixels, after refinement" in text
    assert "| against regular grid |" in " ".join(text.split())
    content = json.loads(json.dumps(partitions_json(results, {64: methods}, "", "")))
    assert len(content["results"]["64"]["patches"]["covering"]["color / grown"]) == 2


def test_every_image_has_as_many_levels():
    """Also without an edge, where nothing is divided."""
    relation = Relation(torch.zeros(16, 16), (4, 4))
    model, image = small_mae(32, 8).eval(), torch.zeros(3, 32, 32)
    for division in DIVISIONS:
        levels = levels_of(relation, division, Partition(0, None), model, image)
        assert len(levels) == len(RESOLUTIONS if division == LOUVAIN else NUM_SEGMENTS)
        assert all(level.shape == (4, 4) for level in levels)


def test_regions_grow_to_the_numbers():
    places = torch.arange(16.0)
    relation = Relation(torch.exp(-((places[:, None] - places) ** 2)), (4, 4))
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = levels_of(relation, GROWN, Partition(0, None), small_mae(32, 8).eval(), image)
    counts = [len(np.unique(level)) for level in levels]
    assert counts[:2] == [2, 3] and counts == sorted(counts)


def test_covering():
    # left half: IoU 1/2 with everything, right half the same; the second person saw one region
    people = [halves(4, 8, 4), np.ones((4, 8), int)]
    assert covering(np.zeros((4, 8), int), people) == pytest.approx(0.75)
    assert covering(people[0], people) == pytest.approx(0.75)
