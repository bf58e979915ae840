"""The doctor reads 100,000 annotations in at most 60 s of one core, in a process of its own.

Processor time, which other work on the machine does not change. Of the memory 0.8 GB are PyTorch,
Detectron2 and torchvision, before a file is read.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from support import REPOSITORY
from synthetic.people import SceneConfig, write_synthetic_people

NUM_OBJECTS, NUM_DRAWN = 100_000, 40

EXAMINE = """
import json, re, sys, time
from d2_multitask.config import load_config
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.doctor import examine

def gigabytes():
    # Of this program; resource.getrusage would count the one that started it.
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 2**20

cfg, imports, start = load_config("quick/mcn_seg_det_pose.yaml"), gigabytes(), time.process_time()
register_coco_format("large", sys.argv[1], "")
cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("large",), ()
checks = [finding.check for finding in examine(cfg)]
found = {"checks": checks, "seconds": time.process_time() - start, "imports": imports}
print(json.dumps({**found, "gigabytes": gigabytes()}))
"""


def repeated(content):
    """The file's images again and again under new ids, their polygons moved a little."""
    draw = random.Random(0)
    large = {"categories": content["categories"], "images": [], "annotations": []}
    while len(large["annotations"]) < NUM_OBJECTS:
        first = len(large["images"])
        new_ids = {image["id"]: first + i for i, image in enumerate(content["images"])}
        large["images"] += [{**i, "id": new_ids[i["id"]]} for i in content["images"]]
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)] * 6
            outline = [max(round(v - draw.random(), 2), 0) for point in corners for v in point]
            new = {**one, "id": len(large["annotations"]), "image_id": new_ids[one["image_id"]]}
            large["annotations"].append({**new, "segmentation": [outline]})
    for number, image in enumerate(large["images"]):
        image["file_name"] = f"{number}.png"
    return large


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read on Linux alone")
def test_a_hundred_thousand_objects(tmp_path):
    config = replace(SceneConfig(), short_side=(96, 112))
    path = write_synthetic_people(tmp_path, "train", NUM_DRAWN, 5, config=config)
    large = tmp_path / "large.json"
    large.write_text(json.dumps(repeated(json.loads(path.read_text()))))
    run = subprocess.run(
        [sys.executable, "-c", EXAMINE, str(large)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    print(f"{large.stat().st_size / 1e6:.0f} MB: {found}")
    assert found["checks"] == ["balance/sets", "images/unreadable"]  # there are no images
    assert found["seconds"] <= 60
    assert found["gigabytes"] - found["imports"] <= 1
