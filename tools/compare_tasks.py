#!/usr/bin/env python
"""Compare task sets: train one network for each, alike in everything else, and make one table.

    python tools/compare_tasks.py --preset cpu --seeds 1 2 3
    python tools/compare_tasks.py --preset coco --rows det det_pose --num-gpus 8
    python tools/compare_tasks.py --config-files a.yaml b.yaml --baseline a SOLVER.MAX_ITER 9000
    python tools/compare_tasks.py --collect-only --reference

Each row of the table is a config, each run a row with a seed. A run is trained and evaluated by
tools/train_net.py, in a process and a folder of its own (OUTPUT/<row>/seed<k>/). The command may be
interrupted and repeated: finished runs are kept, others go on from their last checkpoint. Several
of these commands may share a folder; none touches what another one is training.

OUTPUT gets table.md, table.json and table.png after each run. The exit code is 0 when every number
that was asked for is done, 1 when something is missing (the end of table.md says why), and 2 when
the command itself is wrong.

Presets: "cpu" is configs/quick/mcn_<row>.yaml, synthetic people, two cores, minutes a run; "coco"
is configs/mcn_<row>.yaml, COCO person.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.data.whole_files import write_text
from d2_multitask.exits import exit_code
from studies.tasks.columns import choose_columns, named_columns
from studies.tasks.markdown import Study, study_json, study_markdown
from studies.tasks.picture import save_picture
from studies.tasks.plan import (
    PRESETS,
    Run,
    check_opts,
    config_rows,
    plan_runs,
    preset_rows,
)
from studies.tasks.runner import StudyRunner, train_net_command
from studies.tasks.summary import RowResult, collect, problems, with_planned

TRAIN_NET = Path(__file__).resolve().parent / "train_net.py"
# Where the options end and KEY VALUE begins; --rows and --seeds would swallow the rest.
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|SEED|OUTPUT_DIR|VIS_PERIOD|VERSION")


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", choices=PRESETS, help="the seven rows of Table 1")
    source.add_argument("--config-files", nargs="+", metavar="YAML", help="one row each")
    parser.add_argument("--output", type=Path, default=Path("output/compare_tasks"))
    parser.add_argument("--rows", nargs="+", default=[], help="only these (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="one training each (default: 1)")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs of each training")
    parser.add_argument("--collect-only", action="store_true", help="train nothing")
    parser.add_argument("--retry-diverged", action="store_true", help="from their start")
    parser.add_argument("--baseline", default="", help="compare with this row in all columns")
    parser.add_argument("--metrics", nargs="+", default=[], help="columns, such as bbox/AP")
    parser.add_argument("--reference", action="store_true", help="add the paper's Table 1")
    parser.epilog = "Config overrides for all rows may follow, as KEY VALUE ..."
    keys = [n for n, word in enumerate(arguments) if CONFIG_KEY.fullmatch(word)]
    end = keys[0] if keys else len(arguments)
    args = parser.parse_args(arguments[:end])
    args.opts = list(arguments[end:])
    args.command = shlex.join(["python", "tools/compare_tasks.py", *arguments])
    if not (args.preset or args.config_files or args.collect_only):
        parser.error("give --preset, --config-files or --collect-only")
    if args.collect_only and args.opts:
        parser.error(f"--collect-only trains nothing: found the overrides {args.opts}")
    if not all(0 <= seed < 2**32 for seed in args.seeds or ()):
        parser.error(
            f"--seeds: found {args.seeds}, expected numbers from 0 to 2**32 - 1: -1 means random"
        )
    if args.num_gpus < 1:
        parser.error(f"--num-gpus: found {args.num_gpus}, expected >= 1, also without any GPU")
    return args


def planned_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of the command; none if it only collects finished ones."""
    if args.preset:
        rows = preset_rows(args.preset, args.rows)
    elif args.config_files:
        rows = config_rows(args.config_files, args.rows)
    else:
        return []
    check_opts(rows, args.opts)
    return plan_runs(rows, args.seeds or [1], args.output)


def known_rows(args: argparse.Namespace, runs: Sequence[Run]) -> list[RowResult]:
    """The rows of the folder and of the plan.

    Raises:
        ValueError: there is none, or one that the command names is not among them.
    """
    filters = (args.rows, args.seeds or ()) if args.collect_only else ((), ())
    rows = with_planned(collect(args.output, *filters), runs)
    if not rows:
        there = [f"{row.name}/seed{run.seed}" for row in collect(args.output) for run in row.runs]
        expected = ", ".join(there) or "<row>/seed<k>/run.json"
        raise ValueError(f"{args.output}: found no such run there, expected {expected}")
    unknown = {args.baseline, *args.rows} - {"", *(row.name for row in rows)}
    if unknown:
        raise ValueError(
            f"--rows, --baseline: found {', '.join(sorted(unknown))}, expected some of: "
            f"{', '.join(row.name for row in rows)}"
        )
    return rows


def write_study(args: argparse.Namespace, runs: Sequence[Run]) -> tuple[str, list[str]]:
    """Write the table of the finished runs; returns it, and which requested runs are missing."""
    rows = known_rows(args, runs)
    results = [run.values for row in rows for run in row.finished]
    columns = named_columns(args.metrics) or choose_columns([r.tasks for r in rows], results)
    study = Study(rows, columns, args.command, args.baseline, args.reference)
    text = study_markdown(study)
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "table.md", text)
    write_text(args.output / "table.json", study_json(study))
    save_picture(study, args.output / "table.png")
    asked = {(run.row.name, run.seed) for run in runs}
    return text, problems(rows, columns, asked if runs else None)


def run(args: argparse.Namespace) -> int:
    runs = planned_runs(args)
    known_rows(args, runs)
    if not args.collect_only:
        study = StudyRunner(
            runs,
            train_net_command(sys.executable, TRAIN_NET, args.num_gpus),
            opts=args.opts,
            retry=args.retry_diverged,
            say=lambda line: print(line, flush=True),
            after_run=lambda: write_study(args, runs),
        )
        try:
            study.run_all()
        except (KeyboardInterrupt, SystemExit):
            write_study(args, runs)
            print("Stopped. The same command continues from here.")
            raise
    text, missing = write_study(args, runs)
    print(f"\n{text}\nIn {args.output}: table.md, table.json, table.png")
    if missing:
        print(f"{len(missing)} results are missing, see above.", file=sys.stderr)
    return 1 if missing else 0


def main(arguments: Sequence[str]) -> int:
    args = parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the child is ended too
    return exit_code(lambda: run(args), interrupted="")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
