"""What a weight file says about its network: its config and names, so that the file is enough.

It is JSON text under the key ``d2_multitask`` of a `.pth`, and of the metadata of a `.safetensors`:

    {"format_version": 1, "package_version": "0.1.0", "config": "MODEL: ...",
     "names": {"thing_classes": ["person"], "keypoint_names": [...], ...}}

``names`` has Detectron2's keys of a dataset's metadata, as far as they are known. A file without
this text, or of another program, is loaded as before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from d2_multitask.checkpoint.reading import DESCRIPTION_KEY, read_checkpoint

FORMAT_VERSION = 1
IDS_KEY = "thing_dataset_id_to_contiguous_id"
RULES_KEY = "keypoint_connection_rules"
_LISTS = ("thing_classes", "keypoint_names", "stuff_classes", "part_classes")
NAMES = (*_LISTS, IDS_KEY, RULES_KEY)
"""The keys of a dataset's metadata that are kept."""
_MOST_CHARACTERS = 1 << 22  # far above every config


class Description(NamedTuple):
    """A network's config and names.

    Attributes:
        config: YAML.
        names: metadata of the datasets, some of `NAMES`.
        package_version: of the d2_multitask that wrote it.
    """

    config: str
    names: dict[str, Any]
    package_version: str

    def to_json(self) -> str:
        """The text that `parse_description` reads."""
        return json.dumps({"format_version": FORMAT_VERSION, **self._asdict()})


def read_description(path: str | os.PathLike[str]) -> Description | None:
    """The description in a weight file; ``None`` if it has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no weight file, or its description is malformed.
    """
    text = read_checkpoint(os.fspath(path)).get(DESCRIPTION_KEY)
    return None if text is None else parse_description(text, os.fspath(path))


def parse_description(text: Any, where: str) -> Description:
    """Check a description; nothing in it is executed.

    Args:
        text: from a weight file, which is not trusted.
        where: the file's path, for messages.

    Raises:
        ValueError: in one sentence, what was found and what was expected.
    """
    place = f"{where}: its description, {DESCRIPTION_KEY!r}"
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
        found = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
        raise ValueError(f"{place}: found {found}, expected JSON text of a few kilobytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{place}: found broken JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{place}: found a JSON {type(content).__name__}, expected an object")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{place}: format_version: found {str(version)[:20]!r}, expected {FORMAT_VERSION}: "
            "install the version of d2_multitask that wrote the file, or give --config-file"
        )
    config, names = content.get("config"), content.get("names", {})
    if not isinstance(config, str) or not isinstance(names, dict):
        raise ValueError(f"{place}: expected 'config', YAML text, and 'names', an object")
    written_by = str(content.get("package_version"))[:40]
    names = {key: _checked(key, names[key], place) for key in NAMES if key in names}
    return Description(config, names, written_by)


def _checked(key: str, value: Any, place: str) -> Any:
    """One of the names; ids get back their numbers, which JSON's keys are not."""
    try:
        if key == IDS_KEY and isinstance(value, dict):
            return {int(number): int(index) for number, index in value.items()}
        if key == RULES_KEY and all(_are_texts([a, b]) for a, b, _ in value):
            return [(a, b, tuple(color)) for a, b, color in value]
        if key in _LISTS and _are_texts(value):
            return value
    except (TypeError, ValueError, OverflowError):
        pass
    expected = {IDS_KEY: "ids and class numbers", RULES_KEY: "pairs of keypoints and a colour"}
    raise ValueError(f"{place}: names: {key}: expected {expected.get(key, 'a list of names')}")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def known_names(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `NAMES` that a dataset's metadata has, as JSON can hold them."""
    return {key: metadata[key] for key in NAMES if metadata.get(key)}
