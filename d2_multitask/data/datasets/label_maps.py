"""A dataset's classes and keypoints as the network's, and predictions as the dataset's.

With names of the network (``CLASS_NAMES``, ``KEYPOINT_NAMES`` of an entry of
``DATASETS.REGISTER``) a dataset is loaded in the network's order; what has another name there is
in ``CATEGORY_MAP`` and ``KEYPOINT_MAP``. Its dicts say what it does not label:

- ``labelled_classes``: a bool for each class of the network; the others are no negatives;
- ``labelled_keypoints``: likewise of keypoints;
- ``sem_seg_hidden``: a bool for each semantic class, True for those that are background, class 0,
  in the maps of this dataset because it does not label them.

Each of them is left out where all is labelled. Evaluation is in the dataset's own names and order
(`LabelSpace.own_records`, `LabelSpace.own_instances`).
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances

from d2_multitask.data.datasets.coco_json import Categories
from d2_multitask.data.datasets.keypoint_flips import find_flip_pairs, partners_of

logger = logging.getLogger(__name__)

LABEL_SPACE = "label_space"
"""Key of the metadata of a dataset with a map: its `LabelSpace`."""

OTHERS, IGNORE = "*", "ignore"
Record = dict[str, Any]


@dataclass(frozen=True)
class LabelMap:
    """The network's names, and which of them a dataset's names are.

    Attributes:
        class_names: the network's classes; () = the dataset's own.
        keypoint_names: the network's keypoints; () = the dataset's own.
        category_map: (name or id of the dataset, name or number of the network) pairs. The second
            may be ``None`` (no class of the network: background) or "ignore" (its regions are
            ignored). Names that both have need no pair; ("*", ...) are all others.
        keypoint_map: likewise, with names or numbers from 0; ``None`` leaves a keypoint out.
    """

    class_names: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    category_map: tuple[tuple[Any, Any], ...] = ()
    keypoint_map: tuple[tuple[Any, Any], ...] = ()

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str) -> LabelMap | None:
        """Of an entry of ``DATASETS.REGISTER``; ``None`` if it has no such key.

        Raises:
            ValueError: names that are no text or not unique, or a map without names.
        """
        values = {}
        for names, pairs in (("CLASS_NAMES", "CATEGORY_MAP"), ("KEYPOINT_NAMES", "KEYPOINT_MAP")):
            given = entry.get(names) or ()
            if any(not isinstance(x, str) or x == OTHERS for x in given) or len(set(given)) < len(
                given
            ):
                raise ValueError(f"{where}: {names}: found {given!r}, expected different names")
            if entry.get(pairs) and not given:
                raise ValueError(
                    f"{where}: found {pairs} without {names}, expected the network's names"
                )
            values[names.lower()] = tuple(given)
            values[pairs.lower()] = tuple((entry.get(pairs) or {}).items())
        return cls(**values) if any(values.values()) else None

    def space(self, where: str, categories: Categories) -> LabelSpace:
        """The map for the categories of a file.

        Raises:
            ValueError: a name that neither side has (the nearest are named), a name of the dataset
                without a place, two on one place, or keypoints of which left and right are no pair
                of the network.
        """
        ids = {number: i for i, number in categories.contiguous_ids.items()}
        own_ids = [ids[number] for number in range(len(ids))]
        own_points = categories.keypoint_names
        class_names = self.class_names or tuple(categories.thing_classes)
        classes = _targets(
            f"{where} CATEGORY_MAP", categories.thing_classes, own_ids, class_names,
            dict(self.category_map),
        )  # fmt: skip
        keypoint_names = self.keypoint_names or tuple(own_points)
        keypoints = _targets(
            f"{where} KEYPOINT_MAP", own_points, list(range(len(own_points))), keypoint_names,
            dict(self.keypoint_map),
        )  # fmt: skip
        if not any(isinstance(target, int) for target in classes):
            raise ValueError(
                f"{where} CATEGORY_MAP: found none of the network's classes {list(class_names)} "
                f"for {categories.thing_classes}, expected at least one"
            )
        if IGNORE in keypoints:
            raise ValueError(f"{where} KEYPOINT_MAP: found 'ignore', expected null")
        return LabelSpace(class_names, keypoint_names, tuple(classes), tuple(keypoints), categories)


@dataclass(frozen=True)
class LabelSpace:
    """The classes and keypoints of a dataset beside those of the network.

    Attributes:
        class_names: of the network.
        keypoint_names: of the network.
        classes: for each class of the dataset the number of the network's, ``None`` if it is none,
            "ignore" if its regions are ignored.
        keypoints: for each keypoint likewise.
        categories: of the dataset's file, in its own order.
    """

    class_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    classes: tuple[int | str | None, ...]
    keypoints: tuple[int | None, ...]
    categories: Categories

    @property
    def labelled_classes(self) -> list[bool]:
        """For each class of the network whether the dataset labels it."""
        return [number in self.classes for number in range(len(self.class_names))]

    @property
    def own_classes(self) -> list[int]:
        """The network's numbers of the dataset's classes, in the dataset's order."""
        return [target for target in self.classes if isinstance(target, int)]

    @property
    def own_keypoints(self) -> list[int]:
        """Likewise of its keypoints."""
        return [target for target in self.keypoints if target is not None]

    def metadata(self, where: str, flip_pairs: Iterable[Sequence[str]] | None) -> dict[str, Any]:
        """Metadata in the network's names.

        ``flip_pairs`` are (left, right) keypoints of the network; ``None`` finds them by name.

        Raises:
            ValueError: the dataset's left and right keypoints are no pair of the network.
        """
        ids = self.categories.contiguous_ids.items()
        values: dict[str, Any] = {
            LABEL_SPACE: self,
            "thing_classes": list(self.class_names),
            "thing_dataset_id_to_contiguous_id": {
                i: self.classes[n] for i, n in ids if isinstance(self.classes[n], int)
            },
        }
        if self.keypoint_names:
            found = find_flip_pairs(self.keypoint_names)[0] if flip_pairs is None else flip_pairs
            partners = partners_of(f"{where} flip pairs:", self.keypoint_names, found)
            self._check_pairs(where, partners)
            pairs = [(left, right) for left, right in found]
            names = dict(zip(self.categories.keypoint_names, self.keypoints, strict=True))
            values["keypoint_names"] = list(self.keypoint_names)
            values["keypoint_flip_map"] = pairs
            values["keypoint_connection_rules"] = [
                (self.keypoint_names[names[a]], self.keypoint_names[names[b]], color)
                for a, b, color in self.categories.keypoint_connection_rules
                if names[a] is not None and names[b] is not None
            ]
        return values

    def _check_pairs(self, where: str, partners: Mapping[str, str]) -> None:
        """What changes sides in the dataset does so in the network, and nothing else does."""
        own = self.categories.keypoint_names
        target = {
            name: self.keypoint_names[number]
            for name, number in zip(own, self.keypoints, strict=True)
            if number is not None
        }
        pairs, lonely = find_flip_pairs(own)
        for left, right in pairs:
            if left not in target or right not in target:
                continue
            if partners.get(target[left]) != target[right]:
                raise ValueError(
                    f"{where} KEYPOINT_MAP: found {target[left]!r} for {left!r} and "
                    f"{target[right]!r} for {right!r}, expected the left and right of a pair of "
                    f"the network, {sorted(partners.items())}"
                )
        sided = {*lonely, *(name for pair in pairs for name in pair)}
        for name in (name for name in target if name not in sided):
            partner = partners.get(target[name])
            if partner is not None and partner not in target.values():
                raise ValueError(
                    f"{where} KEYPOINT_MAP: found {target[name]!r} for {name!r} and nothing for "
                    f"{partner!r}, which it becomes in mirrored images; expected keypoints for "
                    "both sides, or one of no side"
                )

    def to_network(self, records: Iterable[Record]) -> None:
        """Change the dicts of the dataset into the network's classes and keypoints, in place."""
        said: dict[str, Any] = {}
        if not all(self.labelled_classes):
            said["labelled_classes"] = self.labelled_classes
        points = set(self.own_keypoints)
        if len(points) < len(self.keypoint_names):
            said["labelled_keypoints"] = [n in points for n in range(len(self.keypoint_names))]
        for record in records:
            if "annotations" in record:
                record.update(said)
                changed = (self._to_network(annotation) for annotation in record["annotations"])
                record["annotations"] = [a for a in changed if a is not None]

    def _to_network(self, annotation: Record) -> Record | None:
        target = self.classes[annotation["category_id"]]
        if target is None and not annotation["iscrowd"]:
            return None
        result = dict(annotation)
        if isinstance(target, int):
            result["category_id"] = target
        else:  # a region that is ignored has any class that the dataset labels
            result.update(category_id=self.own_classes[0], iscrowd=1)
        if "keypoints" in result:
            given, points = result["keypoints"], [0.0] * (3 * len(self.keypoint_names))
            for number, place in enumerate(self.keypoints):
                if place is not None:
                    points[3 * place : 3 * place + 3] = given[3 * number : 3 * number + 3]
            result["keypoints"] = points
        return result

    def own_metadata(self) -> dict[str, Any]:
        """Metadata in the dataset's names, of what the network has."""
        own = self.categories
        kept = [number for number, x in enumerate(self.classes) if isinstance(x, int)]
        points = zip(own.keypoint_names, self.keypoints, strict=True)
        ids = {i: kept.index(n) for i, n in own.contiguous_ids.items() if n in kept}
        return {
            "thing_classes": [own.thing_classes[number] for number in kept],
            "thing_dataset_id_to_contiguous_id": ids,
            "keypoint_names": [name for name, place in points if place is not None],
        }

    def own_records(self, records: Iterable[Record]) -> list[Record]:
        """Copies of dicts in the network's order, in the dataset's."""
        order = {target: number for number, target in enumerate(self.own_classes)}
        result = []
        for record in records:
            annotations = []
            for given in record.get("annotations", ()):
                annotation = {**given, "category_id": order[given["category_id"]]}
                if "keypoints" in given:
                    points = given["keypoints"]
                    parts = (points[3 * n : 3 * n + 3] for n in self.own_keypoints)
                    annotation["keypoints"] = [value for part in parts for value in part]
                annotations.append(annotation)
            more = {"annotations": annotations} if "annotations" in record else {}
            result.append({**record, **more})
        return result

    def own_instances(self, instances: Instances) -> Instances:
        """The network's objects of the dataset's classes, with these and its keypoints alone.

        ``instances``: ``pred_classes`` (n,), perhaps ``pred_keypoints`` (n, K, 3).
        """
        order = torch.full((len(self.class_names),), -1)
        order[self.own_classes] = torch.arange(len(self.own_classes))
        classes = order.to(instances.pred_classes.device)[instances.pred_classes]
        result = instances[classes >= 0]
        result.pred_classes = classes[classes >= 0]
        if result.has("pred_keypoints"):
            result.pred_keypoints = result.pred_keypoints[:, self.own_keypoints]
        return result

    def log(self, name: str) -> None:
        """Log what is mapped, what is left out and what the dataset does not label."""
        own = self.categories
        for what, names, targets, network in (
            ("classes", own.thing_classes, self.classes, self.class_names),
            ("keypoints", own.keypoint_names, self.keypoints, self.keypoint_names),
        ):
            if not network:
                continue
            places = dict(zip(names, targets, strict=True))
            mapped = {x: network[y] for x, y in places.items() if isinstance(y, int)}
            logger.info(
                "Dataset %s: %s: mapped %s; left out %s; ignored regions %s; of the network's, not "
                "labelled here and not learned here %s",
                name,
                what,
                [x if x == y else f"{x} -> {y}" for x, y in mapped.items()],
                [x for x, y in places.items() if y is None],
                [x for x, y in places.items() if y == IGNORE],
                [x for x in network if x not in mapped.values()],
            )


def _targets(
    where: str,
    own: Sequence[str],
    own_ids: Sequence[int],
    network: Sequence[str],
    pairs: dict[Any, Any],
) -> list[int | str | None]:
    """For each of a dataset's names the number of the network's, ``None`` or "ignore"."""
    numbers = {name: number for number, name in enumerate(network)}
    others = (pairs.pop(OTHERS),) if OTHERS in pairs else ()
    found: dict[int, Any] = {}
    for source, target in pairs.items():
        number = _number_of(where, source, own, own_ids)
        if number in found:
            raise ValueError(f"{where}: found {own[number]!r} twice, by name and by number")
        found[number] = _target_of(where, target, network)
    missing = []
    for number, name in enumerate(own):
        if number in found:
            continue
        if name in numbers:
            found[number] = numbers[name]
        elif others:
            found[number] = _target_of(where, others[0], network)
        else:
            missing.append(name)
    if missing:
        near = {x: close[0] for x in missing if (close := _near(x, network))}
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(
            f"{where}: found nothing for {missing}, expected for each the network's name, one of "
            f"{list(network)}, or null for none ('*': null says it of all others){hint}"
        )
    counts = Counter(target for target in found.values() if isinstance(target, int))
    for target in (target for target, count in counts.items() if count > 1):
        sources = [own[number] for number in sorted(found) if found[number] == target]
        raise ValueError(
            f"{where}: found {sources} for the one {network[target]!r} of the network, expected "
            "one of them, and null or another name for the others"
        )
    return [found[number] for number in range(len(own))]


def _number_of(where: str, source: Any, own: Sequence[str], own_ids: Sequence[int]) -> int:
    if source in own:
        return own.index(source)
    if type(source) is int and source in own_ids:
        return own_ids.index(source)
    raise ValueError(f"{where}: {_unknown(source, own)}, or their numbers {list(own_ids)}")


def _target_of(where: str, target: Any, network: Sequence[str]) -> int | str | None:
    if target in network:
        return network.index(target)
    if target is None or target == IGNORE:
        return target
    if type(target) is int and 0 <= target < len(network):
        return target
    raise ValueError(f"{where}: {_unknown(target, network)}, their numbers from 0, or null")


def _unknown(name: Any, known: Sequence[str]) -> str:
    near = _near(name, known)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"found {name!r}{hint}, expected one of {list(known)}"


def _near(name: Any, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
