from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.io import ImageReadError
from d2_multitask.data.labels.base import BAD_MAP
from d2_multitask.data.labels.instances import WRONG_KEYPOINTS, InstanceBuilder
from d2_multitask.data.labels.sem_seg import SemSegLabel
from d2_multitask.data.mapper import BAD_IMAGE, MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT, PROBLEMS_KEY
from d2_multitask.data.transforms.crops import ScaleCropTransform

H, W = 40, 60


@pytest.fixture
def record(tmp_path):
    """An image with a bright rectangle, and labels that all describe this rectangle."""
    image = np.zeros((H, W, 3), np.uint8)
    image[10:30, 20:44] = (10, 100, 200)
    Image.fromarray(image).save(tmp_path / "a.png")
    person = {
        "bbox": [20, 10, 24, 20],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [[20, 10, 44, 10, 44, 30, 20, 30]],
        "keypoints": [20, 10, 2, 20, 20, 2, 43.9, 20, 2],  # top left corner, left, right edge
    }
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": H,
        "width": W,
        "image_id": 5,
        "annotations": [person],
        "sem_seg_from_annotations": True,
    }


def _mapper(*augmentations, is_train=True, hflip_indices=(0, 2, 1), **kwargs):
    builder = InstanceBuilder(hflip_indices=hflip_indices, load_masks=True)
    labels = kwargs.pop("labels", [SemSegLabel(2)])
    return MultitaskDatasetMapper(
        is_train, augmentations=augmentations, instance_builder=builder, labels=labels, **kwargs
    )


def test_what_comes_out(record):
    result = _mapper()(record)
    assert result.keys() == {
        "file_name",
        "image_id",
        "height",
        "width",
        "image",
        "instances",
        "sem_seg",
    }
    assert result["image"].shape == (3, H, W) and result["image"].dtype == torch.uint8
    assert result["image"][:, 15, 30].tolist() == [200, 100, 10]  # BGR
    assert result["sem_seg"].shape == (H, W) and result["sem_seg"].dtype == torch.int64
    assert (result["height"], result["width"], result["image_id"]) == (H, W, 5)


def _bounds(mask):
    """x1, y1, x2, y2 of the True pixels."""
    ys, xs = np.nonzero(np.asarray(mask))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    "augmentations",
    [
        pytest.param([], id="nothing"),
        pytest.param([T.HFlipTransform(W)], id="horizontal flip"),
        pytest.param([T.VFlipTransform(H)], id="vertical flip"),
        pytest.param([T.ResizeShortestEdge(80)], id="resize"),
        pytest.param([ScaleCropTransform((2, 2), (5, -3), (90, 100))], id="scale and crop"),
        pytest.param(
            [ScaleCropTransform((2, 2), (5, -3), (90, 100)), T.HFlipTransform(100)],
            id="scale, crop and flip",
        ),
        pytest.param(
            [T.CropTransform(10, 5, 40, 30), T.ResizeTransform(30, 40, 60, 80)], id="crop"
        ),
    ],
)
def test_image_and_all_labels_move_together(record, augmentations):
    result = _mapper(*augmentations)(record)
    instances = result["instances"]
    bounds = _bounds(result["image"][0] > 100)
    assert instances.gt_boxes.tensor[0].tolist() == bounds
    assert _bounds(result["sem_seg"] == 1) == bounds
    assert _bounds(instances.gt_masks.tensor[0]) == bounds
    joints = instances.gt_keypoints.tensor[0]
    assert (joints[:, 2] == 2).all()
    # Whichever way the image is turned, "left" stays on the image's left: the sides were swapped.
    x1, y1, x2, y2 = bounds
    vertical = any(isinstance(a, T.VFlipTransform) for a in augmentations)
    left, right = (x2, x1) if vertical else (x1, x2)
    assert joints[1:, 0].tolist() == pytest.approx([left, right], abs=0.3)
    assert joints[1:, 1].tolist() == pytest.approx([(y1 + y2) / 2] * 2, abs=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_random_augmentations_move_image_and_labels_together(record, cfg, seed):
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.INPUT.SCALE_CROP.SIZE = (64, 96)
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.COLOR_JITTER.ENABLED = True
    seed_all_rng(seed)
    result = MultitaskDatasetMapper(cfg, True)(record)
    assert result["image"].shape == (3, 64, 96)
    image = result["image"].float()
    bright = image[0] - image[2] > 60  # blue minus red, whatever the brightness
    box = result["instances"].gt_boxes.tensor[0].tolist()
    assert _bounds(bright) == pytest.approx(box, abs=1)
    assert _bounds(result["sem_seg"] == 1) == pytest.approx(box, abs=1)
    assert (result["sem_seg"] == 255).any()


def test_the_record_is_not_changed(record):
    before = repr(record)
    _mapper(T.HFlipTransform(W))(record)
    assert repr(record) == before


def test_in_evaluation_there_are_no_labels(record):
    result = _mapper(T.ResizeShortestEdge(20), is_train=False)(record)
    assert result.keys() == {"file_name", "image_id", "height", "width", "image"}
    assert result["image"].shape == (3, 20, 30)
    assert (result["height"], result["width"]) == (H, W)


def test_unlabelled_tasks_have_no_keys(record):
    del record["annotations"]
    result = _mapper()(record)
    assert not {"instances", "sem_seg", "ignore_mask"} & result.keys()


def test_image_without_objects(record):
    result = _mapper()(record | {"annotations": []})
    assert len(result["instances"]) == 0
    assert result["instances"].gt_boxes.tensor.shape == (0, 4)
    assert result["instances"].gt_keypoints.tensor.shape == (0, 3, 3)
    assert (result["sem_seg"] == 0).all()


def test_crowd(record):
    crowd = record["annotations"][0] | {"iscrowd": 1}
    result = _mapper(T.HFlipTransform(W))(record | {"annotations": [crowd]})
    assert len(result["instances"]) == 0
    assert result["ignore_mask"].dtype == torch.bool
    assert _bounds(result["ignore_mask"]) == [16, 10, 40, 30]
    assert set(result["sem_seg"].unique().tolist()) == {0, 255}


def test_a_crowd_outside_of_the_window_leaves_nothing_to_ignore(record):
    crowd = record["annotations"][0] | {"iscrowd": 1}
    result = _mapper(T.CropTransform(0, 0, 10, 10))(record | {"annotations": [crowd]})
    assert "ignore_mask" not in result


def test_no_semantic_map_if_it_is_not_asked_for(record, monkeypatch):
    monkeypatch.setattr(SemSegLabel, "read", None)  # calling it would fail
    assert "sem_seg" not in _mapper(labels=())(record)


def test_bad_semantic_map_costs_only_the_map(record, tmp_path):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "map.png")
    result = _mapper()(record | {"sem_seg_file_name": str(tmp_path / "map.png")})
    assert "sem_seg" not in result and len(result["instances"]) == 1
    assert DATA_REPORT.counts == {BAD_MAP.format("semantic maps"): 1}


def _missing(record):
    return record | {"file_name": record["file_name"] + ".gone"}


def _truncated(record):
    with open(record["file_name"], "rb+") as file:
        file.truncate(60)
    return record


def _other_size(record):
    return record | {"height": H + 1}


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(_missing, ImageReadError, id="missing"),
        pytest.param(_truncated, ImageReadError, id="truncated"),
        pytest.param(_other_size, SizeMismatchError, id="another size than the labels say"),
    ],
)
def test_bad_images(record, spoil, error, caplog):
    record = spoil(record)
    with caplog.at_level(logging.WARNING):
        assert _mapper()(record) is None
    assert DATA_REPORT.counts == {BAD_IMAGE: 1}
    assert record["file_name"] in caplog.messages[0]
    with pytest.raises(error, match="a.png"):
        _mapper(is_train=False)(record)


def test_size_is_taken_from_the_image_if_no_label_says_it(record):
    del record["height"], record["width"]
    result = _mapper(T.ResizeShortestEdge(20))(record)
    assert (result["height"], result["width"]) == (H, W)


def test_nothing_but_bad_images_stops(record):
    mapper = _mapper()
    for _ in range(49):
        assert mapper(_missing(record)) is None
    assert mapper(record) is not None
    for _ in range(49):
        assert mapper(_missing(record)) is None
    with pytest.raises(ValueError, match="50 images in a row cannot be used"):
        mapper(_missing(record))


def test_worker_processes_send_their_problems(record, monkeypatch):
    monkeypatch.setattr("d2_multitask.data.problems.get_worker_info", lambda: "a worker")
    mapper = _mapper()
    assert mapper(_missing(record)) is None
    (problem,) = mapper(record)[PROBLEMS_KEY]
    assert problem.kind == BAD_IMAGE
    assert PROBLEMS_KEY not in mapper(record)


def test_a_copy_in_a_worker_process_counts_in_that_process(record):
    mapper = pickle.loads(pickle.dumps(_mapper()))
    record["annotations"][0]["keypoints"] = [1, 2, 2]
    mapper(record)
    assert DATA_REPORT.counts == {WRONG_KEYPOINTS: 1}


@pytest.fixture
def registered(cfg, coco, write_coco, tmp_path):
    register_coco_format("own", str(write_coco(coco)), str(tmp_path / "images"))
    cfg.DATASETS.TRAIN = ("own",)
    return cfg


def test_from_config(registered):
    mapper = MultitaskDatasetMapper(registered, True)
    result = mapper(DatasetCatalog.get("own")[0])
    assert result["instances"].gt_keypoints.tensor.shape == (1, 3, 3)
    assert "ignore_mask" in result and "sem_seg" in result
    assert not result["instances"].has("gt_masks")


def test_from_config_decodes_no_mask_that_nobody_needs(registered, monkeypatch):
    registered.MODEL.TASKS = ["det"]
    monkeypatch.setattr(SemSegLabel, "read", None)
    first, second = DatasetCatalog.get("own")
    monkeypatch.setattr("d2_multitask.data.labels.instances.decode", None)
    mapper = MultitaskDatasetMapper(registered, True)
    assert len(mapper(second)["instances"]) == 1


def test_from_config_masks(registered):
    registered.MODEL.MASK_ON = True
    result = MultitaskDatasetMapper(registered, True)(DatasetCatalog.get("own")[0])
    assert result["instances"].gt_masks.tensor.sum() == 8 * 16


def test_from_config_for_evaluation_reads_no_data_set(cfg):
    cfg.DATASETS.TRAIN = ("not_registered",)
    mapper = MultitaskDatasetMapper(cfg, False)
    assert [type(a).__name__ for a in mapper.augmentations.augs] == ["ResizeShortestEdge"]


def test_an_augmentation_sees_the_semantic_map_as_the_image_is_by_then(record):
    """Detectron2's crop in which no class may fill more than a given area."""
    seen = []

    class Look(T.Augmentation):
        def get_transform(self, image, sem_seg):
            seen.append((image.shape[:2], sem_seg))
            return T.NoOpTransform()

    result = _mapper(T.HFlipTransform(W), Look())(record)
    ((size, sem_seg),) = seen
    assert size == sem_seg.shape == (H, W)
    assert np.array_equal(sem_seg, result["sem_seg"])
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (20, 20), 0.6)
    assert _mapper(crop)(record)["sem_seg"].shape == (20, 20)
