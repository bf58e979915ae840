"""Choosing and reporting: nothing twice, nothing on the same images, numbers as by hand."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from d2_multitask.evaluation.segments import mask_iou, patch_mask, read_object_mask
from studies.relations.images import LabelledImage
from studies.relations.methods import (
    Method,
    method_as_json,
    method_from_json,
)
from studies.relations.picture import draw_study
from studies.relations.study import RelationStudy
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


@pytest.mark.parametrize("what", ["file", "mask_file"])
def test_another_image_or_mask_is_measured_again(
    what, studied, make_study, textures, tmp_path, monkeypatch
):
    _, methods, records = studied
    again = make_study()
    monkeypatch.setattr(again, "_measure", lambda image, methods: "again")
    other = tmp_path / "other.png"
    shutil.copy(getattr(textures[2], what), other)
    image = replace(textures[2], **{what: other})
    assert again.report([image], methods) == records[:1]
    kept = again.folder / "report" / f"{textures[2].name}.json"
    before = kept.read_text()
    other.write_bytes(other.read_bytes() + b"\0")
    os.utime(other, (1, 1))  # it is older than what was kept
    assert again.report([image], methods) == ["again"]
    kept.write_text(before)


def test_relations_of_another_image_are_measured_again(make_study, textures, tmp_path):
    measuring = replace(make_study().measuring, folder=tmp_path)
    first, second = (torch.rand(3, 64, 64) for _ in range(2))
    found = [measuring.base_relations("a", image, {"ridge"})[0] for image in (first, second, first)]
    assert not found[0]["ridge"].equal(found[1]["ridge"])
    assert found[0]["ridge"].equal(found[2]["ridge"])


def test_only_what_is_asked_for_is_divided(make_study, textures, tmp_path, monkeypatch):
    study = make_study()
    study = RelationStudy(
        study.measuring, tmp_path, long_side=64, relations=("color",), divisions=("grown",)
    )
    asked = []
    divide = study._divide
    monkeypatch.setattr(study, "_divide", lambda *a: asked.append(a[2]) or divide(*a))
    assert [m.name for m in study.choose(textures[:1]) if m.division] == ["color / grown"]
    assert set(asked) == {"louvain"}  # what it grows from


def test_images_with_fewer_pixels_than_cells(make_study, tmp_path):
    study = make_study()
    measuring = replace(study.measuring, shifts=8)
    study = RelationStudy(measuring, tmp_path, long_side=64, relations=("color",))
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    image = LabelledImage("small", tmp_path / "small.png", tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png: found an image of 20x20 .* 32x32 cells"):
        study.ready(image)


def test_relations_are_measured_once(studied, make_study, textures):
    study, _, _ = studied
    files = sorted(study.measuring.folder.iterdir())
    assert [file.stem for file in files] == [image.name for image in textures]
    with np.load(files[0]) as kept:
        assert set(kept) == {"ridge", "ridge (untrained)", "image_crc32"}
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
    assert list(content["results"]["centre disc"]["differences"]) == ["distance / louvain"]
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
