"""The best evaluation of a training, an end where no better one comes, and the last checkpoints.

``TEST.BEST_METRIC`` is a metric as ``results.json`` names it, its parts joined by "/"; "min" in
front says that smaller is better. Several metrics, each with a reference, are joined by " + ": the
score is the mean of their shares of the reference.

    bbox/AP
    min reconstruction/error
    bbox/AP:45.0 + keypoints/AP:53.6 + min foreground/pixel-error:4.2
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.engine.hooks import BestCheckpointer, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from d2_multitask.evaluation.results import write_results

logger = logging.getLogger(__name__)

KEY = "TEST.BEST_METRIC"
SCORE = "val_score"
"""The score's name in ``metrics.json`` and TensorBoard."""
_SMALLER = "min "
_STATE = ("best_metric", "best_iter", "_since_best", "_last_iter")
_PERIODIC = re.compile(r"model_\d{7,}\.pth")


class EarlyStop(BaseException):
    """Ends the training as a complete one; no `Exception`, which Detectron2 logs as a crash."""


class Term(NamedTuple):
    """A metric and what it is compared with.

    Attributes:
        name: as in Detectron2's storage, ``bbox/AP``.
        smaller: whether smaller values are better.
        reference: a share of this is counted; ``None`` = the value itself.
    """

    name: str
    smaller: bool
    reference: float | None

    def value(self, results: Mapping[str, float]) -> float:
        """NaN if it is not among the results."""
        found = float(results.get(self.name, math.nan))
        if self.reference is None:
            return found
        if self.smaller:
            return self.reference / found if found > 0 else math.nan
        return found / self.reference


class BestMetric:
    """What a value of ``TEST.BEST_METRIC`` says.

    Attributes:
        text: the value.
        terms: its metrics.
        mode: "max" or "min": which scores are better.
    """

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: it is malformed.
        """
        self.text = text
        self.terms = [_parse(term.strip()) for term in text.split(" + ")]
        if len(self.terms) > 1 and any(term.reference is None for term in self.terms):
            raise ValueError(
                f"{KEY}: found {text!r}, expected a reference with each of several metrics, for "
                "example 'bbox/AP:45.0 + keypoints/AP:53.6'"
            )
        (first, *others) = self.terms
        plain = first.reference is None and not others
        self.mode = "min" if plain and first.smaller else "max"

    def score(self, results: Mapping[str, float]) -> float:
        """The metric, or the mean of the shares; NaN if one of them is none or missing."""
        return sum(term.value(results) for term in self.terms) / len(self.terms)

    def check(self, datasets: Sequence[str], evaluators: Sequence[DatasetEvaluator]) -> None:
        """Compare the names with those that the evaluators give.

        Args:
            datasets: ``DATASETS.TEST``.
            evaluators: one each; with fewer, nothing is compared.

        Raises:
            ValueError: no evaluator gives a name.
        """
        if len(evaluators) < len(datasets):
            return  # one could not be built, which is said elsewhere
        several = len(datasets) > 1
        known: list[str] = []
        for dataset, evaluator in zip(datasets, evaluators, strict=True):
            for part in getattr(evaluator, "_evaluators", [evaluator]):
                names = part.metric_names() if hasattr(part, "metric_names") else []
                if not names:  # somebody's own evaluator
                    logger.warning(
                        f"{KEY}: {type(part).__name__} does not say which metrics it gives: "
                        f"whether {self.text!r} is among them shows at the first evaluation."
                    )
                    return
                known += [f"{dataset}/{name}" if several else name for name in names]
        for name in (term.name for term in self.terms if term.name not in known):
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise ValueError(
                f"{KEY}: found {name!r}, which no evaluator gives{hint} There are: "
                f"{', '.join(known) or 'none, as DATASETS.TEST has nothing to measure'}"
            )


def _parse(text: str) -> Term:
    smaller = text.startswith(_SMALLER)
    name, colon, number = text.removeprefix(_SMALLER).strip().rpartition(":")
    if not colon:
        return Term(number, smaller, None)
    try:
        reference = float(number)
    except ValueError:
        reference = math.nan
    if not 0 < reference < math.inf:
        raise ValueError(
            f"{KEY}: {name}: found the reference {number!r}, expected a number above 0"
        )
    return Term(name, smaller, reference)


def check_counts(cfg: CfgNode) -> None:
    """Raises ValueError for a negative ``SOLVER.PATIENCE`` or ``SOLVER.KEEP_CHECKPOINTS``."""
    for name, zero in (("PATIENCE", "no early stop"), ("KEEP_CHECKPOINTS", "all")):
        if cfg.SOLVER[name] < 0:
            raise ValueError(
                f"SOLVER.{name}: found {cfg.SOLVER[name]}, expected 0 ({zero}) or more"
            )


def best_metric(cfg: CfgNode) -> BestMetric:
    """``TEST.BEST_METRIC``.

    Raises:
        ValueError: it is malformed, or the keys that go with it do not fit.
    """
    if not cfg.TEST.BEST_METRIC:
        raise ValueError(
            f"SOLVER.PATIENCE: found {cfg.SOLVER.PATIENCE} without {KEY}; expected what must "
            f"improve, for example {KEY} bbox/AP"
        )
    if cfg.TEST.EVAL_PERIOD <= 0:
        raise ValueError(
            f"{KEY}: found TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD}, expected the number of "
            "iterations between two evaluations, for example 500"
        )
    return BestMetric(cfg.TEST.BEST_METRIC)


class Best(BestCheckpointer):
    """Detectron2's BestCheckpointer with any score, patience, and a memory that resumes.

    ``model_best.pth`` is a whole checkpoint, as all others. Goes after `EvalHook`.
    """

    def __init__(self, cfg: CfgNode, checkpointer: Any, evaluate: Callable[[], None]) -> None:
        """
        Args:
            cfg: the config; ``TEST.BEST_METRIC`` is set.
            checkpointer: saves.
            evaluate: evaluates into the trainer's storage and ``_last_eval_results``.

        Raises:
            ValueError: as of `best_metric`.
        """
        self.metric = best_metric(cfg)
        super().__init__(cfg.TEST.EVAL_PERIOD, checkpointer, SCORE, self.metric.mode)
        self._patience = cfg.SOLVER.PATIENCE
        self._output_dir = cfg.OUTPUT_DIR
        self._evaluate = evaluate
        self._since_best = 0
        self._last_iter = -1

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"metric": self.metric.text, **{name: getattr(self, name) for name in _STATE}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue that of a checkpoint."""
        if (before := state["metric"]) != self.metric.text:
            logger.warning(f"{KEY} was {before!r}: the best of {self.metric.text!r} starts anew.")
            return
        for name in _STATE:
            setattr(self, name, state[name])

    def before_train(self) -> None:
        """Catch up with an evaluation that was due when the training was interrupted.

        Raises:
            EarlyStop: the training had ended by ``SOLVER.PATIENCE``.
        """
        trainer, done = self.trainer, self.trainer.start_iter
        if self._is_over():
            logger.info(f"Nothing is left to train: {self._reason()}")
            raise EarlyStop
        due = done % self._period == 0 and self._last_iter != done - 1
        if due and 0 < done < trainer.max_iter:
            trainer.iter = trainer.storage.iter = done - 1
            self._evaluate()
            self._best_checking()
            trainer.iter = trainer.storage.iter = done

    def after_train(self) -> None:
        """The last evaluation's; a completed training is resumed from ``model_final.pth``."""
        trainer = self.trainer
        ended_at, trainer.iter = trainer.iter, min(trainer.iter, trainer.max_iter - 1)
        super().after_train()
        if ended_at >= trainer.max_iter and comm.is_main_process():
            self._checkpointer.tag_last_checkpoint("model_final.pth")
        trainer.iter = ended_at

    def _best_checking(self) -> None:
        """After each evaluation.

        Raises:
            EarlyStop: in all processes, there is no patience left.
        """
        if comm.is_main_process():
            self._judge()
        trainer = self.trainer
        if not self._patience or trainer.iter + 1 >= trainer.max_iter:
            return
        if any(comm.all_gather(self._is_over())):
            logger.info(f"The training ends after iteration {trainer.iter}: {self._reason()}")
            self._checkpointer.save("model_final", iteration=trainer.iter)
            raise EarlyStop

    def _judge(self) -> None:
        """Compare the newest results with the best; the first process has them."""
        trainer, storage = self.trainer, self.trainer.storage
        latest = {name: v for name, (v, when) in storage.latest().items() if when == storage.iter}
        if missing := [term.name for term in self.metric.terms if term.name not in latest]:
            logger.warning(f"{KEY}: the evaluation gave no {missing}; it gave {sorted(latest)}")
        score = self.metric.score(latest)
        storage.put_scalar(SCORE, score, smoothing_hint=False)
        self._last_iter = trainer.iter
        self._since_best += 1
        if not math.isfinite(score):
            logger.warning(f"{KEY}: {self.metric.text} is {score}: it is not compared.")
        elif self.best_metric is None or self._compare(score, self.best_metric):
            self.best_metric, self.best_iter, self._since_best = score, trainer.iter, 0
            logger.info(f"Best so far: {self.metric.text} is {score:.5g}, in model_best.pth")
            self._checkpointer.save(self._file_prefix, iteration=trainer.iter)
        if self.best_metric is not None:
            best = {"iteration": self.best_iter, "score": self.best_metric}
            write_results({**trainer._last_eval_results, "best": best}, self._output_dir)

    def _is_over(self) -> bool:
        return 0 < self._patience <= self._since_best

    def _reason(self) -> str:
        best = "there is no best" if self.best_iter is None else f"best iteration {self.best_iter}"
        return f"{self._patience} evaluations without a better {self.metric.text} ({best})."


class LastCheckpoints(PeriodicCheckpointer):
    """Detectron2's PeriodicCheckpointer with the last K files, which ``--resume`` knows.

    Only files that this training has written are deleted, never ``model_best`` or ``model_final``.
    """

    def __init__(self, checkpointer: Any, period: int, keep: int) -> None:
        """
        Args:
            checkpointer: saves.
            period: iterations between two checkpoints.
            keep: K, above 0.
        """
        super().__init__(checkpointer, period)
        self._keep = keep
        self._names: list[str] = []
        self._stopped = ""  # of a signal, between two periods

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, which is in its own list."""
        return {"names": self._with_newest() if self._is_due() else list(self._names)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue that of a checkpoint, which is not trusted: the files will be deleted."""
        self._names = [name for name in state["names"] if _PERIODIC.fullmatch(name)]

    def before_train(self) -> None:
        """Find a checkpoint that a signal made between two periods: the next one replaces it."""
        super().before_train()
        self._delete()  # the list in a file was written before the deletion
        done = self.trainer.start_iter
        name, tag = f"model_{done - 1:07d}.pth", self._path("last_checkpoint")
        if done % self.period and tag.is_file() and tag.read_text().strip() == name:
            self._stopped = name

    def after_step(self) -> None:
        """Save, if it is time to, then delete."""
        super().after_step()
        if self._is_due():
            self._names = self._with_newest()
            self._delete()

    def after_train(self) -> None:
        """Delete what the last checkpoint replaces."""
        tag = self._path("last_checkpoint")
        if tag.is_file() and tag.read_text() == "model_final.pth":
            self._delete()

    def _is_due(self) -> bool:
        return (self.trainer.iter + 1) % self.period == 0

    def _with_newest(self) -> list[str]:
        newest = f"model_{self.trainer.iter:07d}.pth"
        return [*(name for name in self._names if name != newest), newest]

    def _delete(self) -> None:
        for name in (*self._names[: -self._keep], self._stopped):
            if name:
                self._path(name).unlink(missing_ok=True)
        self._names, self._stopped = self._names[-self._keep :], ""

    def _path(self, name: str) -> Path:
        return Path(self.checkpointer.save_dir, name)
