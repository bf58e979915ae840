"""From nothing to pictures: what `make demo` runs.

Makes the synthetic people dataset, trains and evaluates a small multitask network on it, writes
pictures of its predictions, and prints the results and where everything is. The three steps are
the ordinary tools, run one after the other with their commands shown; each is skipped when an
earlier run has finished it, and an interrupted training continues from its last checkpoint.

    python tools/demo.py
    python tools/demo.py --output output/short SOLVER.MAX_ITER 100   # any config key
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PICTURES = {".png", ".jpg", ".jpeg"}

# The main numbers of results.json.
SHOWN_METRICS = (
    ("boxes", "bbox", "AP", "average precision, mean over IoU 0.50-0.95"),
    ("boxes", "bbox", "AP50", "average precision at IoU 0.50"),
    ("segmentation", "sem_seg", "IoU-person", "intersection over union of the class person"),
    ("segmentation", "sem_seg", "mIoU", "mean over background and person"),
    ("pose", "keypoints", "AP", "average precision, mean over OKS 0.50-0.95"),
    ("pose", "keypoints", "AP50", "average precision at OKS 0.50"),
)


def main() -> int:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: `run` sees it
    start = time.monotonic()
    try:
        draw_data(args)
        train(args)
        write_pictures(args)
    except subprocess.CalledProcessError as error:
        print(f"\nThe demo stopped: this command failed with exit code {error.returncode}:")
        print(f"  {shlex.join(error.cmd)}\nIts message is above. To repeat: make demo")
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. `make demo` continues from here.")
        return 130
    report(args, time.monotonic() - start)
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/quick/mcn_seg_det_pose.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo")
    parser.add_argument(
        "--num-train", type=int, help="training images (default: of prepare_synthetic_people.py)"
    )
    parser.add_argument(
        "--num-val", type=int, help="validation images (default: of prepare_synthetic_people.py)"
    )
    parser.add_argument("--max-pictures", type=int, default=12)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args()
    args.output = args.output.resolve()
    return args


def draw_data(args: argparse.Namespace) -> None:
    title("1/3", "Data: drawing the synthetic people", "about a minute on two cores, once")
    sizes = {"--num-train": args.num_train, "--num-val": args.num_val}
    given = [word for flag, size in sizes.items() if size for word in (flag, str(size))]
    run("datasets/prepare_synthetic_people.py", *given)


def train(args: argparse.Namespace) -> None:
    title("2/3", "Training and evaluation", "at most 10 minutes on two cores; the log shows eta")
    weights, results = args.output / "model_final.pth", args.output / "results.json"
    # The evaluation that follows the last iteration writes the results after the weights.
    if weights.exists() and results.exists() and is_newer(results, weights):
        print(f"Done by an earlier run; to start anew: rm -r {shown(args.output)}")
        return
    config = ("--config-file", args.config_file)
    run("tools/train_net.py", *config, "--resume", "OUTPUT_DIR", str(args.output), *args.opts)


def write_pictures(args: argparse.Namespace) -> None:
    title("3/3", "Pictures of what the network sees in validation images", "some seconds")
    weights = args.output / "model_final.pth"
    images = data_folder() / "synthetic_people" / "val" / "images"
    wanted = min(args.max_pictures, len(list(images.iterdir())))
    fresh = [path for path in pictures(args) if is_newer(path, weights)]
    if len(fresh) > wanted:  # the pictures and, written last, the sheet that shows them all
        print("Done by an earlier run.")
        return
    run(
        "tools/predict.py",
        *("--config-file", args.config_file),
        *("--input", str(images)),
        *("--max-images", str(args.max_pictures), "--contact-sheet"),
        *("--output", str(args.output / "pictures")),
        *("MODEL.WEIGHTS", str(weights)),
        *args.opts,
    )


def report(args: argparse.Namespace, seconds: float) -> None:
    """Print where the pictures are, then the results as a table."""
    results = json.loads((args.output / "results.json").read_text(encoding="utf-8"))
    print("\nPictures (contact_sheet.png shows all of them):")
    for path in pictures(args):
        print(f"  {path}")
    print(f"\nResults on the validation images ({args.output / 'results.json'}):")
    for task, key, metric, meaning in SHOWN_METRICS:
        if metric in results.get(key, {}):
            value = results[key][metric]  # None: could not be computed
            print(
                f"  {task:<13}{metric:<11}{'-' if value is None else f'{value:.1f}':>6}   {meaning}"
            )
    print(f"\nFinished in {seconds / 60:.1f} minutes.")


def pictures(args: argparse.Namespace) -> list[Path]:
    folder = args.output / "pictures"
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)


def data_folder() -> Path:
    """Detectron2's folder of datasets; a relative one starts where the tools run."""
    return ROOT / os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def is_newer(path: Path, other: Path) -> bool:
    return path.stat().st_mtime >= other.stat().st_mtime


def shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def title(number: str, text: str, duration: str) -> None:
    print(f"\n[{number}] {text} ({duration})", flush=True)


def run(script: str, *arguments: str) -> None:
    """Run one of the repository's scripts from the repository's root, with its output visible.

    It never outlives the demo, and has the time to put in order what it is writing.
    """
    print(f"$ {shlex.join(['python', script, *arguments])}", flush=True)
    # Detectron2 uses what PyTorch calls deprecated; the warning would only puzzle the reader.
    flags = ["-u", "-W", "ignore::FutureWarning:torch.jit._script"]
    with subprocess.Popen([sys.executable, *flags, script, *arguments], cwd=ROOT) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches both; a second one ends the waiting
            process.wait()
            raise
        except SystemExit:  # SIGTERM reached the demo alone
            process.terminate()
            raise
    if code:
        raise subprocess.CalledProcessError(code, process.args)


if __name__ == "__main__":
    sys.exit(main())
