"""The metadata of a file: what is read, and a sentence for everything that is wrong."""

from __future__ import annotations

import json

import pytest

from d2_multitask.runtime.model_info import ModelFileError, parse_model_info
from runtime_support import metadata


def parse(**changes):
    return parse_model_info(json.dumps(metadata(**changes)), "a.onnx")


def test_every_field_is_read():
    info = parse()
    assert info.tasks == ["det", "center", "pose", "seg"]
    assert (info.input.format, info.input.divisor, info.input.size) == ("BGR", 8, None)
    assert info.outputs["sem_seg"].stride == 4
    assert info.objects.skeleton == ((0, 1),)
    assert info.objects.category_ids == (1, 18)
    assert info.maps["sem_seg"].class_names == ("background", "bright")
    assert info.draw.confidence_threshold == 0.3


def test_a_network_without_objects():
    assert parse(objects=None, outputs={}).objects is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, ["found no metadata 'd2_multitask'", "d2mt export"]),
        ("{", ["found broken JSON", "d2mt export"]),
        ("[]", ["the whole: found '[]', expected an object"]),
        ("{}", ["format_version: found 'nothing', expected int"]),
        (
            json.dumps(metadata(format_version=2, package_version="0.9")),
            ["found format version 2, expected 1: export the network again", "(0.9)"],
        ),
    ],
)
def test_a_file_that_is_not_ours(text, said):
    with pytest.raises(ModelFileError) as raised:
        parse_model_info(text, "a.onnx")
    message = str(raised.value)
    assert message.startswith("a.onnx: ")
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input__format": "YUV"}, "input.format: found 'YUV', expected 'BGR' or 'RGB'"),
        ({"input__divisor": 0}, "input.divisor: found '0', expected a positive number"),
        ({"input__divisor": "8"}, "input.divisor: found '8', expected int"),
        ({"input__divisor": True}, "input.divisor: found 'True', expected int"),
        ({"input__resize": "centernet_fixed"}, "input.resize: found 'centernet_fixed'"),
        ({"input__resize": "stretch"}, "input.size: found 'None', expected height and width"),
        ({"outputs": {"boxes": {}}}, "outputs.boxes.task: found 'nothing', expected str"),
        (
            {"outputs": {"sem_seg": {"task": "seg", "stride": 0}}},
            "outputs.sem_seg.stride: found '0', expected a positive number",
        ),
        ({"outputs": [1]}, "outputs: found '[1]', expected an object"),
        ({"objects__category_ids": [1]}, "objects.category_ids: found '(1,)', expected an id for"),
        ({"objects__skeleton": [[0, 2]]}, "objects.skeleton: found '([0, 2],)', expected pairs"),
        ({"objects__keypoint_sigmas": [1]}, "objects.keypoint_sigmas: found '1', expected 2"),
        ({"objects": None}, "objects: found 'None', expected the names of 'scores'"),
        ({"maps": {}}, "maps: found '{}', expected the names of 'sem_seg'"),
        ({"objects__class_names": [1, 2]}, "objects.class_names: found '1', expected str"),
    ],
)
def test_a_wrong_field_is_named(changes, said):
    with pytest.raises(ModelFileError) as raised:
        parse(**changes)
    assert said in str(raised.value)
