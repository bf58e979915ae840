"""Detectron2's DefaultTrainer with our data, steps, evaluators and checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import CallbackHook, EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from torch import nn

from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.data.folder_lock import FolderLock
from d2_multitask.data.loader import build_test_loader, build_train_loader
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.data.sampler import TrainingImages
from d2_multitask.engine.best import Best, EarlyStop, LastCheckpoints, check_counts
from d2_multitask.engine.hooks import (
    EMA_KEY,
    DrawPictures,
    PicturesHook,
    TimedProgress,
    WeightAverage,
    average_statistics,
)
from d2_multitask.engine.loggers import build_loggers
from d2_multitask.engine.model_file import describe
from d2_multitask.engine.predictor import inference_model
from d2_multitask.engine.processes import distributed
from d2_multitask.engine.signals import StopOnSignal
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.step import build_step
from d2_multitask.engine.teachers import add_teachers
from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.evaluation.results import format_results, write_results

logger = logging.getLogger(__name__)


class MultitaskTrainer(DefaultTrainer):
    """DefaultTrainer for this package.

    What differs: datasets whose labels are partial; a choice of optimizers; losses that are
    checked (`d2_multitask.engine.step`); averaged weights (``SOLVER.EMA``); evaluators from one
    table, built before training too, so that a mistake in them shows at once; ``results.json``;
    pictures each ``VIS_PERIOD`` iterations; a report of what was wrong with the data.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: a complete config; see `d2_multitask.engine.setup`.

        Raises:
            ValueError: config and datasets do not fit each other.
        """
        check_counts(cfg)
        TrainerBase.__init__(self)  # as DefaultTrainer's, with our step, checkpoints, processes
        cfg = self.cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        add_teachers(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = build_step(cfg, distributed(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        ema = cfg.SOLVER.EMA
        self.weight_average = WeightAverage(self.model, ema.DECAY) if ema.ENABLED else None
        self.checkpointer = self._build_checkpointer()
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())
        self._evaluators = [self.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        for hook in self._hooks:
            if isinstance(hook, Best):
                hook.metric.check(cfg.DATASETS.TEST, self._evaluators)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks and ours, in the order in which they run."""
        timer, *others = (self._adapted(hook) for hook in super().build_hooks())
        ours: list[HookBase] = [CallbackHook(after_step=update_averages)]
        if comm.is_main_process():
            printer = CommonMetricPrinter(self.max_iter)
            ours.append(TimedProgress(printer, self.cfg.SOLVER.LOG_PERIOD))
            if self.cfg.VIS_PERIOD > 0:
                ours.append(PicturesHook(self.cfg.VIS_PERIOD, picture_drawer(self.cfg)))
        self._stop = StopOnSignal()
        saving = (PeriodicCheckpointer, EvalHook)
        place = next(i for i, hook in enumerate(others) if isinstance(hook, saving))
        others.insert(place, self._stop)  # after what belongs to the step
        if self.cfg.TEST.BEST_METRIC or self.cfg.SOLVER.PATIENCE:
            place = next(i for i, hook in enumerate(others) if isinstance(hook, EvalHook))
            best = Best(self.cfg, self.checkpointer, others[place]._do_eval)
            others.insert(place + 1, best)
        return [timer, *ours, *others]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, and those of ``LOGGERS``, which must see pictures before TensorBoard."""
        printer, *others = super().build_writers()
        return [printer, *build_loggers(self.cfg, lambda: self.start_iter > 0), *others]

    def train(self) -> OrderedDict[str, Any] | None:
        """Train, until the end or a signal; see `d2_multitask.engine.signals`.

        Raises:
            LockHeldError: another process trains in ``OUTPUT_DIR``.
            SystemExit: a signal asked to stop; a checkpoint is written.
        """
        is_main = comm.is_main_process()
        lock = FolderLock(Path(self.cfg.OUTPUT_DIR)) if is_main else contextlib.nullcontext()
        with lock, self._stop.installed():
            complete = True
            try:
                return super().train()
            except EarlyStop:
                results = getattr(self, "_last_eval_results", None)
                if results and is_main:
                    verify_results(self.cfg, results)
                return results
            except BaseException:
                complete = False
                raise
            finally:
                log_problems(complete)

    def run_step(self) -> None:
        """Detectron2's; with ``SEED`` a network's random numbers depend on the iteration alone."""
        if self.cfg.SEED >= 0:
            self.data_loader.seed = (self.cfg.SEED, comm.get_rank(), self.iter)
        super().run_step()

    def resume_or_load(self, resume: bool = True) -> None:
        """Detectron2's; a resumed training also goes on with its images and random numbers.

        Args:
            resume: continue from the last checkpoint of ``OUTPUT_DIR``, if there is one.
        """
        super().resume_or_load(resume)
        images = getattr(self.data_loader.loader, "images", None)
        if isinstance(images, TrainingImages):
            images.start = self.start_iter

    def _build_checkpointer(self) -> MultitaskCheckpointer:
        more = {} if self.weight_average is None else {EMA_KEY: self.weight_average}
        return MultitaskCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            description=describe(self.cfg) if comm.is_main_process() else "",
            trainer=weakref.proxy(self),
            **more,
        )

    def _adapted(self, hook: HookBase | None) -> HookBase | None:
        """Detectron2's hook with what it has no argument for."""
        solver = self.cfg.SOLVER
        if isinstance(hook, PeriodicCheckpointer) and solver.KEEP_CHECKPOINTS > 0:
            keep = solver.KEEP_CHECKPOINTS
            return LastCheckpoints(self.checkpointer, solver.CHECKPOINT_PERIOD, keep)
        if isinstance(hook, EvalHook):
            return EvalHook(self.cfg.TEST.EVAL_PERIOD, self.evaluate)
        if isinstance(hook, PeriodicWriter):
            hook._period = self.cfg.SOLVER.LOG_PERIOD
        return hook

    @property
    def last_batch(self) -> list[dict[str, Any]]:
        """What the model was last trained with."""
        return self.data_loader.last

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the averaged weights if there are some, otherwise the weights as trained."""
        model = self.model if self.weight_average is None else self.weight_average.model
        self._last_eval_results = self.test(self.cfg, model, self._evaluators)
        return self._last_eval_results

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See `d2_multitask.engine.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Endless batches of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Each image of a dataset once."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluators of a dataset; they write below ``OUTPUT_DIR/inference``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        evaluators = build_evaluator(cfg, dataset_name, folder)
        if not cfg.TEST.REPORT:
            return evaluators
        # Like pictures: only who asks for a report waits for the libraries that draw it.
        from d2_multitask.reports.report import ReportedEvaluators

        return ReportedEvaluators(evaluators, cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model on every dataset of ``DATASETS.TEST``.

        The results are also logged as a table and written to ``OUTPUT_DIR/results.json``.

        ``evaluators``, one a dataset, replace those of `build_evaluator`.

        Returns:
            ``{task: {metric: value}}``; with several datasets one such dict for each name.
        """
        if not cfg.DATASETS.TEST:
            logger.warning("DATASETS.TEST is empty: nothing is evaluated.")
            return OrderedDict()
        results = super().test(cfg, inference_model(cfg, model), evaluators)
        for evaluator in evaluators or ():
            evaluator.reset()  # or the predictions of all images stay in memory while training
        if comm.is_main_process():
            path = write_results(results, cfg.OUTPUT_DIR)
            logger.info(f"Results, also in {path}:\n{format_results(results)}")
        return results


def log_problems(complete: bool) -> None:
    """Say what was wrong with the data: of a complete training, what all processes met."""
    if comm.get_world_size() > 1 and complete:  # after a failure nobody would answer
        DATA_REPORT.add_all(comm.gather(DATA_REPORT)[1:])
    DATA_REPORT.log_totals()


def update_averages(trainer: MultitaskTrainer) -> None:
    """Average what saving and evaluation read, once the weights have changed."""
    average_statistics(trainer.model)  # first: the averaged weights take them in
    if trainer.weight_average is not None and trainer._trainer.weights_changed:
        trainer.weight_average.update(trainer.model)


def picture_drawer(cfg: CfgNode) -> DrawPictures:
    """A function that draws targets and predictions of a training batch."""
    # Drawing libraries take a second to import; only trainings that draw pay for it.
    from d2_multitask.visualization.metadata import dataset_metadata
    from d2_multitask.visualization.training import training_pictures

    metadata, input_format = dataset_metadata(cfg), cfg.INPUT.FORMAT
    return partial(training_pictures, metadata=metadata, input_format=input_format)


def load_for_evaluation(cfg: CfgNode, model: nn.Module, *, resume: bool = False) -> None:
    """Load the weights that an evaluation or prediction wants.

    Args:
        cfg: ``MODEL.WEIGHTS`` names the checkpoint, ``SOLVER.EMA.ENABLED`` whether its averaged
            weights are wanted.
        model: gets the weights.
        resume: take the last checkpoint of ``OUTPUT_DIR`` instead, if there is one.
    """
    use_ema = cfg.SOLVER.EMA.ENABLED
    checkpointer = MultitaskCheckpointer(model, cfg.OUTPUT_DIR, use_ema=use_ema)
    path = cfg.MODEL.WEIGHTS
    if resume and checkpointer.has_checkpoint():
        path = checkpointer.get_checkpoint_file()
    if not path:
        logger.warning(
            "MODEL.WEIGHTS is empty: a network with RANDOM weights is used. Give a checkpoint, for "
            f"example: MODEL.WEIGHTS {os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}"
        )
        return
    checkpointer.load(path)
    if use_ema and not checkpointer.report.ema:
        logger.warning(
            f"SOLVER.EMA.ENABLED is True, but {path} has no averaged weights: those as trained are "
            "used."
        )
