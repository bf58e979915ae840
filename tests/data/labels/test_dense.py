"""Every label of the miniature-like image moves as the image does."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from d2_multitask.data.labels.base import UNKNOWN_IDS
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.problems import ProblemReport
from d2_multitask.heads.build import task_labels
from synthetic.people.annotate import encode_mask

HEIGHT, WIDTH = 8, 12
ALL = ("part_seg", "boundary", "occlusion", "image_labels")
LABELS = (SemSegLabel(59), PartSegLabel(), BoundaryLabel(), OcclusionLabel(), ImageLabels(59))


def box_mask(top, bottom, left, right):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return encode_mask(mask)


@pytest.fixture
def record(tmp_path):
    """Sky (49) above, a person (14) in columns 2-4; parts 1 and 2; the boundary is column 4."""
    path = tmp_path / "image.png"
    Image.fromarray(np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)).save(
        path
    )
    return {
        "file_name": str(path),
        "height": HEIGHT,
        "width": WIDTH,
        "sem_seg_segments": [
            {"category_id": 49, "segmentation": box_mask(0, 2, 0, 12)},
            {"category_id": 14, "segmentation": box_mask(1, 8, 2, 5)},
        ],
        "part_seg_segments": [
            {"category_id": 255, "segmentation": box_mask(0, 8, 8, 10)},
            {"category_id": 1, "segmentation": box_mask(1, 3, 2, 5)},
            {"category_id": 2, "segmentation": box_mask(3, 8, 2, 5)},
        ],
        "boundary_segmentation": box_mask(1, 8, 4, 5),
        "occlusion_fragments": {"indices": [[4 * HEIGHT + r for r in range(1, 8)]], "labels": [2]},
        "image_labels": [14, 49],
    }


def mapped(record, *transforms, labels=LABELS):
    return MultitaskDatasetMapper(True, augmentations=list(transforms), labels=labels)(record)


def test_without_augmentation_the_labels_are_the_maps(record):
    result = mapped(record)
    assert np.array_equal(result["sem_seg"], SemSegLabel().read(record))
    assert np.array_equal(result["part_seg"], PartSegLabel().read(record))
    assert np.array_equal(result["boundary"], BoundaryLabel().read(record))
    assert result["occlusion"].shape == (2, HEIGHT, WIDTH)
    assert (result["occlusion"][0, 1:, 4] == -1).all()
    assert result["image_labels"].nonzero().flatten().tolist() == [14, 49]
    assert [str(result[k].dtype) for k in ALL] == [
        "torch.int64",
        "torch.int64",
        "torch.float32",
        "torch.int64",
    ]


def test_a_mirrored_image_has_mirrored_labels(record):
    plain, result = mapped(record), mapped(record, T.HFlipTransform(WIDTH))
    for key in ("sem_seg", "part_seg", "boundary"):
        assert np.array_equal(result[key], plain[key].flip(-1)), key
    occlusion = plain["occlusion"].flip(-1)
    occlusion[0] *= -1  # who was in front on the left is now on the right
    assert np.allclose(result["occlusion"], occlusion)
    assert (result["occlusion"][0, 1:, WIDTH - 1 - 4] == 1).all()
    assert np.array_equal(result["image_labels"], plain["image_labels"])


def test_an_enlarged_image_keeps_lines_thin(record):
    result = mapped(record, T.ResizeTransform(HEIGHT, WIDTH, 3 * HEIGHT, 3 * WIDTH))
    assert result["part_seg"].shape == (24, 36)
    assert (result["boundary"][5:22].sum(1) == 1).all()
    assert result["occlusion"].shape == (2, 24, 36)


@pytest.mark.parametrize(
    ("crop", "left"),
    [
        pytest.param((0, 0, 12, 8), [14, 49], id="all"),
        pytest.param((0, 0, 12, 2), [14, 49], id="top"),
        pytest.param((0, 3, 12, 5), [14], id="bottom: no sky"),
        pytest.param((6, 0, 6, 8), [49], id="right: no person"),
        pytest.param((6, 3, 6, 5), [], id="neither"),
    ],
)
def test_image_labels_of_a_crop_are_those_of_what_is_left(record, crop, left):
    result = mapped(record, T.CropTransform(*crop, orig_w=WIDTH, orig_h=HEIGHT))
    assert result["image_labels"].nonzero().flatten().tolist() == left


def test_image_labels_without_a_map_stay(record):
    del record["sem_seg_segments"]
    result = mapped(record, T.CropTransform(6, 3, 6, 5, orig_w=WIDTH, orig_h=HEIGHT))
    assert result["image_labels"].nonzero().flatten().tolist() == [14, 49]


def test_a_label_that_is_not_there_is_a_key_that_is_not_there(record):
    for key in ("part_seg_segments", "boundary_segmentation", "occlusion_fragments"):
        del record[key]
    assert set(mapped(record)) & set(ALL) == {"image_labels"}


def test_only_what_is_asked_for_is_loaded(record):
    assert set(mapped(record, labels=())) & set(ALL) == set()
    assert set(mapped(record, labels=[BoundaryLabel()])) & set(ALL) == {"boundary"}


def test_the_heads_of_the_tasks_say_what_is_loaded(cfg):
    cfg.MODEL.TASKS, cfg.MODEL.PARTS_HEAD.NUM_CLASSES = ["det", "parts", "occlusion"], 3
    labels = task_labels(cfg)
    assert [label.key for label in labels] == ["instances", "part_seg", "occlusion"]
    assert [label.num_classes for label in labels[:2]] == [1, 3]


def test_maps_from_files(record, tmp_path):
    boundary, parts = BoundaryLabel().read(record), PartSegLabel().read(record)
    boundary[0, 0] = 255
    for name, values in (("boundary", boundary), ("part_seg", parts)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(values).save(path)
        record[f"{name}_file_name"] = str(path)
    assert np.array_equal(BoundaryLabel().read(record), boundary)
    assert np.array_equal(PartSegLabel().read(record), parts)


@pytest.mark.parametrize("from_file", [False, True])
def test_parts_that_the_network_does_not_know_are_ignored(record, tmp_path, from_file):
    """They would be out of the range of its loss."""
    parts, report = PartSegLabel().read(record), ProblemReport()
    if from_file:
        Image.fromarray(parts).save(tmp_path / "parts.png")
        record["part_seg_file_name"] = str(tmp_path / "parts.png")
    found = PartSegLabel(2).read(record, report)
    assert np.array_equal(found, np.where(parts == 2, 255, parts)) and (parts == 2).any()
    assert report.counts == {UNKNOWN_IDS.format("human parts"): 1}
    moved = PartSegLabel(2).load(record, T.TransformList([]), (HEIGHT, WIDTH))
    assert np.array_equal(moved.numpy(), found)


def test_bad_files_are_counted(record, tmp_path):
    report = ProblemReport()
    path = tmp_path / "map.png"
    Image.fromarray(np.full((3, 3), 7, np.uint8)).save(path)
    record["part_seg_file_name"] = record["boundary_file_name"] = str(path)
    assert (
        PartSegLabel().read(record, report) is None and BoundaryLabel().read(record, report) is None
    )
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(path)
    assert (BoundaryLabel().read(record, report) == 255).all()
    record["boundary_file_name"] = str(tmp_path / "nothing.png")
    assert BoundaryLabel().read(record, report) is None
    assert len(report.counts) == 3
