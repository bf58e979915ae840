"""Choosing and reporting: nothing twice, nothing on the same images, numbers as by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from d2_multitask.evaluation.segments import mask_iou, patch_mask, read_object_mask
from studies.relations.methods import (
    Method,
    method_as_json,
    method_from_json,
)
from studies.relations.picture import draw_study
from studies.relations.table import (
    as_json,
    collect_result,
    estimate,
    markdown,
)

BASELINES = ("distance / louvain", "centre disc")


@pytest.fixture(scope="module")
def studied(make_study, textures):
    study = make_study()
    methods = study.choose(textures[:2])
    return study, methods, study.report(textures[2:], methods)


def test_a_method_for_each_relation_and_division(studied, textures):
    study, methods, records = studied
    names = [method.name for method in methods]
    assert names == [
        "whole image",
        "centre disc",
        "mean mask",
        *(
            f"{relation} / {division}"
            for relation in ("distance", "color", "ridge", "ridge (untrained)")
            for division in ("louvain", "grown", "normalised_cut")
        ),
    ]
    assert set(records[0]["metrics"]) == set(names)
    # The whole image's IoU is the object's share, counted here anew.
    target = patch_mask(read_object_mask(textures[2].mask_file), (4, 4))
    everything = mask_iou(np.ones((4, 4), bool), target)
    assert records[0]["metrics"]["whole image"][1] == pytest.approx(everything)
    assert records[0]["size"] == [64, 64] and records[0]["error_of_mean_color"] > 0


def test_colours_tell_other_palettes_apart(studied):
    _, methods, _ = studied
    ious = {method.name: method.chosen_iou for method in methods}
    assert ious["color / louvain"] > ious["distance / louvain"]


def test_a_stopped_study_goes_on(studied, make_study, textures, monkeypatch):
    _, methods, records = studied
    again = make_study()
    monkeypatch.setattr(again, "_read", None)  # nothing needs to be read again
    assert again.choose(textures[:2]) == methods
    assert again.report(textures[2:], methods) == records


def test_relations_are_measured_once(studied, make_study, textures):
    study, _, _ = studied
    files = sorted(study.measuring.folder.iterdir())
    assert [file.stem for file in files] == [image.name for image in textures]
    with np.load(files[0]) as kept:
        assert set(kept) == {"ridge", "ridge (untrained)"}
        assert kept["ridge"].shape == (16, 16)


def test_tables_and_pictures(studied, tmp_path):
    _, methods, records = studied
    result = collect_result(records, methods, 2)
    text = markdown(result, BASELINES, "the command")
    assert "the command" in text and text.count("| ridge / louvain") == 3
    assert (
        "- ridge / louvain: not distinguishable from an untrained autoencoder (+0.0 ± 0.0)." in text
    )
    content = json.loads(json.dumps(as_json(result, BASELINES)))
    ours = content["results"]["color / louvain"]
    values = np.array(ours["images"]["patch_iou"])
    assert ours["patch_iou"]["mean"] == pytest.approx(values.mean(), abs=1e-3)
    base = np.array(content["results"]["distance / louvain"]["images"]["patch_iou"])
    difference = ours["differences"]["distance / louvain"]
    assert difference["mean"] == pytest.approx((values - base).mean(), abs=1e-3)
    draw_study(result, tmp_path / "table.png")
    assert np.asarray(Image.open(tmp_path / "table.png").convert("L")).std() > 5


def test_mean_and_standard_error():
    found = estimate(np.array([1.0, 2.0, 3.0, 4.0, np.nan]))
    # standard deviation sqrt(5 / 3), of four: sqrt(5 / 12)
    assert found.mean == 2.5 and found.error == pytest.approx((5 / 12) ** 0.5)
    assert np.isnan(estimate(np.array([1.0])).error)


def test_methods_survive_json(studied):
    for method in studied[1]:
        again = method_from_json(json.loads(json.dumps(method_as_json(method))))
        assert again == method and isinstance(again, Method)
