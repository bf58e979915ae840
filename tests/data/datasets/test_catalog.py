import pytest
from detectron2.data import DatasetCatalog

from d2_multitask.data.datasets.catalog import load_dataset, merge_same_files, report_shared_files
from d2_multitask.data.problems import ProblemReport

ONE, TWO = {"category_id": 0, "bbox": [0, 0, 1, 1]}, {"category_id": 0, "bbox": [2, 2, 1, 1]}


def _record(image_id, annotations, file_name="a/x.png", **fields):
    return {"file_name": file_name, "image_id": image_id, "annotations": annotations, **fields}


def test_objects_of_one_file_are_put_together_and_counted():
    records = [_record(1, [ONE]), _record(2, [], "a/y.png"), _record(3, [ONE, TWO], "a/./x.png")]
    report = ProblemReport()
    merged = merge_same_files("own", records, report)
    assert merged == [_record(1, [ONE, TWO]), _record(2, [], "a/y.png")]
    assert "found it as the images [1, 3]" in report.summary()
    assert records[0]["annotations"] == [ONE]


def test_image_listed_twice_counts_twice():
    records = [_record(1, [ONE]), _record(1, [ONE])]
    assert merge_same_files("own", records) == records


def test_labels_beside_objects_are_an_error():
    records = [_record(1, [], sem_seg_file_name="x"), _record(2, [], sem_seg_file_name="y")]
    with pytest.raises(ValueError, match=r"'own'.*\[1, 2\].*\['sem_seg_file_name'\]"):
        merge_same_files("own", records)


def test_every_data_set_is_merged():
    DatasetCatalog.register("same_file_set", lambda: [_record(1, [ONE]), _record(2, [TWO])])
    try:
        assert load_dataset("same_file_set") == [_record(1, [ONE, TWO])]
    finally:
        DatasetCatalog.remove("same_file_set")


@pytest.mark.parametrize("other", ["sub/../x.png", "./x.png", "link.png", "folder/x.png"])
def test_other_spellings_of_a_path(other, tmp_path):
    (tmp_path / "x.png").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    records = [_record(1, [ONE], f"{tmp_path}/x.png"), _record(2, [TWO], f"{tmp_path}/{other}")]
    (merged,) = merge_same_files("own", records, ProblemReport())
    assert merged["annotations"] == [ONE, TWO]


def _maps(image_id):
    return {"file_name": "a/x.png", "image_id": image_id, "sem_seg_file_name": "x"}


@pytest.mark.parametrize(
    ("first", "second", "filter_empty", "is_told"),
    [
        (_record(1, [ONE]), _record(7, [TWO], "a/./x.png"), True, True),
        (_record(1, [ONE]), _record(7, [ONE, TWO]), True, True),
        (_record(1, [ONE]), _record(7, []), False, True),
        (_record(1, [ONE]), _record(7, []), True, False),
        (_record(1, [ONE]), _record(7, [{**ONE, "keypoints": [1, 1, 2]}]), True, False),
        (_record(1, [ONE]), _record(7, [TWO], "b/x.png"), True, False),
        (_record(1, [ONE]), _maps(7), True, False),
    ],
)
def test_one_file_in_two_sets(first, second, filter_empty, is_told):
    report = ProblemReport()
    report_shared_files({"boxes": [first], "other": [second]}, filter_empty, report)
    told = "datasets 'boxes' and 'other': found 1 images in both, such as "
    assert (told in report.summary()) == bool(report.summary()) == is_told
