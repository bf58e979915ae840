"""Ids of the images of a run."""

from __future__ import annotations

import json

import pytest
from detectron2.data import Metadata

from d2_multitask.engine.image_ids import image_ids, known_image_ids


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        pytest.param(["x/b.png", "a.png"], {"a.png": 4, "b.png": 8}, [8, 4], id="dataset"),
        pytest.param(["b.png", "7.png"], {"b.png": 8}, [1, 2], id="partly-known"),
        pytest.param(["000785.jpg", "12.png"], {}, [785, 12], id="numbers"),
        pytest.param(["1/7.png", "2/7.png"], {}, [1, 2], id="numbers-twice"),
        pytest.param(["9" * 60 + ".png"], {}, [1], id="number-of-60-digits"),
        pytest.param(
            ["x/one/a.png", "two/a.png"], {"one/a.png": 5, "two/a.png": "t"}, [5, "t"], id="folders"
        ),
        pytest.param(["b/a.png", "a.png"], {"a.png": 5, "b/a.png": 6}, [6, 5], id="longest-path"),
        pytest.param(["one/a.png", "two/a.png"], {"a.png": 5}, [1, 2], id="one-entry-for-two"),
        pytest.param(["²³.png", "a.png"], {}, [1, 2], id="no-number"),
        pytest.param([], {}, [], id="none"),
    ],
)
def test_image_ids(names, known, expected):
    assert image_ids(names, known) == expected


def test_known_image_ids_come_from_the_datasets_file(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"images": [{"id": 5, "file_name": "train/a.png"}]}))
    assert known_image_ids(Metadata(json_file=str(path))) == {"train/a.png": 5}
    assert known_image_ids(Metadata(json_file=str(tmp_path / "absent.json"))) == {}
    assert known_image_ids(Metadata()) == {}
