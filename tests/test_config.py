"""Reading configs: what a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec

from d2_multitask.config import add_multitask_config, get_multitask_cfg, load_config
from d2_multitask.heads.sem_seg import SemSegHead


def test_nothing_of_detectron2_changes() -> None:
    plain, ours = get_cfg(), get_cfg()
    add_multitask_config(ours)

    def compare(one, other, prefix: str = "") -> None:
        for key, value in one.items():
            if hasattr(value, "items"):
                compare(value, other[key], f"{prefix}{key}.")
            else:
                assert other[key] == value, prefix + key

    compare(plain, ours)
    assert "TASKS" not in get_cfg().MODEL


def test_a_whole_number_for_a_fraction() -> None:
    cfg = load_config(opts=["SOLVER.LOSS_BALANCING_TEMPERATURE", "2"])
    assert type(cfg.SOLVER.LOSS_BALANCING_TEMPERATURE) is float
    with pytest.raises(ValueError, match=r"SOLVER\.LOSS_BALANCING_PERIOD 2\.5"):
        load_config(opts=["SOLVER.LOSS_BALANCING_PERIOD", "2.5"])


def test_option_after_overrides() -> None:
    with pytest.raises(ValueError, match="found --num-gpus among KEY VALUE pairs, expected optio"):
        load_config("", ["SEED", "1", "--num-gpus", "2"])


def test_file_by_path_or_by_name_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("MODEL:\n  TASKS: ['det']\n")
    assert load_config(path).MODEL.TASKS == ["det"]
    assert load_config(path, ["MODEL.TASKS", "['seg']"]).MODEL.TASKS == ["seg"]
    assert load_config("quick/mcn_det.yaml").MODEL.TASKS == ["det"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  TAKS: ['det']\n", r"mine.yaml.*MODEL.TAKS.*did you mean.*MODEL.TASKS"),
        ("MODEL:\n  CENTER_HEAD:\n    CONVDIM: 3\n", r"CENTER_HEAD.CONVDIM.*CENTER_HEAD.CONV_DIM"),
        ("MODEL:\n  TASKS: 3\n", r"mine.yaml.*MODEL.TASKS"),  # an int where a list belongs
        ("MODEL: [1\n", r"mine.yaml.*not a plain YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"# nothing\n", "an empty file", id="comment"),
        pytest.param(b"- a\n- b\n", "found list, expected a mapping", id="list"),
        pytest.param(b"secret\n", "found str, expected a mapping", id="scalar"),
        pytest.param(b"_BASE_: mine.yaml\n", "includes itself", id="itself"),
        pytest.param(b"_BASE_: other.yaml\n", "includes itself", id="over two files"),
        pytest.param(b"_BASE_: none.yaml\n", "_BASE_: there is no file .*none.yaml", id="no base"),
        pytest.param(b"_BASE_: 3\n", "_BASE_: found int, expected the path", id="number"),
        pytest.param(b"_BASE_: shadow\n", r"shadow: line 2: not a plain YAML", id="not YAML"),
        pytest.param(b"A: 1\nB: \xff\n", "line 2: found bytes that are not UTF-8", id="bytes"),
        pytest.param(b"A: " + b"[" * 50_000, "nested too deeply", id="deep list"),
        pytest.param(b"MODEL: &a {MODEL: *a}\n", "more than 50 levels", id="holds itself"),
        pytest.param(b"MODEL:\n  3: 4\n", "MODEL: found a key of type int", id="key"),
        pytest.param(b"OUTPUT_DIR: 2020-13-45\n", "number, date or tag", id="no date"),
        pytest.param(b"OUTPUT_DIR: !!bool secret\n", "number, date or tag", id="no bool"),
        pytest.param(b"VERSION: two\n", "wrong type", id="version"),
        pytest.param(b"MODEL: 3\n", "mine.yaml", id="number for a mapping"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    (tmp_path / "other.yaml").write_text("_BASE_: mine.yaml\n")
    (tmp_path / "shadow").write_text("root:*:1:0:9:7:::\n'secret': &x *secret\n")
    with pytest.raises(ValueError, match=message) as error:
        load_config(tmp_path / "mine.yaml")
    assert str(tmp_path) in str(error.value)
    assert "secret" not in str(error.value)


def test_several_bases_and_numbers_as_keys_in_lists(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("OUTPUT_DIR: a\nSEED: 3\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nOUTPUT_DIR: b\n")
    entry = "DATASETS:\n  REGISTER: [{NAME: x, SEM_SEG_IDS: {0: 0, 255: 1}}]\n"
    (tmp_path / "mine.yaml").write_text("_BASE_: [a.yaml, b.yaml]\n" + entry)
    cfg = load_config(tmp_path / "mine.yaml")
    assert (cfg.OUTPUT_DIR, cfg.SEED) == ("b", 3)
    assert cfg.DATASETS.REGISTER[0]["SEM_SEG_IDS"] == {0: 0, 255: 1}


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path, witness = tmp_path / "mine.yaml", tmp_path / "witness"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{witness}']\n")
    with pytest.raises(ValueError, match="not a plain YAML"):
        load_config(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.MAX_ITR", "3"], "SOLVER.MAX_ITR.*did you mean.*SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "1 words.*KEY VALUE"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER many"),
    ],
)
def test_mistakes_on_the_command_line(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("", opts)


def test_unknown_file_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r"mcn_seg_det_pose\.yaml"):
        load_config("quick/mcn_seg_det_poze.yaml")


def write(path: Path, **model: object) -> Path:
    path.write_text(yaml.safe_dump({"MODEL": model, "VERSION": 2}))
    return path


def seg_keys(cfg: CfgNode) -> tuple[list[str], int]:
    return cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, cfg.MODEL.SEM_SEG_HEAD.LOSS_STRIDE


OLD = {"IN_FEATURES": ["p3"], "LOSS_STRIDE": 2}


def test_old_node_of_the_segmentation_head_in_a_file(tmp_path: Path) -> None:
    # A config that the last version dumped holds Detectron2's IN_FEATURES, which it did not read.
    in_new = {"IN_FEATURES": ["p2", "p3"], "NUM_CLASSES": 7}
    path = write(tmp_path / "old.yaml", SEG_HEAD=OLD, SEM_SEG_HEAD=in_new)
    with pytest.warns(FutureWarning, match="MODEL.SEG_HEAD.*MODEL.SEM_SEG_HEAD") as warned:
        cfg = load_config(path)
    assert len(warned) == 1
    assert (*seg_keys(cfg), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (["p3"], 2, 7)
    assert "SEG_HEAD" not in cfg.MODEL


def test_old_and_new_node_in_a_file_and_its_base(tmp_path: Path) -> None:
    old = write(tmp_path / "old.yaml", SEG_HEAD=OLD)
    new = write(tmp_path / "new.yaml", SEM_SEG_HEAD={"LOSS_STRIDE": 4})
    for path, base, expected in ((old, new, 2), (new, old, 4)):
        mine = tmp_path / f"mine_{path.name}"
        mine.write_text(f"_BASE_: {base.name}\n{path.read_text()}")
        with pytest.warns(FutureWarning, match="MODEL.SEG_HEAD"):
            assert seg_keys(load_config(mine)) == (["p3"], expected)


def test_old_node_by_detectron2s_own_ways(tmp_path: Path) -> None:
    path = write(tmp_path / "old.yaml", SEG_HEAD=OLD)
    other = CfgNode({"MODEL": {"SEG_HEAD": OLD}})
    options = ["MODEL.SEG_HEAD.IN_FEATURES", "['p3']", "MODEL.SEG_HEAD.LOSS_STRIDE", "2"]
    for merge in (
        lambda cfg: cfg.merge_from_file(str(path)),
        lambda cfg: cfg.merge_from_other_cfg(other),
        lambda cfg: cfg.merge_from_list(options),
        lambda cfg: cfg.merge_from_other_cfg(load_config(opts=options)),
    ):
        cfg = get_multitask_cfg().clone()
        with pytest.warns(FutureWarning, match="MODEL.SEG_HEAD"):
            merge(cfg)
        assert seg_keys(cfg) == (["p3"], 2)
    assert "SEG_HEAD" in other.MODEL  # what is merged is not changed


def test_keys_that_the_old_node_never_had(tmp_path: Path) -> None:
    path = write(tmp_path / "old.yaml", SEG_HEAD={"NUM_CLASSES": 3})
    with pytest.raises(ValueError, match="SEG_HEAD was renamed to MODEL.SEM_SEG_HEAD"):
        load_config(path)


@pytest.mark.parametrize(
    ("outputs", "in_features", "expected"),
    [
        (["p2"], None, ["p2"]),
        (["p2", "p3", "p4", "p5", "p6"], None, ["p2", "p3", "p4", "p5"]),
        (["p2", "p3"], ["p3"], ["p3"]),
    ],
)
def test_features_of_the_segmentation_head(
    outputs: list[str], in_features: list[str] | None, expected: list[str]
) -> None:
    cfg = get_multitask_cfg()
    if in_features:
        cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = in_features
    shapes = {name: ShapeSpec(channels=8, stride=4) for name in outputs}
    assert list(SemSegHead.from_config(cfg, shapes)["input_shape"]) == expected


@pytest.mark.parametrize("in_features", [["p2", "p3"], []])
def test_segmentation_features_that_the_backbone_lacks(in_features: list[str]) -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = in_features
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD.IN_FEATURES: found .* expected"):
        SemSegHead.from_config(cfg, {"p2": ShapeSpec(channels=8, stride=4)})
