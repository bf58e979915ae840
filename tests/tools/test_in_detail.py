"""Eight kinds of labels from one config, as a user goes: train, evaluate, predict, look."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from detail_support import MAIN
from synthetic.in_detail import write_synthetic_in_detail
from tool_support import run_tool

CONFIG = "quick/mask_rcnn_in_detail.yaml"
NARROW = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[8]"),
)


def run(folder: Path, tool: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = run_tool(tool, folder, "--config-file", CONFIG, *words, datasets=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_all_eight_from_one_config(tmp_path):
    write_synthetic_in_detail(tmp_path, 4, 2)
    short = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "VIS_PERIOD", "2")
    short += ("TEST.PASCAL_IN_DETAIL.NUM_WORKERS", "0", "OUTPUT_DIR", "out")
    trained = run(tmp_path, "train_net.py", *NARROW, *short)
    assert "cannot be drawn" not in trained.stdout + trained.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results) == set(MAIN)
    assert all(MAIN[task] in metrics for task, metrics in results.items())
    weights = ("MODEL.WEIGHTS", "out/model_final.pth")
    images = "synthetic_in_detail/VOCdevkit/VOC2010/JPEGImages"
    words = ("--input", images, "--max-images", "1", "--output", "seen")
    run(tmp_path, "predict.py", *words, *NARROW, *weights)
    (picture,) = (tmp_path / "seen").glob("*.jpg")
    run(tmp_path, "visualize_data.py", "--source", "annotation", "--num-images", "1")
    for path in (picture, tmp_path / "output/data/annotation_001.png"):
        width, height = Image.open(path).size
        assert width > 3 * height, path  # objects, parts, boundary, occlusion, classes in a strip
