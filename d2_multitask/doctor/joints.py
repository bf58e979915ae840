"""Keypoints: left and right, joints outside of their boxes, OKS sigmas.

What is true of bodies at any angle: the vectors from each right joint to its left one point the
same way, and in a face that is seen the nose is on one side of the line from eye to eye. Over many
people a joint's places, mirrored, are those of its partner. P people, K keypoints, L pairs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES

from d2_multitask.data.datasets.keypoint_flips import find_flip_pairs, name_words, partners_of
from d2_multitask.data.labels.base import Label
from d2_multitask.data.labels.instances import KeypointLabel
from d2_multitask.doctor import mend
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding
from d2_multitask.doctor.tables import Table
from d2_multitask.evaluation.coco.evaluator import check_oks_sigmas

MIN_PEOPLE = 20  # fewer tell nothing about a set
# A pair closer together than this part of the box's side may be crossed by a turn of the body.
MIN_LENGTH = 0.1
# Sine between the line of the eyes and the nose: below it the face is seen from the side.
MIN_SINE = 0.3
MIN_EYES = 3.0  # pixels from eye to eye; labels are not more exact than one or two
MAX_TURNED = 0.1  # share of people who look over their shoulder: 2 % in COCO
# Part of the box's side that visible joints are outside of it: at most a tenth in COCO and TUD.
MAX_OUTSIDE = 0.25
# Part of the box's side by which the places of two pairs must fit better, exchanged.
MIN_GAIN = 0.15
# COCO's sigmas by the word for the joint; others get what docs/datasets.md shows.
COCO_SIGMAS = {
    **{"nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072},
    **{"wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089},
}
OTHER_SIGMA = 0.08
# Words of joints whose partner, if they have one, is not the mirrored one.
_NO_SIDE = re.compile(r"(?i)front|rear|back|fore|hind|upper|lower|top|bottom|thumb|finger|index")


def check(cfg: CfgNode, tables: Sequence[Table], labels: Sequence[Label]) -> Iterator[Finding]:
    """All checks, where the network learns keypoints."""
    learns_joints = any(isinstance(label, KeypointLabel) for label in labels)
    for table in tables if learns_joints else ():
        if len(table.joints):
            yield from _outside(table)
            if table.is_test:
                yield from _sigmas(cfg, table)
            if len(table.joint_names) == table.joints.shape[1]:
                yield from _left_and_right(cfg, table)


def _left_and_right(cfg: CfgNode, table: Table) -> Iterator[Finding]:
    names, told = table.joint_names, table.metadata.get("keypoint_flip_map")
    by_name, _ = find_flip_pairs(names)
    try:
        partners = partners_of(table.name, names, by_name if told is None else told)
    except ValueError:  # the loader says it
        return
    wrong = [(a, b) for a, b in by_name if partners.get(a) != b]
    if wrong:
        severity = ERROR if cfg.INPUT.RANDOM_FLIP != "none" else NOTE
        text = "by their names these are pairs, but keypoint_flip_map does not exchange them"
        found = [f"{a}: found {partners.get(a, 'no partner')}, expected {b}" for a, b in wrong]
        counts, mended = (len(wrong), len(by_name)), _mended_pairs(cfg, table.name, partners, wrong)
        yield Finding(severity, "joints/pairs", table.name, text, *counts, found, mended)
    known = {name for pair in wrong for name in pair}
    places = [pair for pair in _pairs_by_place(table, partners) if not known & set(pair)]
    if places:
        text = "over all people the mirrored places of these joints are those of each other, so "
        text += "they look like pairs. Joints near the middle, such as eyes, cannot be told so: "
        text += "add them"
        found = [f"{a} and {b}: now {partners.get(a)} and {partners.get(b)}" for a, b in places]
        counts, mended = (len(places), len(names)), _mended_pairs(cfg, table.name, partners, places)
        yield Finding(WARNING, "joints/places", table.name, text, *counts, found, mended)
    index = [(names.index(a), names.index(b)) for a, b in by_name]
    if index:
        sides = list(_opposite_pairs(table, by_name, index))
        # Faces and bodies contradict each other for the same reason.
        yield from sides or _faces(table, by_name, index)


def _mended_pairs(
    cfg: CfgNode, name: str, partners: dict[str, str], new: Sequence[tuple[str, str]]
) -> str:
    """The known pairs, but those of joints in the new pairs, and these."""
    taken = {joint for pair in new for joint in pair}
    kept = {a: b for a, b in partners.items() if not taken & {a, b}}
    kept = {a: b for i, (a, b) in enumerate(kept.items()) if b not in list(kept)[:i]}
    pairs = [list(pair) for pair in [*kept.items(), *new]]
    line = f"MetadataCatalog.get({name!r}).set(keypoint_flip_map={pairs})"
    return mend.entry(cfg, name, KEYPOINT_FLIP_PAIRS=pairs) or line


def _pairs_by_place(table: Table, partners: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs whose mirrored places fit much better than those of the known pairs.

    Joints without a partner are tried too, unless someone said which have one.
    """
    names, boxes = table.joint_names, table.boxes[table.people]
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    places = (table.joints[..., :2] - centers) / _sides(table)[:, None, None]
    seen = (table.joints[..., 2] > 0) & np.isfinite(places).all(axis=2)
    numbers = seen.sum(axis=0)
    means = np.where(seen[..., None], places, 0).sum(axis=0) / np.maximum(numbers, 1)[:, None]
    costs = np.linalg.norm((means * (-1, 1))[:, None] - means, axis=2)  # (K, K)
    index = [names.index(partners.get(name, name)) for name in names]
    pairs = [(i, j) for i, j in enumerate(index) if i <= j and min(numbers[[i, j]]) >= MIN_PEOPLE]
    is_told = getattr(DatasetCatalog.data[table.name], "keypoint_flip_pairs", ()) is not None
    gains = []
    for (i, j), (k, m) in itertools.combinations(pairs, 2):
        if (i == j) != (k == m) or (i == j and (is_told or _NO_SIDE.search(names[i]))):
            continue
        way = min([(i, k), (j, m)], [(i, m), (j, k)], key=lambda way: sum(costs[p] for p in way))
        cost, now = sum(costs[pair] for pair in way), costs[i, j] + costs[k, m]
        if now - cost > MIN_GAIN and 3 * cost < now:
            gains.append((now - cost, {tuple(sorted(pair)) for pair in way}))
    found: dict[int, int] = {}
    for _, better in sorted(gains, key=lambda gain: -gain[0]):
        if not {k for pair in better for k in pair} & {*found, *found.values()}:
            found |= dict(better)
    return [(names[i], names[j]) for i, j in found.items()]


def _sides(table: Table) -> np.ndarray:
    """(P,) the longer sides of the boxes, above 0."""
    boxes = table.boxes[table.people]
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 1e-6)


def _directions(table: Table, index: Sequence[tuple[int, int]]) -> np.ndarray:
    """(P, L, 2) unit vectors from the right to the left joint; 0 where it is not clear."""
    left, right = table.joints[:, [i for i, _ in index]], table.joints[:, [j for _, j in index]]
    vectors = left[..., :2] - right[..., :2]
    lengths = np.linalg.norm(vectors, axis=2)
    far = lengths > MIN_LENGTH * _sides(table)[:, None]
    clear = (left[..., 2] > 0) & (right[..., 2] > 0) & far
    return np.where(clear[..., None], vectors / np.maximum(lengths, 1e-6)[..., None], 0)


def _opposite_pairs(
    table: Table, pairs: Sequence[tuple[str, str]], index: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Pairs that point against the others in most people: their two names are exchanged."""
    directions = _directions(table, index)
    others = directions.sum(axis=1, keepdims=True) - directions
    agreement = (directions * others).sum(axis=2)  # (P, L)
    numbers = np.maximum((agreement != 0).sum(axis=0), 1)
    shares = (agreement < 0).sum(axis=0) / numbers
    # More than half, by more than chance.
    wrong = np.flatnonzero((numbers >= MIN_PEOPLE) & (shares - 0.5 / np.sqrt(numbers) > 0.5))
    if len(wrong):
        text = "left and right of these pairs are exchanged: they point against the other pairs"
        found = [f"{' and '.join(pairs[i])}: in {shares[i]:.0%} of {numbers[i]}" for i in wrong]
        mended = mend.rewriting(table.name, exchanged=[pairs[i] for i in wrong])
        counts = len(wrong), len(pairs)
        yield Finding(ERROR, "joints/sides", table.name, text, *counts, found, mended)


def _faces(
    table: Table, pairs: Sequence[tuple[str, str]], index: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Of people who face the camera the left eye is to the right in the picture."""
    eyes = [i for i, (a, _) in enumerate(pairs) if "eye" in name_words(a)]
    noses = [i for i, name in enumerate(table.joint_names) if "nose" in name.lower()]
    if len(eyes) != 1 or len(noses) != 1:
        return
    face = table.joints[:, [*index[eyes[0]], *noses]]
    line = face[:, 0, :2] - face[:, 1, :2]
    down = face[:, 2, :2] - face[:, :2, :2].mean(axis=1)
    length = np.linalg.norm(line, axis=1)
    sine = line[:, 0] * down[:, 1] - line[:, 1] * down[:, 0]
    sine /= np.maximum(length * np.linalg.norm(down, axis=1), 1e-6)
    seen = (face[..., 2] == 2).all(axis=1) & (length > MIN_EYES) & (np.abs(sine) > MIN_SINE)
    bodies = _directions(table, [pair for i, pair in enumerate(index) if i != eyes[0]])
    against = seen & ((bodies.sum(axis=1) * line).sum(axis=1) < 0)
    name, wrong, number = table.name, np.flatnonzero(seen & (sine < 0)), int(seen.sum())
    is_most = number >= MIN_PEOPLE and len(wrong) > 0.5 * number
    if is_most and against.sum() > 0.5 * len(wrong):
        text, found = "left and right of the eyes are exchanged, against nose and body", []
        mended = mend.rewriting(name, exchanged=[pairs[eyes[0]]])
        yield Finding(ERROR, "joints/sides", name, text, 1, len(pairs), found, mended)
        return
    if len(wrong):
        mended, text = "", "left and right are exchanged in people whose face is seen, or images "
        text += "are mirrored: exchange their labels, or take these keypoints out"
        if is_most:
            text = "left and right are those of the viewer, expected the person's, as in COCO"
            mended = mend.rewriting(name, exchanged=pairs)
        found = [table.object_name(table.people[i]) for i in wrong[:3]]
        yield Finding(WARNING, "joints/faces", name, text, len(wrong), number, found, mended)
    turned = np.flatnonzero(against)
    if number >= MIN_PEOPLE and len(turned) > MAX_TURNED * number:
        text = "left and right of the body are exchanged against the eyes; expected of a few "
        text += "people, who look over their shoulder"
        found = [table.object_name(table.people[i]) for i in turned[:3]]
        yield Finding(WARNING, "joints/bodies", name, text, len(turned), number, found)


def _outside(table: Table) -> Iterator[Finding]:
    boxes, points = table.boxes[table.people], table.joints[..., :2]
    margins = MAX_OUTSIDE * (boxes[:, 2:] - boxes[:, :2])
    low, high = (boxes[:, :2] - margins)[:, None], (boxes[:, 2:] + margins)[:, None]
    # Hidden joints may be outside of a box around what is visible; some tools write 1 for all.
    visible = table.joints[..., 2] == max(table.joints[..., 2].max(), 1)
    outside = visible & ((points < low) | (points > high)).any(axis=2)
    people = np.flatnonzero(outside.any(axis=1))
    if not len(people):
        return
    severity = ERROR if len(people) > 0.5 * len(boxes) else WARNING
    text = "people with visible joints far outside of their box: joints of someone else, or in "
    text += "other units? Correct them, or set their visibility to 0"
    found = []
    for i in people[:3]:
        k = outside[i].argmax()
        name = table.joint_names[k] if table.joint_names else f"keypoint {k + 1}"
        place, box = points[i, k].round(1).tolist(), boxes[i].round(1).tolist()
        where = table.object_name(table.people[i])
        found.append(f"{where}: found {name} at {place}, expected it in {box} (x1, y1, x2, y2)")
    yield Finding(severity, "joints/outside", table.name, text, len(people), len(boxes), found)


def _sigma(name: str) -> float:
    return next((COCO_SIGMAS[w] for w in name_words(name) if w in COCO_SIGMAS), OTHER_SIGMA)


def _sigmas(cfg: CfgNode, table: Table) -> Iterator[Finding]:
    """COCO's tolerance of each keypoint, which the metric needs."""
    names, number = table.joint_names, table.joints.shape[1]
    sigmas = list(cfg.TEST.KEYPOINT_OKS_SIGMAS or table.metadata.get("keypoint_oks_sigmas", ()))
    expected = [_sigma(name) for name in names] or [OTHER_SIGMA] * number
    severity, text, found = WARNING, "", []
    try:
        check_oks_sigmas(sigmas, number, table.name)
    except ValueError as error:
        severity, text = ERROR, str(error).partition(" For example:")[0]
    # One value for all is someone's choice.
    if not text and len(names) == number and len(set(sigmas)) != 1:
        used = sigmas or [_sigma(name) for name in COCO_PERSON_KEYPOINT_NAMES]
        known = np.array(expected) != OTHER_SIGMA  # of others no right value is known
        wrong = np.abs(np.log2(np.array(used) / expected)) > 1  # twice, or half
        wrong = np.flatnonzero((known & wrong) | ~(known | bool(sigmas)))
        found = [f"{names[k]}: found {used[k]}, expected about {expected[k]}" for k in wrong]
    if text or found:
        text = (
            text or "TEST.KEYPOINT_OKS_SIGMAS: found those of other keypoints; without it, COCO's"
        )
        mended = mend.as_yaml({"TEST": {"KEYPOINT_OKS_SIGMAS": expected}})
        counts = len(found) or number, number
        yield Finding(severity, "joints/sigmas", table.name, text, *counts, found, mended)
