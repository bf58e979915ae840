"""Datasets of other classes and keypoints than the network's, against files rewritten by hand."""

from __future__ import annotations

import copy
import itertools
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.loader import build_train_loader, get_training_dicts
from d2_multitask.evaluation.build import build_evaluator

SIZE = (24, 32)  # of the small dataset's images
# The network's; the file has "person" (id 7) with nose, left_hand, right_hand.
CLASSES = ["dog", "person"]
JOINTS = ["head", "right_hand", "left_hand", "left_foot", "right_foot"]
NAMES = {"CLASS_NAMES": CLASSES, "KEYPOINT_NAMES": JOINTS}
PLACES = [0, 2, 1]  # of the file's joints among the network's


@pytest.fixture
def entry(coco, write_coco, tmp_path):
    return {
        "NAME": "mine",
        "JSON": str(write_coco(coco)),
        "IMAGE_ROOT": str(tmp_path / "images"),
        **NAMES,
        "KEYPOINT_MAP": {"nose": "head"},
    }


@pytest.fixture
def network(cfg):
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES = 2
    cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = 5
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.DATASETS.TRAIN = ("mine",)
    return cfg


def rewritten(coco):
    """The file in the network's classes and keypoints."""
    result = copy.deepcopy(coco)
    result["categories"] = [
        {"id": 1, "name": "dog"},
        {"id": 2, "name": "person", "keypoints": JOINTS, "skeleton": [[1, 3], [1, 2]]},
    ]
    for annotation in result["annotations"]:
        annotation["category_id"] = 2
        if "keypoints" in annotation:
            points, given = [0] * 15, annotation["keypoints"]
            for number, place in enumerate(PLACES):
                points[3 * place : 3 * place + 3] = given[3 * number : 3 * number + 3]
            annotation["keypoints"] = points
    return result


def equal(a, b) -> bool:
    if isinstance(a, Instances):
        a, b = a.get_fields(), b.get_fields()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    a, b = (x.tensor if hasattr(x, "tensor") else x for x in (a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_batches_are_those_of_a_file_rewritten_by_hand(coco, write_coco, entry, network, tmp_path):
    network.INPUT.RANDOM_FLIP = "horizontal"
    network.INPUT.SCALE_CROP.ENABLED = True
    network.INPUT.SCALE_CROP.SIZE = (32, 32)
    network.SEED = 3
    register_datasets([entry])
    mapped = list(itertools.islice(build_train_loader(network), 6))
    other = tmp_path / "other"
    other.mkdir()
    hand = {**entry, "NAME": "hand", "JSON": str(other / "hand.json")}
    for key in ("CLASS_NAMES", "KEYPOINT_NAMES", "KEYPOINT_MAP"):
        hand.pop(key)
    write_coco(rewritten(coco)).rename(hand["JSON"])
    register_datasets([hand])
    network.DATASETS.TRAIN = ("hand",)
    expected = list(itertools.islice(build_train_loader(network), 6))
    for ours, theirs in zip(itertools.chain(*mapped), itertools.chain(*expected), strict=True):
        # A file cannot say that dogs are not labelled.
        assert ours.pop("labelled_classes").tolist() == [False, True]
        assert ours.pop("sem_seg_hidden").tolist() == [False, True, False]
        assert equal(ours.pop("instances"), theirs.pop("instances"))
        assert equal(ours, theirs)
    for key in ("thing_classes", "keypoint_names", "keypoint_flip_map", "stuff_classes"):
        assert MetadataCatalog.get("mine").get(key) == MetadataCatalog.get("hand").get(key)
    edges = [[rule[:2] for rule in MetadataCatalog.get(n).keypoint_connection_rules] for n in
             ("mine", "hand")]  # fmt: skip
    assert edges[0] == edges[1]


def test_ids_and_numbers_do_as_well_as_names(entry):
    entry |= {"CATEGORY_MAP": {7: 1}, "KEYPOINT_MAP": {0: 0, 1: 2, "right_hand": "right_hand"}}
    register_datasets([entry])
    first = load_dataset("mine")[0]["annotations"][0]
    assert first["category_id"] == 1
    assert first["keypoints"][:9] == [8.5, 4.5, 2, 0, 0, 0, 10.5, 9.5, 1]


def test_what_is_no_class_of_the_network(coco, entry, write_coco, caplog):
    coco["categories"] += [{"id": 8, "name": "hat"}, {"id": 9, "name": "group"}]
    coco["annotations"][2]["category_id"] = 8
    coco["annotations"].append({**coco["annotations"][2], "id": 14, "category_id": 9})
    write_coco(coco)
    entry["CATEGORY_MAP"] = {"group": "ignore", "*": None}
    with caplog.at_level(logging.INFO):
        register_datasets([entry])
        objects = load_dataset("mine")[1]["annotations"]
    # The hat is background, the group is ignored as some class that the set labels.
    assert [(a["category_id"], a["iscrowd"]) for a in objects] == [(1, 1)]
    expected = "classes: mapped ['person']; left out ['hat']; ignored regions ['group']; of the"
    assert expected in caplog.text
    assert "mapped ['nose -> head', 'left_hand', 'right_hand']" in caplog.text
    assert "not learned here ['left_foot', 'right_foot']" in caplog.text


def test_ids_of_map_files_that_no_value_means_are_hidden(entry, tmp_path):
    (tmp_path / "maps").mkdir()
    for name in "ab":
        Image.new("L", SIZE[::-1], 255).save(tmp_path / "maps" / f"{name}.png")
    entry |= {"SEM_SEG_ROOT": str(tmp_path / "maps"), "SEM_SEG_IDS": {0: 0, 255: 2}}
    register_datasets([entry])
    assert [r["sem_seg_hidden"] for r in load_dataset("mine")] == [[False, True, False]] * 2
    register_datasets([entry | {"NAME": "road", "STUFF_CLASSES": ["road", "dog", "person"]}])
    assert "sem_seg_hidden" not in load_dataset("road")[0]  # there is no background


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"KEYPOINT_MAP": {"noze": "head"}}, "found 'noze' .did you mean nose.., expected one of"),
        ({"KEYPOINT_MAP": {"nose": "haed"}}, "found 'haed' .did you mean head.., expected one of"),
        ({"KEYPOINT_MAP": {5: "head"}}, "found 5, expected one of .* or their numbers .0, 1, 2"),
        ({"KEYPOINT_MAP": {"nose": 5}}, "found 5, expected one of"),
        ({"KEYPOINT_MAP": {}}, r"found nothing for \['nose'\].*or null for none"),
        ({"KEYPOINT_MAP": {"nose": "head", 0: "head"}}, "found 'nose' twice"),
        (
            {"KEYPOINT_MAP": {"nose": "left_hand"}},
            r"found \['nose', 'left_hand'\] for the one 'left_hand'",
        ),
        (
            {"KEYPOINT_MAP": {"nose": "head", "left_hand": "left_foot"}},
            "found 'left_foot' for 'left_hand' and 'right_hand' for 'right_hand', expected the le",
        ),
        (
            {"KEYPOINT_MAP": {"nose": "left_foot"}},
            "found 'left_foot' for 'nose' and nothing for 'right_foot'",
        ),
        ({"KEYPOINT_MAP": {"nose": "ignore"}}, "found 'ignore', expected null"),
        ({"CATEGORY_MAP": {"persn": "dog"}}, "did you mean person"),
        ({"CATEGORY_MAP": {8: "dog"}}, "found 8, expected one of .* or their numbers .7."),
        ({"CATEGORY_MAP": {"person": None}}, "found none of the network's classes"),
        ({"CLASS_NAMES": ["dog", "Person"]}, "did you mean {'person': 'Person'}"),
        ({"KEYPOINT_FLIP_PAIRS": [["left_hand", "head"]]}, "expected the left and right of a pair"),
    ],
)
def test_maps_that_cannot_be(entry, changes, message):
    register_datasets([entry | changes])
    with pytest.raises(ValueError, match=rf"Dataset 'mine': (KEYPOINT|CATEGORY)_MAP: .*{message}"):
        load_dataset("mine")


def test_a_flip_pair_of_one(entry):
    register_datasets([entry | {"KEYPOINT_FLIP_PAIRS": [["left_hand"]]}])
    with pytest.raises(
        ValueError, match=r"'mine': flip pairs: found .'left_hand',., expected pairs"
    ):
        load_dataset("mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"KEYPOINT_NAMES": None}, "KEYPOINT_MAP without KEYPOINT_NAMES"),
        ({"CLASS_NAMES": ["a", "a"]}, "CLASS_NAMES: found .*different names"),
        ({"CATEGORY_MAP": ["person"]}, "CATEGORY_MAP: found .*expected a mapping"),
    ],
)
def test_entries_that_cannot_be(entry, changes, message):
    with pytest.raises(ValueError, match=f"DATASETS.REGISTER.*{message}"):
        register_datasets([entry | changes])


def test_other_orders_without_a_map_are_told_before_training(coco, entry, network, write_coco):
    """The message has the union of the names, to be typed."""
    network.MODEL.TASKS = ["det"]
    plain = {key: entry[key] for key in ("NAME", "JSON", "IMAGE_ROOT")}
    register_datasets([plain])
    DatasetCatalog.register("other", lambda: load_dataset("mine"))
    MetadataCatalog.get("other").set(thing_classes=["dog", "person"])
    network.DATASETS.TRAIN = ("mine", "other")
    with pytest.raises(ValueError, match=r"thing_classes .*CLASS_NAMES: \['person', 'dog'\]"):
        get_training_dicts(network)


def test_what_no_dataset_labels_is_told(entry, network, caplog):
    register_datasets([entry])
    get_training_dicts(network)
    assert "thing_classes: none of ['mine'] labels ['dog']" in caplog.text
    assert "keypoint_names: none of ['mine'] labels ['left_foot', 'right_foot']" in caplog.text


SIGMAS = [0.1, 0.05, 0.2, 0.3, 0.3]


def predictions(rng):
    """Of the network: dogs, and people near the labelled one."""
    boxes = torch.tensor([[4.0, 2, 12, 18], [5, 3, 12, 18], [1, 1, 11, 11], [20, 4, 28, 12]])
    points = torch.tensor([[8.5, 4.5], [0, 0], [11.5, 9.5], [3, 3], [4, 4]]).repeat(4, 1, 1)
    points = points + torch.randn(points.shape, generator=rng)
    return Instances(
        SIZE,
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6]),
        pred_classes=torch.tensor([1, 0, 1, 1]),
        pred_keypoints=torch.cat([points, torch.ones(4, 5, 1)], 2),
    )


def test_evaluation_is_that_of_the_dataset_alone(entry, network, tmp_path):
    """Against a single-set user: the file as it is, and predictions in its own order."""
    plain = {**{key: entry[key] for key in ("JSON", "IMAGE_ROOT")}, "NAME": "plain"}
    register_datasets([entry, plain])
    network.MODEL.TASKS = network.TEST.TASKS = ["det", "pose"]
    network.TEST.KEYPOINT_OKS_SIGMAS = SIGMAS
    single = network.clone()
    single.MODEL.CENTER_HEAD.NUM_CLASSES, single.MODEL.POSE_HEAD.NUM_KEYPOINTS = 1, 3
    single.TEST.KEYPOINT_OKS_SIGMAS = [SIGMAS[place] for place in PLACES]
    results = []
    for cfg, name in ((network, "mine"), (single, "plain")):
        evaluator = build_evaluator(cfg, name, str(tmp_path / name))
        evaluator.reset()
        rng = torch.Generator().manual_seed(0)
        for image_id in (1, 2):
            found = predictions(rng)
            if name == "plain":
                found = found[found.pred_classes == 1]
                found.pred_classes = torch.zeros(3, dtype=torch.long)
                found.pred_keypoints = found.pred_keypoints[:, PLACES]
            evaluator.process([{"image_id": image_id}], [{"instances": found}])
        results.append(evaluator.evaluate())
    assert 0 < results[0]["keypoints"]["AP"] < 100
    assert repr(results[0]) == repr(results[1])
    assert (tmp_path / "mine/coco_instances_results.json").read_text() == (
        tmp_path / "plain/coco_instances_results.json"
    ).read_text()


def test_sigmas_are_the_networks(entry, network, tmp_path):
    register_datasets([entry])
    network.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * 3
    with pytest.raises(ValueError, match="KEYPOINT_OKS_SIGMAS: found 3 values, expected 5"):
        build_evaluator(network, "mine", str(tmp_path))


def test_classes_that_a_map_does_not_label_are_its_background(entry, network, tmp_path):
    register_datasets([entry])
    network.MODEL.TASKS = network.TEST.TASKS = ["seg"]
    evaluator = build_evaluator(network, "mine", str(tmp_path))
    evaluator.reset()
    scores = torch.zeros(3, *SIZE)
    scores[1] = 1  # dogs everywhere
    scores[2, 2:18, 4:12] = 2  # and one person, exactly
    evaluator.process([{"image_id": 1}], [{"sem_seg": scores}])
    results = evaluator.evaluate()["sem_seg"]
    assert results["IoU-background"] == results["IoU-person"] == 100
    assert results["mIoU"] == 100
