"""The written files, repetition, and what an interrupted run leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from synthetic.textures import draw_textures, write_synthetic_textures


def test_images_masks_and_json_agree(tmp_path):
    path = write_synthetic_textures(tmp_path, "other_palette", "val", 3, seed=4)
    folder = tmp_path / "synthetic_textures" / "other_palette"
    assert path == folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{i:06d}.png" for i in range(3)]
    for index, annotation in enumerate(content["annotations"]):
        scene = draw_textures(4, "other_palette", "val", index)
        image, mask = (
            np.asarray(Image.open(folder / "val" / what / f"{index:06d}.png"))
            for what in ("images", "masks")
        )
        assert np.array_equal(image, scene.image)
        assert np.array_equal(mask == 255, scene.mask) and set(np.unique(mask)) == {0, 255}
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]) == 1, scene.mask)
        assert annotation["area"] == scene.mask.sum() and annotation["image_id"] == index + 1


def test_repetition_continues_and_never_replaces_unasked(tmp_path):
    arguments = (tmp_path, "same_palette", "test")
    path = write_synthetic_textures(*arguments, 3)
    image = path.parents[1] / "test" / "images" / "000001.png"
    before, stamp = image.read_bytes(), path.stat().st_mtime_ns
    write_synthetic_textures(*arguments, 3)
    assert path.stat().st_mtime_ns == stamp
    image.unlink()  # as if it had been stopped, which leaves no JSON
    path.unlink()
    write_synthetic_textures(*arguments, 3)
    assert image.read_bytes() == before
    with pytest.raises(ValueError, match="overwrite"):
        write_synthetic_textures(*arguments, 2)
    write_synthetic_textures(*arguments, 1, overwrite=True)
    assert not image.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plaid", "val", 1), "kind"),
        (("same_palette", "a/b", 1), "split"),
        (("same_palette", "val", 0), "num_images"),
        (("same_palette", "val", 1, -1), "seed"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}: expected"):
        write_synthetic_textures(tmp_path, *arguments)
    assert not list(tmp_path.iterdir())
