"""The file level of COCO's format: JSON, images and categories."""

from __future__ import annotations

import gc

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)

from d2_multitask.data.datasets import coco_annotations as coco_objects
from d2_multitask.data.datasets import coco_json
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.datasets.coco_json import (
    LONELY_SIDE_PROBLEM,
    SAME_NAME,
    SKELETON_PROBLEM,
    find_flip_pairs,
    read_categories,
    read_json,
)
from d2_multitask.data.problems import DATA_REPORT


@pytest.fixture
def load(tmp_path, write_coco):
    def load(content):
        register_coco_format("own", str(write_coco(content)), str(tmp_path / "images"))
        return DatasetCatalog.get("own")

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"a": ' + "[" * 100_000, "nested too deep", id="deep"),
        pytest.param('{"a": ' + "9" * 1_000_000 + "}", "broken JSON.*digits", id="long integer"),
        pytest.param('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' twice", id="key twice"),
    ],
)
def test_broken_files_are_a_sentence(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        read_json(str(path))


def test_no_garbage_is_looked_for_while_a_file_is_read(tmp_path):
    """It took a third of the time of a large file."""
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    enabled = []
    read_json(str(path), object_hook=lambda entry: enabled.append(gc.isenabled()) or entry)
    assert enabled == [False] and gc.isenabled()
    path.write_text("{")
    with pytest.raises(ValueError, match="broken JSON"):
        read_json(str(path))
    assert gc.isenabled()


def test_a_byte_order_mark_and_equal_copies_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1, "a": 1}', encoding="utf-8-sig")
    assert read_json(str(path), object_hook=lambda entry: entry | {"b": 2}) == {"a": 1, "b": 2}


@pytest.mark.parametrize("field", ["id", "height", "width"])
@pytest.mark.parametrize("value", [10**60, True, [1], float("nan")])
def test_images_of_other_values(load, coco, field, value):
    coco["images"][0][field] = value
    with pytest.raises(ValueError, match=rf"images\[0\].*field '{field}': found"):
        load(coco)


def test_an_image_of_too_many_pixels(load, coco):
    coco["images"][0] |= {"height": 10**6, "width": 10**6}
    with pytest.raises(ValueError, match="'height', 'width': found 1000000 x 1000000"):
        load(coco)


def test_ids_as_floats_are_integers_everywhere(load, coco):
    expected = load(coco)
    DatasetCatalog.remove("own")
    for image in coco["images"]:
        image["id"] = float(image["id"])
    for annotation in coco["annotations"]:
        annotation |= {key: float(annotation[key]) for key in ("id", "image_id", "category_id")}
    coco["categories"][0]["id"] = 7.0
    assert repr(load(coco)) == repr(expected)  # also the types
    assert DATA_REPORT.counts == {}


def test_a_skeleton_that_is_a_number(load, coco):
    coco["categories"][0]["skeleton"] = 5
    load(coco)
    assert DATA_REPORT.counts == {coco_json.SKELETON_PROBLEM: 1}


@pytest.mark.parametrize(
    "counts",
    [
        [10**60, 1],
        [2**63 - 1, 2**63 - 1, 2 + 24 * 32],
        [-(10**60), 4],
        "\ud800",
    ],
)
def test_run_lengths_that_wrap(load, coco, counts):
    coco["annotations"][1]["segmentation"]["counts"] = counts
    first, _ = load(coco)
    assert "segmentation" not in first["annotations"][1]
    assert DATA_REPORT.counts == {coco_objects.BAD_MASK: 1}


def test_metadata_may_name_another_evaluator():
    register_coco_format("own", "a.json", ".", metadata={"evaluator_type": "mine"})
    assert MetadataCatalog.get("own").evaluator_type == "mine"


@pytest.mark.parametrize(
    ("names", "pairs", "lonely"),
    [
        pytest.param(["left_knee", "right_knee", "nose"], [(0, 1)], [], id="prefix"),
        pytest.param(["knee_right", "knee_left"], [(1, 0)], [], id="suffix, right first"),
        pytest.param(["l_eye", "r_eye"], [(0, 1)], [], id="letters"),
        pytest.param(["eye.l", "eye.r"], [(0, 1)], [], id="letters at the end"),
        pytest.param(["LeftKnee", "RightKnee"], [(0, 1)], [], id="camel case"),
        pytest.param(["LKnee", "RKnee"], [(0, 1)], [], id="capital letters"),
        pytest.param(["lefteye", "righteye"], [(0, 1)], [], id="one word"),
        pytest.param(["LEFT HIP", "RIGHT HIP"], [(0, 1)], [], id="capitals and a space"),
        pytest.param(["upper left arm", "upper right arm"], [(0, 1)], [], id="in the middle"),
        pytest.param(["front_toe", "rear_toe", "head"], [], [], id="no sides"),
        pytest.param(["left_hand", "head"], [], [0], id="no partner"),
        pytest.param(["bright", "toe_l_3", "toe_r_3"], [], [], id="letters inside are no sides"),
    ],
)
def test_flip_pairs_by_name(names, pairs, lonely):
    expected = [(names[a], names[b]) for a, b in pairs], [names[i] for i in lonely]
    assert find_flip_pairs(names) == expected


def test_coco_joints_give_detectron2s_pairs():
    pairs, lonely = find_flip_pairs(COCO_PERSON_KEYPOINT_NAMES)
    assert sorted(pairs) == sorted(map(tuple, COCO_PERSON_KEYPOINT_FLIP_MAP))
    assert not lonely


def test_ids_are_made_contiguous_in_their_order():
    categories = read_categories([{"id": 9, "name": "b"}, {"id": 3, "name": "a"}], "x.json")
    assert categories.contiguous_ids == {3: 0, 9: 1}
    assert categories.thing_classes == ["a", "b"]
    assert categories.as_metadata().keys() == {"thing_classes", "thing_dataset_id_to_contiguous_id"}


def test_skeleton_becomes_colored_rules_and_bad_edges_are_told():
    person = {
        "id": 1,
        "name": "p",
        "keypoints": ["a", "b", "c"],
        "skeleton": [[1, 2], [3, 4], [2, 3]],
    }
    categories = read_categories([person], "x.json")
    edges = [(a, b) for a, b, _ in categories.keypoint_connection_rules]
    colors = [color for _, _, color in categories.keypoint_connection_rules]
    assert edges == [("a", "b"), ("b", "c")]
    assert len(set(colors)) == 2 and all(0 <= v <= 255 for color in colors for v in color)
    (problem,) = categories.problems
    assert problem.kind == SKELETON_PROBLEM and "[3, 4]" in problem.details


@pytest.mark.parametrize("value", [0, False, {}, ""])
def test_no_skeleton_in_another_form_is_told(value):
    person = {"id": 1, "name": "p", "keypoints": ["a"], "skeleton": value}
    categories = read_categories([person], "x.json")
    assert [problem.kind for problem in categories.problems] == [SKELETON_PROBLEM]


@pytest.mark.parametrize("field", ["name", "keypoints"])
def test_half_a_character_in_a_name(field):
    value = "\ud800" if field == "name" else ["\ud800"]
    with pytest.raises(ValueError, match=f"field '{field}': found .*ud800.*expected"):
        read_categories([{"id": 1, "name": "p", field: value}], "x.json")


def test_a_side_without_partner_is_told():
    categories = read_categories([{"id": 1, "name": "p", "keypoints": ["left_a"]}], "x.json")
    assert [problem.kind for problem in categories.problems] == [LONELY_SIDE_PROBLEM]


def test_given_pairs_replace_those_by_name():
    person = {"id": 1, "name": "p", "keypoints": ["left_a", "right_a", "port", "starboard"]}
    categories = read_categories([person], "x.json", [("port", "starboard")])
    assert categories.keypoint_flip_map == [("port", "starboard")]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param([["a", "z"]], r"found \['a', 'z'\], expected .* of keypoints", id="no joint"),
        pytest.param(
            [["a", "b"], ["b", "c"]],
            "keypoint 'b', expected each keypoint in one pair",
            id="twice",
        ),
        pytest.param([["a"]], r"found \['a'\], expected pairs \[left, right\]", id="one"),
        pytest.param(["ab"], "expected", id="text"),
    ],
)
def test_bad_pairs(pairs, message):
    person = {"id": 1, "name": "p", "keypoints": ["a", "b", "c"]}
    with pytest.raises(ValueError, match=message):
        read_categories([person], "x.json", pairs)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        pytest.param(None, "field 'categories'", id="missing"),
        pytest.param([], "field 'categories'", id="empty"),
        pytest.param([{"name": "a"}], r"categories\[0\]: field 'id': found None", id="no id"),
        pytest.param([{"id": 1}], r"categories\[0\]: field 'name'", id="no name"),
        pytest.param([3], r"categories\[0\]: found int", id="no object"),
        pytest.param(
            [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "'id'.*not unique", id="same id"
        ),
        pytest.param(
            [{"id": 1, "name": "a", "keypoints": ["x", "x"]}],
            "keypoint name.*not unique",
            id="joints",
        ),
        pytest.param(
            [
                {"id": 1, "name": "a", "keypoints": ["x"]},
                {"id": 2, "name": "b", "keypoints": ["y"]},
            ],
            r"category 'b': found \['y'\], expected \['x'\]",
            id="two joint sets",
        ),
    ],
)
def test_bad_categories(categories, message):
    with pytest.raises(ValueError, match=message):
        read_categories(categories, "x.json")


def test_names_used_twice_get_their_id():
    names = ["a", "a", "a (1)", "b"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    found = read_categories(categories, "a.json")
    assert found.thing_classes == ["a (1) (1)", "a", "a (1)", "b"]
    (problem,) = found.problems
    assert problem.kind == SAME_NAME
