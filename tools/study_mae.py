#!/usr/bin/env python
"""The whole study of a masked autoencoder: its reconstructions, and what its features are good for.

    python tools/study_mae.py --config-file mae_pretrain_base.yaml --output output/study_base \
        --weights mae_visualize_vit_base.pth MODEL.MAE.NORM_PIX_LOSS False
    python tools/study_mae.py --config-file quick/mae_tiny_imagenet.yaml --output output/tiny \
        --weights output/quick/mae_tiny_imagenet/model_final.pth

Each step is a command of this folder, run in a process of its own: --dry-run prints them. The
config and KEY VALUE give network, normalisation, device and workers of all steps; KEY VALUE
overrides all of them. OUTPUT gets configs/, a log of each step in logs/, a folder of each step, and
table.md. The same command continues where an earlier one was stopped; a step that fails does not
end the others, and one whose dataset is not there is left out.

Exit code: 0; 1 if a step failed, which is named at the end; 2 if something was typed wrong; 130 if
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode
from tabulate import tabulate

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.whole_files import write_json, write_text
from d2_multitask.engine.setup import find_config_file, parse_with_overrides
from d2_multitask.exits import exit_code
from d2_multitask.modeling.mae.config import find_size
from d2_multitask.segmenting.images import check_autoencoder, checksum
from studies.tasks.plan import OWN_KEYS as TRAINING_KEYS

TOOLS = Path(__file__).resolve().parent
STAMP = "finished.json"
LABELS = {32: "ecssd_32", 100: "ecssd_100", 300: "ecssd_train"}  # sets of quick/foreground_*.yaml
SEEDS = ("1", "2", "3")
FOREGROUND = ("scratch", "linear", "decoder", "decoder_pretrained")
FOREGROUND_SIDE = 96  # pixels at least, as in these configs
# From ViT-B on, the quick configs' rates for small networks are too high: 0.0002 instead of 0.001,
# as in mae_foreground.yaml.
WIDE, RATE_OF_WIDE = 768, 0.2
# How segments become proposals, as in docs/segments.md: options, and the file of their objects.
PROPOSALS = {
    "segments": (["--resolution", "3", "--no-grow", "--foreground", "none"], "segments.json"),
    "maskcut": (["--foreground", "maskcut"], "objects.json"),
}
# What the steps set, and KEY VALUE would override: also in the rows without pre-training.
OWN_KEYS = (
    *(*TRAINING_KEYS, "MODEL.WEIGHTS"),
    *("DATASETS.REGISTER", "DATASETS.TRAIN", "DATASETS.TEST"),
)
DATASETS = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()
PEOPLE, TINY_IMAGENET = DATASETS / "synthetic_people", DATASETS / "tiny-imagenet-200"
# as in the configs:
COCO_PEOPLE, ECSSD = Path("datasets/coco_people"), Path("datasets/ecssd")
TUD = Path("datasets/tud_pedestrians")


class Step(NamedTuple):
    """A command, its folder ``OUTPUT/name``, and what it needs.

    Attributes:
        name: of the step.
        command: file in tools/, and its arguments.
        dataset: a folder; without it the step is left out.
        configs: file name below OUTPUT/configs -> content, which the command reads.
    """

    name: str
    command: list[str]
    dataset: Path
    configs: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


class Study:
    """The steps for one autoencoder."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Read the config.

        Raises:
            ValueError: a key is unknown or the study's own, or a value is wrong.
        """
        if own := [key for key in OWN_KEYS if key in args.opts[::2]]:
            raise ValueError(
                f"command line: found {own[0]}, which the study sets itself; expected --weights "
                "and --output"
            )
        self.config_file = str(Path(find_config_file(args.config_file)).resolve())
        self.cfg: CfgNode = load_config(self.config_file, args.opts)
        self.weights, self.output, self.opts = args.weights, args.output, args.opts
        self.size_hw = list(self.cfg.MODEL.MAE.IMAGE_SIZE)
        check_autoencoder(self.cfg)

    def steps(self) -> list[Step]:
        """All of them, the shortest ones first."""
        parts = (self.reconstruction(), self.classification(), self.foreground(), self.mcn())
        parts += (self.proposals(), self.relations())
        return [step for part in parts for step in part]

    def reconstruction(self) -> Iterable[Step]:
        """The network's error beside that of a smooth surface."""
        entry = {"NAME": "ecssd_images", "IMAGE_ROOT": str(ECSSD / "images")}
        for name, dataset, folder in (
            ("ecssd", "ecssd_images", ECSSD),
            ("tiny_imagenet", "tiny_imagenet_val", TINY_IMAGENET),
        ):
            sets = {"REGISTER": [entry], "TRAIN": [dataset], "TEST": [dataset]}
            inputs = {"CENTER_CROP_TEST": self.size_hw}
            step = f"reconstruction_{name}"
            config = {"_BASE_": self.config_file, "DATASETS": sets, "INPUT": inputs}
            words = ["train_net.py", "--eval-only", "--config-file", self.config(step)]
            words += [*self.opts, "MODEL.WEIGHTS", self.weights, "OUTPUT_DIR", self.folder(step)]
            yield Step(step, words, folder, {step: config})

    def classification(self) -> Iterable[Step]:
        """Linear and fine-tuned, and what an untrained network reaches."""
        head = {"CLASSIFICATION_HEAD": {"MAP_STRIDE": max(self.size_hw)}}  # the mean of all patches
        crops = {"CENTER_CROP_TEST": self.size_hw}
        configs = {
            row: self.row(f"tiny_imagenet_{base}", weights, self.size_hw, head, crops)
            for row, base, weights in (
                ("linear_untrained", "linear", ""),
                ("linear", "linear", self.weights),
                ("scratch", "scratch", ""),
                ("finetune", "finetune", self.weights),
            )
        }
        metrics = ("image_labels/top1", "image_labels/top5")
        yield self.comparison("classification", configs, metrics, TINY_IMAGENET)

    def foreground(self) -> Iterable[Step]:
        """Binary segmentation of ECSSD from few labels."""
        patch = find_size(self.cfg.MODEL.MAE).patch_size
        size = [max(side, FOREGROUND_SIDE) for side in self.size_hw]
        for number, dataset in LABELS.items():
            head = {"FOREGROUND_HEAD": {"UPSCALE": patch}}
            configs = {}
            for kind in FOREGROUND:
                weights = "" if kind == "scratch" else self.weights
                config = self.row(f"foreground_{kind}", weights, size, head)
                config["DATASETS"] = {"TRAIN": [dataset]}
                configs[f"{kind}_{number}"] = config
            metrics = ("foreground/IoU", "foreground/max-F")
            yield self.comparison(f"foreground_{number}", configs, metrics, ECSSD, SEEDS)

    def mcn(self) -> Iterable[Step]:
        """Persons, drawn and photographed: segmentation, boxes and keypoints."""
        metrics = ("sem_seg/IoU-person", "bbox/AP", "keypoints/AP")
        for name, base, dataset in (
            ("mcn", "mcn_mae_seg_det_pose", PEOPLE),
            ("mcn_tud", "mcn_mae_tud_pedestrians", TUD),
        ):
            configs = {
                f"{name}_{row}": self.row(base, weights)
                for row, weights in (("scratch", ""), ("pretrained", self.weights))
            }
            yield self.comparison(name, configs, metrics, dataset)

    def proposals(self) -> Iterable[Step]:
        """Whether every object is among the segments, and a detector that learned from them."""
        for part, images in (
            ("train", PEOPLE / "train" / "images"),
            ("synthetic", PEOPLE / "val" / "images"),
            ("coco", COCO_PEOPLE / "images"),
        ):
            for kind, (options, _) in PROPOSALS.items():
                step = f"{kind}_{part}"
                words = ["segment_unlabelled.py", "--config-file", self.config_file]
                words += ["--input", str(images), "--output", self.folder(step), *options]
                words += ["--size", str(2 * max(self.size_hw)), "--relation", "encoder_features"]
                words += ["--no-tiles", "--no-pictures", *self.opts, "MODEL.WEIGHTS", self.weights]
                yield Step(step, words, images)
        for part, dataset, folder in (
            ("synthetic", "synthetic_people_val", PEOPLE),
            ("coco", "coco_people_val", COCO_PEOPLE),
        ):
            step = f"proposals_{part}"
            words = ["evaluate_proposals.py", "--config-file", "quick/mask_rcnn_proposals.yaml"]
            words += ["--dataset", dataset, "--grid", *"123456", "--output", self.folder(step)]
            yield Step(step, [*words, "--segments", *self.objects(part)], folder)
        configs = {
            f"detector_{kind}": self.detector(kind, file)
            for kind, file in zip(PROPOSALS, self.objects("train"), strict=True)
        }
        metrics = ("bbox/AP", "segm/AP", "bbox_class_agnostic/AR@100", "segm_class_agnostic/AR@100")
        yield self.comparison("detectors", configs, metrics, PEOPLE)

    def objects(self, part: str) -> list[str]:
        """The files of proposals of some images."""
        return [self.folder(f"{kind}_{part}/{file}") for kind, (_, file) in PROPOSALS.items()]

    def detector(self, kind: str, file: str) -> dict[str, Any]:
        """A Mask R-CNN that learns from them."""
        name = f"study_{kind}"
        entry = {"NAME": name, "JSON": file, "IMAGE_ROOT": str(PEOPLE / "train" / "images")}
        sets = {"REGISTER": [entry], "TRAIN": [name], "TEST": ["synthetic_people_val"]}
        model = {"DEVICE": self.cfg.MODEL.DEVICE}
        base = find_config_file("quick/mask_rcnn_proposals.yaml")
        return {"_BASE_": base, "MODEL": model, "DATASETS": sets}

    def relations(self) -> Iterable[Step]:
        """Which segments its errors and features give."""
        words = ["compare_relations.py", "--config-file", self.config_file]
        ecssd = ["--images", str(ECSSD / "images"), "--masks", str(ECSSD / "masks")]
        ecssd += ["--choose", "360", "400", "--report", "300", "360"]
        for name, data, folder in (
            ("ecssd", ecssd, ECSSD),
            ("bsds500", ["--dataset", "bsds500_test"], DATASETS / "BSDS500"),
        ):
            step = f"relations_{name}"
            more = ["--output", self.folder(step), *self.opts, "MODEL.WEIGHTS", self.weights]
            yield Step(step, [*words, *data, *more], folder)

    def row(
        self,
        base: str,
        weights: str,
        size_hw: Sequence[int] | None = None,
        head: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A quick config with this study's network; ``size_hw`` of its crops."""
        file = find_config_file(f"quick/{base}.yaml")
        cfg = self.cfg
        mae = yaml.safe_load(cfg.MODEL.MAE.dump())
        names = ("DEVICE", "PIXEL_MEAN", "PIXEL_STD")
        model = {name: cfg.MODEL[name] for name in names} | {"WEIGHTS": weights, "MAE": mae}
        rate = load_config(file).SOLVER.BASE_LR
        if find_size(cfg.MODEL.MAE).embed_dim >= WIDE:
            rate *= RATE_OF_WIDE
        crops = {"RANDOM_RESIZED_CROP": {"SIZE": list(size_hw)}} if size_hw else {}
        return {
            "_BASE_": file,
            "MODEL": {**model, **(head or {})},
            "INPUT": {"FORMAT": cfg.INPUT.FORMAT, **crops, **(inputs or {})},
            "DATALOADER": {"NUM_WORKERS": cfg.DATALOADER.NUM_WORKERS},
            "SOLVER": {"BASE_LR": rate},
        }

    def comparison(
        self,
        name: str,
        configs: dict[str, dict[str, Any]],
        metrics: Sequence[str],
        dataset: Path,
        seeds: Sequence[str] = SEEDS[:1],
    ) -> Step:
        """Trainings of some configs, by tools/compare_tasks.py."""
        words = ["compare_tasks.py", "--config-files", *map(self.config, configs)]
        words += ["--seeds", *seeds, "--metrics", *metrics, "--output", self.folder(name)]
        return Step(name, [*words, *self.opts], dataset, configs)

    def config(self, name: str) -> str:
        """Path of a config that a step writes."""
        return str(self.output / "configs" / f"{name}.yaml")

    def folder(self, name: str) -> str:
        """Path of what a step writes."""
        return str(self.output / name)


def is_finished(study: Study, step: Step, expected: Mapping[str, Any]) -> bool:
    """Whether its stamp, which is written last, is there.

    Raises:
        ValueError: it is that of another study.
    """
    file = study.output / step.name / STAMP
    if not file.is_file():
        return False
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{file}: damaged; delete {file.parent}") from None
    changed = [key for key in expected if found.get(key) != expected[key]]
    if changed:
        raise ValueError(
            f"{file}: found a step with other {', '.join(changed)} than now; take another "
            f"--output, or delete {file.parent}"
        )
    return True


def run_step(study: Study, step: Step) -> bool:
    """Run its command with the output in its log; whether it ended well."""
    for name, content in step.configs.items():
        write_text(Path(study.config(name)), yaml.safe_dump(content, sort_keys=False))
    log = study.output / "logs" / f"{step.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    tool, *words = step.command
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{shown(step)}\n")
        file.flush()
        process = subprocess.Popen(
            [sys.executable, str(TOOLS / tool), *words], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            return process.wait() == 0
        except BaseException:  # Ctrl-C, SIGTERM: the step saves what it has
            process.terminate()
            process.wait()
            raise


def shown(step: Step) -> str:
    tool, *words = step.command
    return shlex.join(["python", f"tools/{tool}", *words])


def table(study: Study, states: Mapping[str, str]) -> str:
    """What each step has found, in Markdown."""
    lines = [f"# Study of {study.weights}\n", tabulate(states.items(), ["step", ""], "pipe")]
    for name in states:
        results, text = (study.output / name / file for file in ("results.json", "table.md"))
        if text.is_file():
            lines.append(re.sub(r"^#+ .*\n+", "", text.read_text(encoding="utf-8")))
        elif results.is_file():
            rows = json.loads(results.read_text(encoding="utf-8"))["reconstruction"]
            lines.append(tabulate(rows.items(), ["metric", "value"], "pipe", floatfmt=".4g"))
        else:
            continue
        lines[-1] = f"## {name}\n\n{lines[-1]}"
    return "\n\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> int:
    study = Study(args)
    steps = study.steps()
    wanted = args.steps or [step.name for step in steps]
    unknown = set(wanted) - {step.name for step in steps}
    if unknown:
        expected = ", ".join(step.name for step in steps)
        raise ValueError(f"--steps: found {sorted(unknown)}, expected some of {expected}")
    if args.dry_run:
        print("\n".join(shown(step) for step in steps if step.name in wanted))
        return 0
    if not Path(args.weights).is_file():
        raise ValueError(f"--weights: found no file {args.weights}")
    weights = {"weights": args.weights, "CRC-32 of the weights": checksum(args.weights)}
    states = {}
    stamps = {s.name: {**weights, "command": shown(s), "configs": dict(s.configs)} for s in steps}
    stamps = json.loads(json.dumps(stamps))  # as they will be read
    for step in steps:
        finished = is_finished(study, step, stamps[step.name])
        states[step.name] = "finished" if finished else "not run"
    for step in steps:
        if step.name not in wanted or states[step.name] == "finished":
            continue
        if not step.dataset.is_dir():
            states[step.name] = f"left out: found no folder {step.dataset} (datasets/README.md)"
        else:
            print(f"{step.name}: {shown(step)}", flush=True)
            if run_step(study, step):
                write_json(study.output / step.name / STAMP, stamps[step.name], indent=1)
                states[step.name] = "finished"
            else:
                states[step.name] = f"FAILED, see {study.output}/logs/{step.name}.txt"
        print(f"{step.name}: {states[step.name]}", flush=True)
        write_text(study.output / "table.md", table(study, states))
    write_text(study.output / "table.md", table(study, states))
    print(f"In {study.output}: table.md")
    failed = [name for name, state in states.items() if state.startswith("FAILED")]
    for name in failed:
        print(f"{name}: {states[name]}", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the autoencoder")
    parser.add_argument("--weights", required=True, help="any file of docs/mae.md with a decoder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="only these (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    args = parse_with_overrides(parser, arguments)
    given = args.steps or []
    end = next((n for n, word in enumerate(given) if word[:1].isupper()), len(given))
    args.steps, args.opts = given[:end], [*given[end:], *args.opts]  # KEY VALUE may follow --steps
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the step is ended too
    return exit_code(lambda: run(args), "\nStopped. The same command continues from here.\n")


if __name__ == "__main__":
    sys.exit(main())
