"""Look at PASCAL in Detail's annotation file, or convert it for other tools.

    python datasets/prepare_pascal_in_detail.py validate trainval_merged.json
    python datasets/prepare_pascal_in_detail.py validate FILE --images VOCdevkit/VOC2010/JPEGImages
    python datasets/prepare_pascal_in_detail.py convert FILE --output FOLDER

validate prints what the file holds and where it differs from what is known of the dataset.
convert writes COCO JSON (instances; people with joints) and PNG maps (semantic classes, human
parts, boundaries). Training needs neither: the file is read as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import d2_multitask  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "d2_multitask":
        raise
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed: use this clone

from detectron2.utils.logger import setup_logger

from d2_multitask.data.folder_lock import LockHeldError
from d2_multitask.data.problems import DATA_REPORT
from detail_files.convert import convert_file
from detail_files.validate import validate_file


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    validate = commands.add_parser("validate", help="print a report on a file")
    validate.add_argument("file", type=Path)
    validate.add_argument("--images", type=Path, help="folder of the images, to find missing ones")
    convert = commands.add_parser("convert", help="write COCO JSON and PNG maps")
    convert.add_argument("file", type=Path)
    convert.add_argument("--output", type=Path, required=True)
    convert.add_argument("--phases", nargs="+", default=[], help="default: all of the file")
    convert.add_argument("--no-maps", action="store_true", help="write the JSON files only")
    return parser.parse_args()


def convert(arguments: argparse.Namespace) -> None:
    """Convert, and print the paths of the files."""
    paths = convert_file(
        arguments.file, arguments.output, arguments.phases, maps=not arguments.no_maps
    )
    DATA_REPORT.log_totals()
    print("\n".join(map(str, paths)))


def main() -> None:
    """Run, and tell the user's errors without a traceback."""
    arguments = parse_arguments()
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    try:
        if arguments.command == "validate":
            print(validate_file(arguments.file, arguments.images))
        else:
            convert(arguments)
    except LockHeldError as error:
        sys.exit(f"error: {arguments.output}: {error} writes there; wait for it")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
