"""What is wrong with keypoints, by joint.

Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation" (ICCV 2017).
A predicted person is matched with a labelled one at OKS 0.1. The similarity of a predicted joint
and a labelled one is ``exp(-d^2 / (2 s^2 k^2))``, as in OKS: distance d, area s^2 of the labelled
person, k twice the joint's sigma. The most similar label decides, as in the authors' code
(coco-analyze); a joint is

- good, if that is its own label, with a similarity of at least 0.85; jitter, from 0.5;
- inversion, if it is the other side's joint of the same person, from 0.5;
- swap, if it is the joint, or its other side, of another person, from 0.5;
- miss: similar to none of these.

Only joints with a label count. Of equally similar labels the first of this list decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.cocoeval import Params

from d2_multitask.data.datasets.keypoint_flips import find_flip_pairs, partners_of
from d2_multitask.reports.objects import ObjectAnalysis, average_precision
from d2_multitask.reports.page import Table

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, NEAR = 0.85, 0.5
MATCH_OKS = 0.1


def error_kinds(
    found: np.ndarray,
    own: np.ndarray,
    others: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    mirrored: Sequence[int],
) -> np.ndarray:
    """The kind of each joint of one person.

    Args:
        found: (K, 2) predicted x, y.
        own: (K, 3) labelled x, y, visibility of the matched person.
        others: (n, K, 3) of the other people in the image.
        areas: (1 + n,) pixels, of the person and of the others.
        sigmas: (K,) of OKS.
        mirrored: (K,) index of the joint on the other side, itself in the middle.

    Returns:
        (K,) int64, index into `KINDS`; -1 without a label.
    """
    people = np.concatenate([own[None], others])  # (P, K, 3)
    variance = 2 * areas[:, None] * (2 * sigmas) ** 2  # (P, K), of the labelled joint
    both = np.stack([people, people[:, mirrored]])  # same joint, other side; (2, P, K, 3)
    spread = np.stack([variance, variance[:, mirrored]])
    distance = ((found - both[..., :2]) ** 2).sum(-1)
    similarity = np.exp(-distance / spread.clip(1e-9)) * (both[..., 2] > 0)
    same, side, rest = similarity[0, 0], similarity[1, 0], similarity[:, 1:]
    of_others = rest.max((0, 1)) if rest.size else np.zeros(len(found))
    is_own = same >= np.maximum(side, of_others)
    conditions = [
        own[:, 2] == 0,
        is_own & (same >= GOOD),
        is_own & (same >= NEAR),
        (side >= of_others) & (side >= NEAR),
        of_others >= NEAR,
    ]
    return np.select(conditions, [-1, 0, 1, 2, 3], default=4)


def keypoint_tables(analysis: ObjectAnalysis) -> list[Table]:
    """How often each kind occurs, by joint, and what AP would be without it."""
    evaluator = analysis.evaluator
    names = joint_names(evaluator.keypoint_names, evaluator.found)
    sigmas = np.array(evaluator.oks_sigmas or Params("keypoints").kpt_oks_sigmas)
    mirrored = _mirrored(evaluator.dataset_name, names)
    matched = _matches(analysis)
    kinds = [
        error_kinds(found[:, :2], own, others, areas, sigmas, mirrored)
        for _, found, own, others, areas in matched
    ]
    counts = np.stack(
        [(np.array(kinds).reshape(-1, len(names)) == k).sum(0) for k in range(len(KINDS))], 1
    )
    rows = [_shares(name, row) for name, row in zip(names, counts, strict=True)]
    rows.append(_shares("all", counts.sum(0)))
    share = Table(
        f"Labelled joints of matched people (OKS {MATCH_OKS}), share of each kind of error",
        ["joint", *KINDS, "joints"],
        rows,
    )
    return [share, _without_errors(analysis, matched, kinds)]


def _shares(name: str, counts: np.ndarray) -> list[Any]:
    total = int(counts.sum())
    return [name, *(100 * float(c) / total if total else float("nan") for c in counts), total]


Matched = tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _matches(analysis: ObjectAnalysis) -> list[Matched]:
    """Index of the prediction, its joints, those of its person and of others, areas."""
    evaluator = analysis.evaluator
    evaluation = analysis.evaluated("keypoints", thresholds=[MATCH_OKS])
    pairs = evaluation.image_diagnostics(iou_thr=MATCH_OKS)["dt_match"]
    labels = {a["id"]: a for a in evaluator.ground_truth["annotations"]}
    joints = {i: np.array(a["keypoints"], float).reshape(-1, 3) for i, a in labels.items()}
    of_image: dict[Any, list[int]] = {}
    for number, label in labels.items():
        if label["num_keypoints"]:
            of_image.setdefault(label["image_id"], []).append(number)
    matched = []
    for prediction, number in sorted(pairs.items()):
        found = np.array(evaluator.found[prediction - 1]["keypoints"], float).reshape(-1, 3)
        own = joints[number]
        others = [i for i in of_image.get(labels[number]["image_id"], ()) if i != number]
        near = np.array([joints[i] for i in others]).reshape(-1, *own.shape)
        areas = np.array([labels[i]["area"] for i in (number, *others)], float)
        matched.append((prediction - 1, found, own, near, areas))
    return matched


def _without_errors(
    analysis: ObjectAnalysis, matched: Sequence[Matched], kinds: Sequence[np.ndarray]
) -> Table:
    """AP if the joints of a kind were where they are labelled."""
    found = analysis.evaluator.found
    before = average_precision(analysis.once("keypoints"))
    rows = []
    for kind, name in enumerate(KINDS[1:], start=1):
        mended = list(found)
        for (index, predicted, own, _, _), of_joint in zip(matched, kinds, strict=True):
            wrong = of_joint == kind
            if wrong.any():
                points = predicted.copy()
                points[wrong, :2] = own[wrong, :2]
                mended[index] = {**found[index], "keypoints": points.ravel().tolist()}
        after = average_precision(analysis.evaluated("keypoints", mended))
        rows.append([name, after, f"{after - before:+.1f}"])
    return Table(
        f"Keypoint AP if these joints were where they are labelled; it is {before:.1f}",
        ["kind", "AP", "change"],
        rows,
    )


def joint_names(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dataset's names of joints, else their numbers."""
    count = len(found[0]["keypoints"]) // 3 if found else len(names)
    return list(names) if len(names) == count else [f"joint {k}" for k in range(count)]


def _mirrored(dataset_name: str, names: Sequence[str]) -> list[int]:
    """The told pairs, else those by name; those of the network (`label_maps`) have other names."""
    told = MetadataCatalog.get(dataset_name).get("keypoint_flip_map") or ()
    pairs = [pair for pair in told if set(pair) <= set(names)] or find_flip_pairs(names)[0]
    partners = partners_of(dataset_name, names, pairs)
    return [names.index(partners.get(name, name)) for name in names]
