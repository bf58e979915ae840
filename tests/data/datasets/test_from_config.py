from __future__ import annotations

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.from_config import add_data_config, register_datasets


@pytest.fixture
def entry(coco, write_coco, tmp_path):
    return {"NAME": "mine", "JSON": str(write_coco(coco)), "IMAGE_ROOT": str(tmp_path / "images")}


def test_yaml_alone_brings_a_data_set(entry, tmp_path):
    yaml = tmp_path / "config.yaml"
    yaml.write_text(
        "DATASETS:\n  TRAIN: ('mine',)\n  REGISTER:\n"
        f"    - NAME: mine\n      JSON: {entry['JSON']}\n      IMAGE_ROOT: {entry['IMAGE_ROOT']}\n"
    )
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.merge_from_file(str(yaml))
    cfg.freeze()
    assert register_datasets(cfg.DATASETS.REGISTER) == ["mine"]
    assert len(DatasetCatalog.get("mine")) == 2
    assert type(cfg).load_cfg(cfg.dump()).DATASETS.REGISTER == [entry]


def test_again_is_no_error_but_another_of_that_name_is(entry):
    register_datasets([entry])
    register_datasets([dict(entry)])
    with pytest.raises(ValueError, match="'mine' is already registered"):
        register_datasets([entry | {"IMAGE_ROOT": "elsewhere"}])


def test_optional_keys(entry):
    register_datasets(
        [
            entry
            | {
                "SEM_SEG_ROOT": "",
                "SEM_SEG_FROM_MASKS": False,
                "STUFF_CLASSES": None,
                "KEYPOINT_FLIP_PAIRS": [["nose", "left_hand"]],
            }
        ]
    )
    assert "sem_seg_from_annotations" not in DatasetCatalog.get("mine")[0]
    assert MetadataCatalog.get("mine").keypoint_flip_map == [("nose", "left_hand")]


def test_environment_variables(entry, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    register_datasets([entry | {"JSON": "$MY_DATA/annotations.json"}])
    assert MetadataCatalog.get("mine").json_file == str(tmp_path / "annotations.json")


@pytest.mark.parametrize("form", ["$DETECTRON2_DATASETS", "${DETECTRON2_DATASETS}"])
def test_the_datasets_folder_has_its_default_in_paths_too(entry, monkeypatch, tmp_path, form):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setenv("DETECTRON2_DATASETS_2", "other")
    root = "$DETECTRON2_DATASETS_2/images"
    file = tmp_path / "annotations.json"
    (tmp_path / "datasets").mkdir()
    file.rename(tmp_path / "datasets" / file.name)
    monkeypatch.chdir(tmp_path)
    register_datasets([entry | {"JSON": f"{form}/annotations.json", "IMAGE_ROOT": root}])
    assert MetadataCatalog.get("mine").json_file == "datasets/annotations.json"
    assert MetadataCatalog.get("mine").image_root == "other/images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"IMAGE_ROT": "x"}, "'IMAGE_ROT'.* did you mean IMAGE_ROOT", id="misspelt"),
        pytest.param({"name": "x"}, "'name'.* did you mean NAME", id="lower case"),
        pytest.param({"JSON": ""}, "key JSON: found nothing", id="empty"),
        pytest.param({"IMAGE_ROOT": ...}, "key IMAGE_ROOT: found nothing", id="missing"),
        pytest.param(
            {"JSON": ..., "STUFF_CLASSES": ["a"]}, "without the key JSON", id="labels of a folder"
        ),
        pytest.param({"JSON": ..., "IMAGE_RANGE": 3}, "found 3, expected a list", id="range"),
        pytest.param({"NAME": 3}, "key NAME: found 3, expected str", id="number"),
        pytest.param({"SEM_SEG_FROM_MASKS": "no"}, "found 'no', expected bool", id="text"),
        pytest.param({"STUFF_CLASSES": "a"}, "found 'a', expected a list", id="no list"),
    ],
)
def test_bad_keys(entry, change, message):
    entry = {k: v for k, v in (entry | change).items() if v is not ...}
    with pytest.raises(ValueError, match=rf"DATASETS.REGISTER\[0\].*{message}"):
        register_datasets([entry])


@pytest.mark.parametrize("entries", [{"NAME": "x"}, ["x"], "x"])
def test_no_list_of_entries(entries):
    with pytest.raises(ValueError, match="DATASETS.REGISTER"):
        register_datasets(entries)


def test_defaults_change_nothing_of_detectron2():
    cfg = get_cfg()
    add_data_config(cfg)
    assert not cfg.INPUT.SCALE_CROP.ENABLED and not cfg.INPUT.COLOR_JITTER.ENABLED
    assert cfg.DATASETS.REGISTER == []


def test_values_of_semantic_maps(entry, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.png").touch()
    values = {"SEM_SEG_IDS": {0: 0, 255: 1}, "SEM_SEG_IGNORE": 128}
    register_datasets([entry | values | {"SEM_SEG_ROOT": str(tmp_path / "maps")}])
    record = DatasetCatalog.get("mine")[0]
    assert (record["sem_seg_ids"], record["sem_seg_ignore"]) == ({0: 0, 255: 1}, (128,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"SEM_SEG_IGNORE": 0}, "SEM_SEG_IGNORE without SEM_SEG_ROOT", id="no maps"),
        pytest.param({"SEM_SEG_IGNORE": ["x"]}, r"SEM_SEG_IGNORE: found \['x'\]", id="text"),
        pytest.param({"SEM_SEG_IGNORE": 0.5}, "a number or a list of numbers", id="fraction"),
        pytest.param({"SEM_SEG_IDS": {"a": 1}}, r"SEM_SEG_IDS: found \{'a': 1\}", id="name"),
        pytest.param({"SEM_SEG_IDS": {7: 255}}, r"SEM_SEG_IDS: found \{7: 255\}", id="id"),
    ],
)
def test_bad_values_of_semantic_maps(entry, values, message):
    with pytest.raises(ValueError, match=message):
        register_datasets([entry | values])
