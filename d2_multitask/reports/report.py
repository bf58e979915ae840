"""The report of one dataset, written when its evaluators have their results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.label_maps import LABEL_SPACE
from d2_multitask.data.whole_files import write_text
from d2_multitask.engine.trained_model import model_info
from d2_multitask.evaluation.base import LabelEvaluator, gathered
from d2_multitask.evaluation.boundary.evaluator import BOUNDARY, OCCLUSION, EdgeEvaluator
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.dense.sem_seg import LabelMapEvaluator
from d2_multitask.evaluation.results import to_plain
from d2_multitask.reports.charts import line_chart
from d2_multitask.reports.images import (
    NUM_WORST,
    SCORES,
    Kept,
    WorstImages,
    map_picture,
    object_picture,
    objects_as_result,
    score_of,
)
from d2_multitask.reports.keypoints import keypoint_tables
from d2_multitask.reports.objects import NAMES, ObjectAnalysis, confusion_table
from d2_multitask.reports.page import Cell, Picture, Section, Table, to_html, to_markdown
from d2_multitask.runtime.model_info import ObjectsInfo
from d2_multitask.visualization.metadata import cfg_metadata

logger = logging.getLogger(__name__)

TITLES = {
    "sem_seg": "Semantic segmentation",
    "part_seg": "Parts",
    "foreground": "Foreground",
    BOUNDARY: "Boundaries",
    OCCLUSION: "Occlusion",
    "image_labels": "Image labels",
}


class ReportedEvaluators(DatasetEvaluators):
    """The evaluators of a dataset, and a report of what they find (``TEST.REPORT``).

    Args:
        evaluators: of `build_evaluator`.
        cfg: the config.
        dataset_name: registered name.

    Attributes:
        failed: why there is no report of the last evaluation.
    """

    def __init__(self, evaluators: DatasetEvaluators, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(evaluators._evaluators)
        self._cfg, self._dataset_name = cfg, dataset_name
        self.failed = ""
        self._worst: dict[str, WorstImages] = {}
        for evaluator in self._evaluators:
            if isinstance(evaluator, LabelEvaluator):
                self._observe(evaluator)

    def _observe(self, evaluator: LabelEvaluator) -> None:
        names = [evaluator.output_name]
        if isinstance(evaluator, EdgeEvaluator):
            names = list(evaluator.tasks)
        observers = [
            self._worst.setdefault(n, WorstImages(score_of(n))) for n in names if n in SCORES
        ]
        if not observers:
            return

        def observe(record: dict[str, Any], labels: Any, output: dict[str, Any]) -> None:
            for observer in observers:
                observer(record, labels, output)

        evaluator.observer = observe

    def reset(self) -> None:
        """Forget an earlier round."""
        super().reset()
        self._files: dict[Any, str] = {}
        for worst in self._worst.values():
            worst.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See `DatasetEvaluators`."""
        super().process(inputs, outputs)
        self._files.update((x["image_id"], x["file_name"]) for x in inputs if "image_id" in x)

    def evaluate(self) -> Mapping[str, Any] | None:
        """The results; the first process has written the report then."""
        results = super().evaluate()
        several = comm.get_world_size() > 1
        kept = {name: gathered(worst.kept, several) for name, worst in self._worst.items()}
        files = gathered(list(self._files.items()), several)
        if comm.is_main_process():
            page = Report(self._cfg, self._dataset_name, self._evaluators, kept, dict(files))
            self._write(page, results)
        return results

    def of_results(self, found: list[dict[str, Any]]) -> Mapping[str, Any]:
        """Score COCO's results of any network, and write their report.

        Args:
            found: of all images.

        Raises:
            ValueError: the dataset has not one evaluator of objects, or `check_results`'s.
        """
        objects = [e for e in self._evaluators if isinstance(e, MultitaskCOCOEvaluator)]
        if len(objects) != 1 or not objects[0].metrics:
            raise ValueError(
                f"dataset {self._dataset_name!r}: found {len(objects)} evaluators of objects for "
                "TEST.TASKS, expected one, of a dataset in COCO's format with labels"
            )
        check_results(found, objects[0])
        results = objects[0].score(found)
        files = {r["image_id"]: r["file_name"] for r in load_dataset(self._dataset_name)}
        self._write(Report(self._cfg, self._dataset_name, objects, {}, files), results)
        return results

    def _write(self, page: Report, results: Mapping[str, Any]) -> None:
        """A report that fails must not end a training, whose results are there."""
        start = time.perf_counter()
        try:
            paths = page.write(results)
        except Exception as error:
            self.failed = f"TEST.REPORT: no report of {self._dataset_name!r} was written: {error}"
            logger.error(self.failed, exc_info=not isinstance(error, OSError))
            return
        self.failed = ""
        seconds = time.perf_counter() - start
        logger.info(f"Report in {seconds:.1f} s: {' and '.join(map(str, paths))}")


def check_results(found: list[dict[str, Any]], evaluator: MultitaskCOCOEvaluator) -> None:
    """Whether COCO's results are of the evaluator's dataset.

    Raises:
        ValueError: an entry lacks what the metrics need, or is of another image or category.
    """
    fields = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
    needed = {"image_id", "category_id", "score", "bbox", *(fields[m] for m in evaluator.metrics)}
    labels = evaluator.ground_truth
    known = {k: {x["id"] for x in labels[k]} for k in ("images", "categories")}
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or not needed <= entry.keys():
            keys = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(
                f"entry {number}: found {keys}, expected {sorted(needed)} for the metrics "
                f"{list(evaluator.metrics)}; TEST.TASKS \"['det']\" asks for boxes alone"
            )
        for field, kind in (("image_id", "images"), ("category_id", "categories")):
            if entry[field] not in known[kind]:
                raise ValueError(
                    f"entry {number}: found {field} {entry[field]!r}, expected one of the {kind} "
                    f"of dataset {evaluator.dataset_name!r}"
                )


class Report:
    """All sections of one dataset's report.

    Args:
        cfg: the config.
        dataset_name: registered name.
        evaluators: evaluated.
        worst: output's name -> images.
        files: image id -> file.
    """

    def __init__(
        self,
        cfg: CfgNode,
        dataset_name: str,
        evaluators: Sequence[DatasetEvaluator],
        worst: Mapping[str, Sequence[Kept]],
        files: Mapping[Any, str],
    ) -> None:
        self.cfg, self.dataset_name, self.evaluators = cfg, dataset_name, evaluators
        self.worst, self.files = worst, files

    def write(self, results: Mapping[str, Any]) -> list[Path]:
        """Write the HTML and the Markdown file, each in one step.

        Args:
            results: ``{task: {metric: value}}``.
        """
        several = len(self.cfg.DATASETS.TEST) > 1
        name = f"report_{self.dataset_name}" if several else "report"
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        title = f"Evaluation on {self.dataset_name}"
        facts = [
            f"{len(self.files)} images",
            f"weights: {self.cfg.MODEL.WEIGHTS or 'of a training, or none'}",
            f"network: {self.cfg.MODEL.META_ARCHITECTURE}, tasks {', '.join(self.cfg.MODEL.TASKS)}",
            time.strftime("written on %Y-%m-%d at %H:%M"),
        ]
        sections = self.sections(to_plain(results))
        paths = []
        for suffix, make in ((".html", to_html), (".md", to_markdown)):
            path = Path(self.cfg.OUTPUT_DIR, name + suffix)
            write_text(path, make(title, facts, sections))
            paths.append(path)
        return paths

    def sections(self, results: Mapping[str, Mapping[str, float | None]]) -> list[Section]:
        """The metrics, then what stands behind them, task by task."""
        sections = [_metrics_section(results)]
        for evaluator in self.evaluators:
            if isinstance(evaluator, MultitaskCOCOEvaluator):
                sections += self._object_sections(evaluator)
            elif isinstance(evaluator, EdgeEvaluator):
                for name in evaluator.tasks:
                    sections.append(self._map_section(name, [], evaluator))
            elif isinstance(evaluator, LabelEvaluator) and evaluator.output_name in SCORES:
                sections.append(
                    self._map_section(evaluator.output_name, evaluator.class_names, evaluator)
                )
        return sections

    def _object_sections(self, evaluator: MultitaskCOCOEvaluator) -> list[Section]:
        if not evaluator.metrics or "annotations" not in evaluator.ground_truth:
            return []
        try:
            analysis = ObjectAnalysis(evaluator)
        except ImportError as error:
            return [
                Section(NAMES[metric], f"Not analysed: {error}") for metric in evaluator.metrics
            ]
        sections = []
        for metric in evaluator.metrics:
            section = analysis.section(metric)
            if metric == "keypoints" and evaluator.found:
                section.tables += keypoint_tables(analysis)
            section.pictures += self._object_pictures(analysis, metric)
            sections.append(section)
        return sections

    def _object_pictures(self, analysis: ObjectAnalysis, metric: str) -> list[Picture]:
        """Of the images with the lowest F1, labels beside predictions."""
        labels = analysis.evaluator.ground_truth
        info = model_info(self.cfg, cfg_metadata(self.cfg))
        classes = {i: number - 1 for i, number in analysis.backend.category_numbers.items()}
        # The labels may have some of the classes and keypoints only.
        objects = replace(info.objects, class_names=tuple(analysis.names))
        info = replace(info, objects=self._with_own_keypoints(objects))
        sizes = {image["id"]: (image["height"], image["width"]) for image in labels["images"]}
        worst = [x for x in analysis.worst_images(metric) if x[1] in self.files][:NUM_WORST]
        chosen = {image_id for _, image_id, _ in worst}
        truth, found = (
            _by_image(labels["annotations"], chosen),
            _by_image(analysis.confident, chosen),
        )
        pictures = []
        for _, image_id, text in worst:
            both = (
                objects_as_result(of_image.get(image_id, ()), sizes[image_id], info, classes)
                for of_image in (truth, found)
            )
            caption = f"{image_id}: {text}"
            pictures.append(object_picture(self.files[image_id], *both, caption, metric))
        return pictures

    def _with_own_keypoints(self, objects: ObjectsInfo) -> ObjectsInfo:
        """The skeleton by the numbers of the dataset's keypoints instead of the network's."""
        space = MetadataCatalog.get(self.dataset_name).get(LABEL_SPACE)
        if space is None:
            return objects
        own = {place: number for number, place in enumerate(space.own_keypoints)}
        skeleton = [(own[a], own[b]) for a, b in objects.skeleton if a in own and b in own]
        names = tuple(objects.keypoint_names[place] for place in own if objects.keypoint_names)
        return replace(objects, keypoint_names=names, skeleton=tuple(skeleton))

    def _map_section(
        self, name: str, class_names: Sequence[str], evaluator: LabelEvaluator
    ) -> Section:
        measure = SCORES[name][1]
        section = Section(TITLES[name], f"The worst images by: {measure}.")
        if isinstance(evaluator, LabelMapEvaluator):
            caption = "Labelled (rows) and predicted (columns) class, pixels"
            section.tables.append(confusion_table(evaluator.confusion, class_names, caption))
        if isinstance(evaluator, EdgeEvaluator) and name in evaluator.curves:
            curve = evaluator.curves[name]
            svg = line_chart({name: (curve["recall"], curve["precision"])}, "recall", "precision")
            section.charts.append(("Precision and recall over the thresholds", svg))
        worst = WorstImages.worst(self.worst.get(name, ()))
        section.pictures += [map_picture(kept, measure, class_names) for kept in worst]
        return section


def _by_image(
    entries: Sequence[Mapping[str, Any]], chosen: set[Any]
) -> dict[Any, list[Mapping[str, Any]]]:
    of_image: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["image_id"] in chosen and not entry.get("iscrowd"):
            of_image.setdefault(entry["image_id"], []).append(entry)
    return of_image


def _metrics_section(results: Mapping[str, Mapping[str, float | None]]) -> Section:
    """What results.json has: a table of metrics, and one of the classes of each task."""
    section = Section("Metrics", "As in results.json; classes that no image shows are left out.")
    rows: list[list[Cell]] = []
    for task, scores in results.items():
        plain, per_class = _split(scores)
        rows += [[task, metric, _cell(value)] for metric, value in plain.items()]
        if per_class and task not in NAMES:  # their sections have such a table
            columns = list(dict.fromkeys(m for values in per_class.values() for m in values))
            table = [
                [name, *(_cell(values.get(m)) for m in columns)]
                for name, values in per_class.items()
                if any(value is not None for value in values.values())
            ]
            section.tables.append(Table(f"{task}, each class", ["class", *columns], table))
    section.tables.insert(0, Table("All metrics", ["task", "metric", "value"], rows))
    return section


def _split(
    scores: Mapping[str, float | None],
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Metrics of the whole task, and class -> metric -> value of names such as "IoU-person"."""
    plain: dict[str, float | None] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for metric, value in scores.items():
        kind, dash, name = metric.partition("-")
        if metric.startswith("min(IoU, B-Iou)-"):
            kind, dash, name = "min(IoU, B-Iou)", "-", metric.removeprefix("min(IoU, B-Iou)-")
        if dash and kind in ("AP", "IoU", "ACC", "BoundaryIoU", "min(IoU, B-Iou)"):
            per_class.setdefault(name, {})[kind] = value
        else:
            plain[metric] = value
    return plain, per_class


def _cell(value: float | None) -> Cell:
    return "n/a" if value is None else value
