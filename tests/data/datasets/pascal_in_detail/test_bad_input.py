"""What is wrong with a file is an error, or a counted problem that names file, id and field."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.data.datasets.pascal_in_detail import annotation_file as files
from d2_multitask.data.datasets.pascal_in_detail import joints
from d2_multitask.data.datasets.pascal_in_detail import labels as kinds
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel
from d2_multitask.data.problems import ProblemReport
from detail_files.validate import validate_file
from detail_miniature import IMAGE_ID, NOWHERE, miniature

BAD_JOINTS = "keypoints of an object left out (the box is kept)"
BAD_MASK = "bad mask, left out (the box is kept)"


def change(content, path, value):
    """Set a nested value; ``path`` is text such as ``annos_joints.0.keypoints``."""
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for key in parents:
        content = content[key]
    if value is KeyError:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("images", KeyError, "'images': found nothing", id="no images"),
        pytest.param("categories", KeyError, "'categories'", id="no categories"),
        pytest.param("annos_segmentation", KeyError, r"trainval_parts\.json", id="another release"),
        pytest.param("annos_joints", {}, "'annos_joints': found dict", id="joints as dict"),
        pytest.param("images", [], "'images': found an empty list", id="empty"),
        pytest.param("images.0.phase", "val", r"found \{'val': 1\}.*'train'", id="no such phase"),
        pytest.param("images.0.phase", "training", r"'phase': found 'training'", id="phase"),
        pytest.param("categories", [{"category_id": 1, "name": "x"}], "'x'", id="other dataset"),
    ],
)
def test_a_file_that_cannot_be_used(load, path, value, message):
    content = miniature()
    change(content, path, value)
    with pytest.raises(ValueError, match=message) as error:
        load(content)
    assert "trainval_withkeypoints.json" in str(error.value)


def test_of_unusable_images_the_first_is_told(load):
    content = miniature()
    content["images"] += [{**content["images"][0], "phase": "other", "image_id": 5}] * 2
    with pytest.raises(ValueError, match=r"images\[1\]: field 'phase': found 'other'.*'train'"):
        load(content)


def test_broken_json_and_no_file(load, tmp_path):
    from d2_multitask.data.datasets.pascal_in_detail import load_phase

    with pytest.raises(ValueError, match="there is no such file"):
        load_phase(str(tmp_path / "nothing.json"), "", "train")
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="broken JSON"):
        load_phase(str(tmp_path / "broken.json"), "", "train")


@pytest.mark.parametrize(
    ("path", "value", "kind", "told"),
    [
        pytest.param("parts", KeyError, files.NO_KIND, "'parts'", id="no parts"),
        pytest.param("annos_boundary", KeyError, files.NO_KIND, "annos_boundary", id="no boundary"),
        pytest.param(
            "annos_segmentation.2.category_id",
            999,
            kinds.BAD_CATEGORY,
            "id 3 (image 2008000001) 'category_id' 999",
            id="unknown category",
        ),
        pytest.param(
            "annos_segmentation.2.parts.0.part_id",
            33,
            kinds.UNKNOWN_PART,
            "id 3 'part_id' 33",
            id="unknown part",
        ),
        pytest.param(
            "annos_segmentation.2.segmentation.size",
            [10, 6],
            BAD_MASK,
            "id 3 'segmentation' [10, 6]",
            id="mask of another size",
        ),
        pytest.param(
            "annos_segmentation.0.segmentation.size",
            [10, 6],
            kinds.BAD_SEGMENT,
            "id 1 'segmentation' [10, 6]",
            id="stuff of another size",
        ),
        pytest.param(
            "annos_segmentation.3.parts.0.segmentation.size",
            [1, 1],
            kinds.BAD_PART_MASK,
            "id 4 21 'segmentation' [1, 1]",
            id="part of another size",
        ),
        pytest.param(
            "annos_boundary.0.boundary_mask.size",
            [1, 1],
            kinds.BAD_BOUNDARY,
            "2008000001 'boundary_mask'",
            id="boundary of another size",
        ),
        pytest.param(
            "annos_joints.1.keypoints",
            [1.0] * 41,
            BAD_JOINTS,
            "person_id 2 'keypoints' 41 42",
            id="41 numbers",
        ),
        pytest.param(
            "annos_occlusion.0.edges.indices",
            [[0, 31, 61]],
            kinds.BAD_FRAGMENT,
            "2008000001 'edges.indices' 0..61 0..59",
            id="index outside",
        ),
        pytest.param(
            "annos_occlusion.0.edges.edgelabel",
            [3],
            kinds.BAD_FRAGMENT,
            "'edges.edgelabel' found 3",
            id="label 3",
        ),
        pytest.param(
            "annos_occlusion.0.edges.edgelabel",
            [1, 2],
            kinds.BAD_OCCLUSION,
            "'edges.edgelabel' found 2 labels",
            id="a label too many",
        ),
        pytest.param(
            "annos_occlusion.0.imsize", [10, 6], kinds.BAD_OCCLUSION, "'imsize'", id="imsize"
        ),
        pytest.param(
            "annos_occlusion.0.edges.indices",
            [["a"]],
            kinds.BAD_OCCLUSION,
            "'edges.indices'",
            id="indices as text",
        ),
        pytest.param(
            "annos_occlusion.0.edges.indices",
            [[31, True]],
            kinds.BAD_OCCLUSION,
            "'edges.indices'",
            id="true as an index",
        ),
        pytest.param(
            "annos_occlusion.0.edges.edgelabel",
            [True],
            kinds.BAD_FRAGMENT,
            "'edges.edgelabel' found True",
            id="true as a label",
        ),
        pytest.param(
            "annos_segmentation.2.parts",
            {"0": {}},
            kinds.BAD_PART_MASK,
            "id 3 'parts' dict",
            id="parts as an object",
        ),
        pytest.param(
            "annos_joints.0.keypoints.2", True, BAD_JOINTS, "person_id 1", id="joint true"
        ),
        pytest.param(
            "annos_boundary.0.image_id", 7, files.UNKNOWN_IMAGE, "'image_id'", id="unknown image"
        ),
        pytest.param("annos_segmentation.3.id", 3, kinds.REPEATED_ID, "id 3", id="id used twice"),
    ],
)
def test_one_problem_is_counted_and_costs_nothing_else(load, path, value, kind, told):
    content = miniature()
    change(content, path, value)
    loaded = load(content)
    assert {p.kind for p in loaded.problems} >= {kind}
    problem = next(p for p in loaded.problems if p.kind == kind)
    text = f"{problem.where} {problem.details}"
    assert "trainval_withkeypoints.json" in text
    assert all(word in text for word in told.split(" ")), text
    plain = load().dataset_dicts[0]
    changed = loaded.dataset_dicts[0]
    lost = {key for key in plain if key not in changed}
    assert len(lost) <= 1
    report = ProblemReport()
    report.extend(loaded.problems)
    assert report.counts[kind] >= 1


def test_a_bad_mask_keeps_the_box_and_hides_the_person_from_the_part_map(load):
    content = miniature()
    change(content, "annos_segmentation.3.segmentation.counts", "1")
    change(content, "annos_segmentation.3.parts", [])
    record = load(content).dataset_dicts[0]
    assert record["annotations"][1]["bbox"] == [5, 1, 4, 5]
    assert "segmentation" not in record["annotations"][1]
    assert (PartSegLabel().read(record)[1:, 6:9] == 255).all()
    assert (SemSegLabel().read(record)[1:, 6:9] == 255).all()


def test_an_unknown_part_is_ignored_not_background(load):
    content = miniature()
    change(content, "annos_segmentation.2.parts.1.part_id", 1234)
    parts = PartSegLabel().read(load(content).dataset_dicts[0])
    assert (parts[2:4, 2:6] == 255).all()


def test_an_image_without_annotations_is_unlabelled(load):
    content = miniature()
    content["images"].append({**content["images"][0], "image_id": 5, "file_name": "5.jpg"})
    loaded = load(content)
    record = loaded.dataset_dicts[1]
    assert set(record) == {"file_name", "image_id", "height", "width"}
    assert kinds.NO_LABELS in {p.kind for p in loaded.problems}


def test_a_crowd_of_one_of_the_20_classes_is_ignored(load):
    content = miniature()
    change(content, "annos_segmentation.3.iscrowd", 1)
    assert [a["iscrowd"] for a in load(content).dataset_dicts[0]["annotations"]] == [0, 1]


def test_indices_that_count_from_one_are_an_error(load):
    content = miniature()
    change(content, "annos_occlusion.0.edges.indices", [[32, 33, 34, 35, 60]])
    with pytest.raises(ValueError, match=r"'edges\.indices'.*count from 1, expected from 0"):
        load(content)


@pytest.mark.parametrize(
    ("indices", "labels"),
    [
        pytest.param([31, 32, 33, 34, 35], [2], id="not nested"),
        pytest.param([[31, 32, 33, 34, 35]], 2, id="label not nested"),
        pytest.param([[31.0, 32.0, 33.0, 34.0, 35.0]], [2], id="floats"),
    ],
)
def test_other_forms_of_a_fragment_are_counted(load, indices, labels):
    content = miniature()
    change(content, "annos_occlusion.0.edges", {"indices": indices, "edgelabel": labels})
    loaded = load(content)
    assert {p.kind for p in loaded.problems} == {kinds.BAD_OCCLUSION}
    assert "occlusion_fragments" not in loaded.dataset_dicts[0]


def test_the_order_of_lists_and_unknown_keys_say_nothing(load):
    content = miniature()
    content["annos_future"] = [{"image_id": 1}]
    for key in ("images", "categories", "parts", "annos_boundary", "annos_occlusion"):
        content[key].reverse()
        for entry in content[key]:
            entry["unknown"] = {"nested": [1, 2, 3]}
    content["categories"][0]["onlysemantic"] = True
    content["annos_segmentation"][3]["iscrowd"] = False
    content["images"].insert(0, {**content["images"][0], "image_id": 7, "phase": "test"})
    loaded, plain = load(content), load()
    assert loaded.problems == []
    assert repr(loaded.dataset_dicts) == repr(plain.dataset_dicts)


def test_no_fragment_is_a_label_too(load):
    content = miniature()
    content["annos_occlusion"][0] = {"image_id": IMAGE_ID, "imsize": [6, 10], "ne": 0, "edges": {}}
    loaded = load(content)
    assert loaded.problems == []
    assert loaded.dataset_dicts[0]["occlusion_fragments"] == {"indices": [], "labels": []}


def test_a_joint_outside_of_the_image_is_not_labelled(load):
    content = miniature()
    change(content, "annos_joints.0.keypoints.0", 99.0)
    loaded = load(content)
    points = np.array(loaded.dataset_dicts[0]["annotations"][0]["keypoints"]).reshape(-1, 3)
    assert points[0].tolist() == NOWHERE and points[1, 2] == 2
    assert "person_id 1" in loaded.problems[0].where
    assert joints.to_coco_visibility("text") == "text"


@pytest.mark.parametrize("value", [5, [], {"a": 1}, None, "x", 10**60])
@pytest.mark.parametrize(
    "path",
    [
        "images.0.width",
        "annos_segmentation.0.id",
        "annos_segmentation.0.segmentation.size",
        "annos_segmentation.2.category_id",
        "annos_segmentation.2.parts",
        "annos_segmentation.2.parts.0.part_id",
        "annos_segmentation.3.bbox",
        "annos_boundary.0.boundary_mask.size",
        "annos_occlusion.0.imsize",
        "annos_occlusion.0.edges.edgelabel.0",
        "annos_joints.0.keypoints.0",
        "parts.0.name",
    ],
)
def test_fields_of_another_type_are_problems_or_sentences(load, tmp_path, path, value):
    content = miniature()
    change(content, path, value)
    try:
        load(content)
        validate_file(tmp_path / "trainval_withkeypoints.json")
    except ValueError as error:
        assert path.startswith("images") and "field 'width'" in str(error)


@pytest.mark.parametrize("index", [2**32 + 31, 1e300])
def test_an_index_of_more_than_32_bits_is_not_another_one(load, index):
    content = miniature()
    change(content, "annos_occlusion.0.edges.indices", [[index]])
    loaded = load(content)
    assert {p.kind for p in loaded.problems} == {kinds.BAD_OCCLUSION}
