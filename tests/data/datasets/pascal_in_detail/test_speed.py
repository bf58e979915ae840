"""Loading a file of the real size: at most 30 s and 4 GB, in a process of its own.

Loading is one thread that waits for nothing, so its processor time is what it takes on a machine
that has nothing else to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from support import REPOSITORY
from synthetic.in_detail import write_synthetic_in_detail
from synthetic.in_detail.scene import DETAIL_CONFIG

NUM_IMAGES, NUM_DRAWN = 10_100, 20

LOAD = """
import json, resource, sys, time
from d2_multitask.data.datasets.pascal_in_detail import load_phase
start = time.process_time()
counts = [len(load_phase(sys.argv[1], "", phase).dataset_dicts) for phase in ("train", "val")]
seconds = time.process_time() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"counts": counts, "seconds": seconds, "gigabytes": memory}))
"""


def repeated(content):
    """The file's images again and again under new ids, up to the number of the dataset."""
    lists = ("annos_segmentation", "annos_joints", "annos_boundary", "annos_occlusion")
    large = {key: value for key, value in content.items() if key not in (*lists, "images")}
    large.update({key: [] for key in ("images", *lists)})
    for copy in range(NUM_IMAGES // NUM_DRAWN):
        new_ids = {
            image["image_id"]: 10_000 * (copy + 1) + i for i, image in enumerate(content["images"])
        }
        for image in content["images"]:
            large["images"].append({**image, "image_id": new_ids[image["image_id"]]})
        for key in lists:
            for entry in content[key]:
                new = {**entry, "image_id": new_ids[entry["image_id"]]}
                if key == "annos_segmentation":
                    new["id"] = len(large[key]) + 1
                large[key].append(new)
    return large


@pytest.mark.slow
def test_loading_ten_thousand_images(tmp_path):
    config = replace(DETAIL_CONFIG, short_side=(360, 376), noise=(2.0, 8.0))
    path = write_synthetic_in_detail(tmp_path, NUM_DRAWN // 2, NUM_DRAWN // 2, 5, config=config)
    large = tmp_path / "large.json"
    large.write_text(json.dumps(repeated(json.loads(path.read_text()))))
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(large)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    print(f"{large.stat().st_size / 1e6:.0f} MB: {found}")
    assert sum(found["counts"]) == NUM_IMAGES
    assert found["seconds"] <= 30  # for both phases, each of which reads the file
    assert found["gigabytes"] <= 4
