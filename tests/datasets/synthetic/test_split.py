"""What the writers of drawn sets share; each writer's own tests draw."""

from __future__ import annotations

import json

import pytest

from synthetic.split import (
    as_json,
    check_drawing,
    check_split,
    draw_all,
    is_complete,
    remove_others,
)

WANTED = as_json({"seed": 1, "config": {"size": (2, 3), "noise": 0.5}})


@pytest.fixture
def last_file(tmp_path):
    return tmp_path / "instances_train.json"


def write(file, arguments) -> None:
    file.write_text(json.dumps({"info": {"arguments": arguments}}))


def test_complete_only_with_the_last_file_and_all_others(last_file, tmp_path) -> None:
    picture = tmp_path / "000000.png"
    assert not is_complete(last_file, WANTED, [], overwrite=False)
    write(last_file, WANTED)
    assert is_complete(last_file, WANTED, [], overwrite=False)
    assert not is_complete(last_file, WANTED, [picture], overwrite=False)
    picture.touch()
    assert is_complete(last_file, WANTED, [picture], overwrite=False)


def test_another_set_is_an_error_that_names_what_differs(last_file) -> None:
    write(last_file, {"seed": 1, "config": {"size": [2, 4], "noise": 0.5}})
    expected = r"instances_train.json: .*\(config.size: found \[2, 4\], expected \[2, 3\]\)"
    with pytest.raises(ValueError, match=expected):
        is_complete(last_file, WANTED, [], overwrite=False)
    assert not is_complete(last_file, WANTED, [], overwrite=True)


@pytest.mark.parametrize("content", ["", "[]", '{"info": {}}', '{"info": {"arguments": null}}'])
def test_a_file_of_another_kind_is_an_error(last_file, content) -> None:
    last_file.write_text(content)
    with pytest.raises(ValueError, match="it was not written by this generator"):
        is_complete(last_file, WANTED, [], overwrite=False)


def test_only_numbered_pictures_are_removed(tmp_path) -> None:
    names = ["000000.png", "000001.png", "000002.png.part", "notes.txt", "1.png", "000003.jpg"]
    for name in names:
        (tmp_path / name).touch()
    remove_others(tmp_path, {"000000.png"})
    assert {file.name for file in tmp_path.iterdir()} == {names[0], *names[3:]}
    remove_others(tmp_path / "absent", set())


@pytest.mark.parametrize("num_workers", [1, 2])
def test_drawn_in_any_order_and_returned_in_theirs(num_workers) -> None:
    calls = []
    found = draw_all(squared, 9, num_workers, lambda done, total: calls.append((done, total)))
    assert found == [number**2 for number in range(9)]
    assert calls == [(done, 9) for done in range(10)]


def squared(number: int) -> tuple[int, int]:
    return number, number**2


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_split, ("a/b", 1), "split: expected letters"),
        (check_split, ("train", 0), "num_images: expected 1 to 1,000,000, got 0"),
        (check_split, ("train", 1_000_001), "got 1000001"),
        (check_drawing, (-1, 1), "seed: expected"),
        (check_drawing, (2**32, 1), "seed: expected"),
        (check_drawing, (0, 0), "num_workers: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(check, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        check(*arguments)
