from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.evaluation.dense.sem_seg import MultitaskSemSegEvaluator
from evaluation_support import (
    HEIGHT,
    WIDTH,
    annotation,
    inputs_of,
    label_scores,
    perfect_outputs,
    two_images,
    write_map,
)


def evaluate(name, outputs, output_dir=None):
    evaluator = MultitaskSemSegEvaluator(name, output_dir=output_dir)
    evaluator.reset()
    evaluator.process(inputs_of(name), outputs)
    return evaluator.evaluate()["sem_seg"]


def boxes_map(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) with class 1 in the boxes (x1, y1, x2, y2)."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        labels[y1:y2, x1:x2] = 1
    return labels


def test_labels_as_predictions_get_100(register, tmp_path):
    content = two_images()
    results = evaluate(register(content), perfect_outputs(content), str(tmp_path / "out"))
    for metric in ("mIoU", "fwIoU", "mACC", "pACC", "IoU-background", "IoU-person"):
        assert results[metric] == pytest.approx(100)
        assert type(results[metric]) is float
    assert (tmp_path / "out" / "sem_seg_predictions.json").is_file()


def test_iou_of_a_known_overlap(register):
    """Golden numbers counted by hand: person 20x20 labelled, 20x20 predicted, 10x20 in common."""
    content = two_images()
    content["images"] = content["images"][:1]
    content["annotations"] = [annotation(1, 1, [10, 10, 20, 20])]
    outputs = [{"sem_seg": label_scores(boxes_map((20, 10, 40, 30)))}]
    results = evaluate(register(content), outputs)
    pixels = HEIGHT * WIDTH
    background = 100 * (pixels - 600) / (pixels - 200)
    assert results["IoU-person"] == pytest.approx(100 * 200 / 600)
    assert results["IoU-background"] == pytest.approx(background)
    assert results["mIoU"] == pytest.approx((100 / 3 + background) / 2)
    assert results["pACC"] == pytest.approx(100 * (pixels - 400) / pixels)


def test_derived_maps_and_png_maps_give_the_same_numbers(register, tmp_path):
    content = two_images()
    content["annotations"].append(annotation(4, 2, [50, 0, 30, 60], iscrowd=1))
    first = boxes_map((5, 5, 25, 45), (40, 10, 70, 55))
    second = boxes_map((10, 8, 46, 58))
    second[0:60, 50:80] = 255  # the crowd
    write_map(tmp_path / "maps" / "1.png", first)
    write_map(tmp_path / "maps" / "2.png", second)
    outputs = [
        {"sem_seg": label_scores(boxes_map((0, 0, 30, 30)))},
        {"sem_seg": label_scores(boxes_map((20, 20, 70, 50)))},
    ]
    derived = evaluate(register(content), outputs)
    read = evaluate(register(content, sem_seg_root=str(tmp_path / "maps")), outputs)
    assert derived == read
    assert 0 < derived["IoU-person"] < 100


def test_ignored_pixels_do_not_count(register, tmp_path):
    content = two_images()
    labels = boxes_map((5, 5, 25, 45))
    labels[:, 40:] = 255
    for number in (1, 2):
        write_map(tmp_path / "maps" / f"{number}.png", labels)
    wrong_where_ignored = boxes_map((5, 5, 25, 45), (50, 0, 80, 60))
    outputs = [{"sem_seg": label_scores(wrong_where_ignored)}] * 2
    results = evaluate(register(content, sem_seg_root=str(tmp_path / "maps")), outputs)
    assert results["IoU-person"] == pytest.approx(100)


def test_images_without_a_map_are_counted(register, tmp_path, caplog):
    content = two_images()
    write_map(tmp_path / "maps" / "1.png", boxes_map((5, 5, 25, 45)))
    outputs = [
        {"sem_seg": label_scores(boxes_map((5, 5, 25, 45)))},
        {},  # the model need not give a map where none is asked for
    ]
    results = evaluate(register(content, sem_seg_root=str(tmp_path / "maps")), outputs)
    assert results["IoU-person"] == pytest.approx(100)
    assert "1 images" in caplog.text


def test_nothing_labelled_is_nan(register, tmp_path):
    content = two_images()
    for number in (1, 2):
        write_map(tmp_path / "maps" / f"{number}.png", np.full((HEIGHT, WIDTH), 255))
    outputs = [{"sem_seg": label_scores(boxes_map())}] * 2
    results = evaluate(register(content, sem_seg_root=str(tmp_path / "maps")), outputs)
    assert math.isnan(results["mIoU"])
    assert math.isnan(results["IoU-person"])


def test_unknown_ids_are_ignored_and_reported(register, tmp_path):
    content = two_images()
    labels = boxes_map((5, 5, 25, 45))
    labels[50:, :] = 7
    for number in (1, 2):
        write_map(tmp_path / "maps" / f"{number}.png", labels)
    outputs = [{"sem_seg": label_scores(boxes_map((5, 5, 25, 45)))}] * 2
    results = evaluate(register(content, sem_seg_root=str(tmp_path / "maps")), outputs)
    assert results["pACC"] == pytest.approx(100)
    assert "found ids [7]" in DATA_REPORT.summary()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param({"instances": 0}, r"\['instances'\], expected 'sem_seg'", id="no map"),
        pytest.param(
            {"sem_seg": torch.zeros(3, HEIGHT, WIDTH)},
            r"shape \(3, 60, 80\), expected \(2, 60, 80\)",
            id="other classes",
        ),
        pytest.param(
            {"sem_seg": torch.zeros(2, 30, 40)},
            r"shape \(2, 30, 40\), expected \(2, 60, 80\)",
            id="other size",
        ),
    ],
)
def test_output_that_does_not_fit(output, message, register):
    with pytest.raises(ValueError, match=r"1\.png.*" + message):
        evaluate(register(two_images()), [output] * 2)


def test_second_round_starts_anew(register):
    content = two_images()
    name = register(content)
    evaluator = MultitaskSemSegEvaluator(name, output_dir=None)
    wrong = [{"sem_seg": label_scores(boxes_map())}] * 2
    scores = []
    for outputs in (wrong, perfect_outputs(content)):
        evaluator.reset()
        evaluator.process(inputs_of(name), outputs)
        scores.append(evaluator.evaluate()["sem_seg"]["IoU-person"])
    assert scores == [0, pytest.approx(100)]


def test_ignored_value_of_the_network(register, tmp_path):
    """A data set that does not say which value is ignored is scored by the network's."""
    content = two_images()
    name = register(content)
    labels = boxes_map((10, 10, 30, 30))
    labels[:10] = 0
    path = tmp_path / "map.png"
    Image.fromarray(labels).save(path)
    records = [{**inputs_of(name)[0], "sem_seg_file_name": str(path)}]
    evaluator = MultitaskSemSegEvaluator(name, output_dir=None, records=records, ignore_value=0)
    evaluator.reset()
    evaluator.process(inputs_of(name)[:1], [{"sem_seg": label_scores(np.ones_like(labels))}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == pytest.approx(100)
