from __future__ import annotations

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from PIL import Image

from d2_multitask.config import merge_options
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.labels.sem_seg import from_source
from d2_multitask.data.loader import (
    EMPTY_IMAGE,
    NO_LABEL,
    build_test_loader,
    build_train_loader,
    filter_images,
    get_training_dicts,
)
from d2_multitask.data.mapper import BAD_IMAGE, MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT

PERSON = {"category_id": 0, "iscrowd": 0}
CROWD = {"category_id": 0, "iscrowd": 1}


@pytest.fixture
def own(cfg, coco, write_coco, tmp_path):
    """cfg that trains on the small data set."""
    register_coco_format("own", str(write_coco(coco)), str(tmp_path / "images"))
    cfg.DATASETS.TRAIN = ("own",)
    return cfg


def test_training_dicts(own):
    # Nobody has the third joint, which is therefore not taken for absent.
    partial = {"labelled_keypoints": [True, True, False]}
    expected = [{**from_source(d), **partial} for d in DatasetCatalog.get("own")]
    assert get_training_dicts(own) == expected


def test_one_file_in_two_training_sets(cfg, own):
    other = DatasetCatalog.get("own")
    other[0]["annotations"].pop()
    DatasetCatalog.register("other", lambda: other)
    MetadataCatalog.get("other").set(thing_classes=["person"])
    cfg.DATASETS.TRAIN = ("own", "other")
    cfg.MODEL.TASKS = ["det"]
    DATA_REPORT.clear()
    get_training_dicts(cfg)
    assert "'own' and 'other'" in DATA_REPORT.summary()


def test_joints_that_nobody_named(cfg, own):
    dicts = DatasetCatalog.get("own")
    DatasetCatalog.register("nameless", lambda: dicts)
    MetadataCatalog.get("nameless").set(thing_classes=["person"])
    cfg.DATASETS.TRAIN = ("nameless",)
    cfg.MODEL.TASKS = ["pose"]
    with pytest.raises(ValueError, match=r"have 3 keypoints.*get\('nameless'\)"):
        get_training_dicts(cfg)


def test_another_number_of_joints_than_names(cfg, own):
    dicts = DatasetCatalog.get("own")
    DatasetCatalog.register("shorter", lambda: dicts)
    MetadataCatalog.get("shorter").set(
        thing_classes=["person"], keypoint_names=["a", "b"], keypoint_flip_map=[]
    )
    cfg.DATASETS.TRAIN, cfg.MODEL.TASKS = ("shorter",), ["pose"]
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = 2
    with pytest.raises(ValueError, match="keypoints: found 9 numbers per object, expected 6"):
        get_training_dicts(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 1}, r"category_id: found \[1\], expected 0\.\.0"),
        ({"category_id": None}, r"category_id: found \[None\]"),
    ],
)
def test_class_ids_are_checked_before_evaluation(cfg, own, change, message):
    dicts = DatasetCatalog.get("own")
    dicts[0]["annotations"][0].update(change)
    DatasetCatalog.register("wrong", lambda: dicts)
    MetadataCatalog.get("wrong").set(thing_classes=["person"])
    with pytest.raises(ValueError, match=message):
        build_test_loader(cfg, "wrong")


def test_two_images_of_one_id_are_not_scored(cfg, own):
    dicts = DatasetCatalog.get("own")
    dicts.append({**dicts[0], "file_name": "another.png"})
    DatasetCatalog.register("twice", lambda: dicts)
    with pytest.raises(ValueError, match="expected another id for each image"):
        build_test_loader(cfg, "twice")


@pytest.mark.parametrize(
    ("key", "field"), [("MASK_ON", "segmentation"), ("KEYPOINT_ON", "keypoints")]
)
def test_masks_and_joints_that_nobody_labelled(own, coco, write_coco, key, field):
    """An R-CNN would train without them in silence."""
    own.MODEL[key], own.MODEL.TASKS = True, ["det"]
    own.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    assert get_training_dicts(own)
    for annotation in coco["annotations"]:
        annotation.pop(field, None)
        annotation.pop("num_keypoints" if field == "keypoints" else "", None)
    write_coco(coco)
    with pytest.raises(ValueError, match=f"MODEL.{key}: True needs objects with .*'own'"):
        get_training_dicts(own)


@pytest.mark.parametrize(
    ("record", "kept", "kept_if_filtered", "kind"),
    [
        pytest.param({"annotations": [PERSON]}, True, True, None, id="object"),
        pytest.param({"annotations": []}, True, False, EMPTY_IMAGE, id="no object"),
        pytest.param({"annotations": [CROWD]}, True, False, EMPTY_IMAGE, id="only a crowd"),
        pytest.param(
            {"annotations": [], "sem_seg_from_annotations": True},
            True,
            False,
            EMPTY_IMAGE,
            id="a map derived from no object",
        ),
        pytest.param(
            {"annotations": [], "sem_seg_file_name": "x.png"},
            True,
            True,
            None,
            id="a map of its own",
        ),
        pytest.param({"sem_seg_file_name": "x.png"}, True, True, None, id="map only"),
        pytest.param({}, False, False, NO_LABEL, id="no label"),
    ],
)
def test_filter(record, kept, kept_if_filtered, kind):
    record = record | {"file_name": "a.png"}
    assert bool(filter_images([record], False)) == kept
    assert bool(filter_images([record], True)) == kept_if_filtered
    assert DATA_REPORT.counts == ({kind: 1} if kind else {})


def test_the_filter_follows_detectron2s_key(own, coco, write_coco):
    del coco["annotations"][2]
    write_coco(coco)
    own.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(get_training_dicts(own)) == 2
    own.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert len(get_training_dicts(own)) == 1


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        pytest.param(
            ["MODEL.CENTER_HEAD.NUM_CLASSES", 3],
            r"'own': thing_classes: found 1, .* set MODEL.CENTER_HEAD.NUM_CLASSES to 1",
            id="classes",
        ),
        pytest.param(
            ["MODEL.POSE_HEAD.NUM_KEYPOINTS", 17],
            r"'own': keypoint_names: found 3, .* set MODEL.POSE_HEAD.NUM_KEYPOINTS to 3",
            id="joints",
        ),
        pytest.param(
            ["MODEL.META_ARCHITECTURE", "MultitaskRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", 80],
            r"'own': thing_classes: found 1, .* set MODEL.ROI_HEADS.NUM_CLASSES to 1",
            id="classes of an R-CNN",
        ),
        pytest.param(
            [
                *("MODEL.META_ARCHITECTURE", "MultitaskRCNN", "MODEL.TASKS", ["det"]),
                *("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.KEYPOINT_ON", True),
                *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17),
            ],
            r"'own': keypoint_names: found 3, .* set MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS to 3",
            id="joints of an R-CNN",
        ),
        pytest.param(
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54],
            r"'own': stuff_classes: found 2, .* set MODEL.SEM_SEG_HEAD.NUM_CLASSES to 2",
            id="semantic classes",
        ),
        pytest.param(["DATASETS.TRAIN", ()], "DATASETS.TRAIN: found nothing", id="no data set"),
        pytest.param(
            ["DATASETS.TRAIN", ("coco_2017_trian",)],
            r"found 'coco_2017_trian', expected a registered .*'coco_2017_train'",
            id="misspelt",
        ),
    ],
)
def test_network_and_data_must_fit(own, opts, message):
    own.merge_from_list(opts)
    with pytest.raises(ValueError, match=message):
        get_training_dicts(own)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("det", "MODEL.POSE_HEAD.NUM_KEYPOINTS"),
        ("det", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ("seg", "MODEL.CENTER_HEAD.NUM_CLASSES"),
    ],
)
def test_what_is_not_asked_for_need_not_fit(own, task, key):
    own.merge_from_list(["MODEL.TASKS", [task], key, 99])
    assert len(get_training_dicts(own)) == 2


def _register(name, records, **metadata):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(**metadata)


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "image.png")
    return {"file_name": str(tmp_path / "image.png"), "height": 24, "width": 32}


def test_data_sets_may_be_labelled_for_different_tasks(own, image, tmp_path):
    path = str(tmp_path / "map.png")
    Image.new("L", (32, 24), 1).save(path)
    _register("maps", [image | {"sem_seg_file_name": path}], stuff_classes=["background", "person"])
    own.DATASETS.TRAIN = ("own", "maps")
    assert len(get_training_dicts(own)) == 3
    result = MultitaskDatasetMapper(own, True)(DatasetCatalog.get("own")[0])
    assert result["instances"].has("gt_keypoints")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thing_classes", ["dog"]),
        ("keypoint_names", ["nose", "right_hand", "left_hand"]),
        ("keypoint_flip_map", [("right_hand", "left_hand")]),
        ("stuff_classes", ["person", "background"]),
    ],
)
def test_data_sets_must_agree(own, image, key, value):
    names = {"thing_classes": ["person"], key: value}
    _register("other", [image | {"annotations": []}], **names)
    own.DATASETS.TRAIN = ("own", "other")
    with pytest.raises(ValueError, match=rf"{key} of dataset 'other': found .* as in 'own'"):
        get_training_dicts(own)


def test_pairs_may_be_lists_or_tuples(own, image):
    _register(
        "other",
        [image | {"annotations": []}],
        thing_classes=["person"],
        keypoint_flip_map=(["left_hand", "right_hand"],),
    )
    own.DATASETS.TRAIN = ("own", "other")
    own.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(get_training_dicts(own)) == 3


@pytest.mark.parametrize(
    ("task", "annotations", "message"),
    [
        pytest.param("det", [], "'det' needs objects with boxes", id="no object"),
        pytest.param("det", [CROWD], "'det' needs objects with boxes", id="only a crowd"),
        pytest.param(
            "pose",
            [PERSON | {"keypoints": [0] * 9}],
            "'pose' needs objects with labelled keypoints",
            id="no labelled joint",
        ),
        pytest.param("seg", [PERSON], "'seg' needs semantic maps", id="no map"),
    ],
)
def test_each_task_needs_labels(cfg, image, task, annotations, message):
    _register("bare", [image | {"annotations": annotations}], thing_classes=["person"])
    cfg.DATASETS.TRAIN = ("bare",)
    cfg.MODEL.TASKS = [task]
    with pytest.raises(ValueError, match=rf"{message}, found none in \['bare'\]"):
        get_training_dicts(cfg)


def test_category_beyond_the_classes(cfg, image):
    _register("odd", [image | {"annotations": [PERSON | {"category_id": 4}]}], thing_classes=["a"])
    cfg.DATASETS.TRAIN = ("odd",)
    with pytest.raises(ValueError, match=r"'odd': category_id: found \[4\], expected 0\.\.0"):
        get_training_dicts(cfg)


def test_empty_data_set(cfg):
    _register("empty", [], thing_classes=["person"])
    cfg.DATASETS.TRAIN = ("empty",)
    with pytest.raises(ValueError, match="'empty' is empty"):
        get_training_dicts(cfg)


def test_nothing_left_for_training(cfg, image):
    _register("bare", [image | {"annotations": [CROWD], "sem_seg_from_annotations": True}])
    MetadataCatalog.get("bare").set(stuff_classes=["background", "person"])
    cfg.DATASETS.TRAIN = ("bare",)
    cfg.MODEL.TASKS = ["seg"]
    with pytest.raises(ValueError, match=r"no image of \['bare'\] is left"):
        get_training_dicts(cfg)


def test_wrong_image_folder(own, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(ValueError, match=r"'own': none of its 2 images can be used, .*images"):
        get_training_dicts(own)


def test_one_missing_image_is_no_reason_to_stop(own, tmp_path):
    (tmp_path / "images" / "a.png").unlink()
    assert len(get_training_dicts(own)) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_train_loader_takes_another_image_and_counts(own, tmp_path, num_workers):
    (tmp_path / "images" / "a.png").write_bytes(b"broken")
    own.DATALOADER.NUM_WORKERS = num_workers
    batches = iter(build_train_loader(own))
    for _ in range(3):
        batch = next(batches)
        assert [image["file_name"][-5:] for image in batch] == ["b.png", "b.png"]
        assert not any("data_problems" in image for image in batch)
    assert DATA_REPORT.counts == {BAD_IMAGE: 1}


def test_detectron2s_loader_works_with_the_pieces(own):
    dataset = get_training_dicts(own)
    loader = build_detection_train_loader(own, dataset=dataset, mapper=MultitaskDatasetMapper(own))
    assert len(next(iter(loader))) == 2


def test_test_loader_gives_every_image(own):
    loader = build_test_loader(own, "own")
    assert len(loader) == 2
    assert [image["image_id"] for batch in loader for image in batch] == [1, 2]


def test_test_loader_does_not_skip(own, tmp_path):
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b\.png: cannot be read"):
        list(build_test_loader(own, "own"))


def test_images_of_other_kinds_train(own, tmp_path, caplog):
    with Image.open(tmp_path / "images" / "a.png") as image:
        gray = image.convert("L")
    gray.save(tmp_path / "images" / "a.png")
    with caplog.at_level(logging.WARNING):
        next(iter(build_train_loader(own)))
    assert not caplog.messages


@pytest.mark.parametrize("change", [{"bbox": None}, {"bbox": [1, 2, 3]}, {"bbox_mode": None}])
def test_objects_without_boxes(cfg, own, change):
    dicts = DatasetCatalog.get("own")
    dicts[0]["annotations"][0].update(change)
    DatasetCatalog.register("boxless", lambda: dicts)
    MetadataCatalog.get("boxless").set(thing_classes=["person"])
    cfg.DATASETS.TRAIN, cfg.MODEL.TASKS = ("boxless",), ["det"]
    with pytest.raises(ValueError, match=r"a\.png: object 0: found 'bbox'"):
        get_training_dicts(cfg)


@pytest.fixture
def two(cfg, own):
    dicts = DatasetCatalog.get("own")
    DatasetCatalog.register("two", lambda: dicts)
    MetadataCatalog.get("two").set(thing_classes=["person"])
    cfg.DATASETS.TRAIN = ("own", "two")
    cfg.MODEL.TASKS = ["det"]
    return cfg


def test_images_of_several_datasets_say_theirs(two):
    two.DATASETS.SAMPLING = [0, 1]
    batch = next(iter(build_train_loader(two)))
    assert {image["dataset_name"] for image in batch} == {"two"}


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["DATASETS.SAMPLING", "[1]"], "found \\[1\\], expected 2 weights"),
        (["DATASETS.SAMPLING", "equal", "DATASETS.TRAIN", "('own',)"], "several datasets"),
        (
            ["DATASETS.SAMPLING", "equal", "DATASETS.TRAIN_REPEAT_FACTOR", "[['own', 2]]"],
            "beside DATASETS.TRAIN_REPEAT_FACTOR",
        ),
        (
            [
                "DATASETS.SAMPLING",
                "[1, 2]",
                "DATALOADER.SAMPLER_TRAIN",
                "RandomSubsetTrainingSampler",
            ],
            "expected 'TrainingSampler'",
        ),
    ],
)
def test_sampling_that_the_config_contradicts(two, opts, message):
    two.DATASETS.SAMPLING = "square_root"
    merge_options(two, opts)
    with pytest.raises(ValueError, match=f"DATASETS.SAMPLING: .*{message}"):
        build_train_loader(two)
