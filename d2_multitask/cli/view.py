"""Shows an exported network on a page: images and the webcam are processed in the browser.

    d2mt view --model model.onnx
    d2mt view --model model.onnx --static page/

The first form serves the page on 127.0.0.1 until Ctrl-C; other machines cannot reach it, and images
never leave the browser. The second one writes a folder instead, which any web server can host.
ONNX Runtime for browsers comes from the npm package onnxruntime-web, which is fetched once.

Exit code: 0, also when Ctrl-C ends the server; 2 if something was typed wrong or is missing; 130 if
interrupted before.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from d2_multitask.exits import exit_code
from d2_multitask.runtime.predictor import Predictor
from d2_multitask.viewer import onnxruntime_web
from d2_multitask.viewer.server import HOST, Server, build_site, write_site

RESIZES = ("shortest_edge", "stretch")


def main(arguments: Sequence[str] | None = None) -> int:
    """See above; ``None`` = the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="network of d2mt export")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--static", type=Path, metavar="FOLDER", help="write the page there")
    parser.add_argument(
        "--onnxruntime-web", type=Path, metavar="FOLDER", help="the npm package, if npm is missing"
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.port < 65536:
        parser.error(f"--port: found {args.port}, expected 0 (any free one) to 65535")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_code(lambda: run(args), interrupted="")


def run(args: argparse.Namespace) -> None:
    """Check the network, then write the page or serve it until it is interrupted."""
    if args.model.suffix != ".onnx":
        raise ValueError(f"--model {args.model}: expected an .onnx file: browsers run ONNX only")
    info = Predictor(args.model).info
    if info.input.resize not in RESIZES:
        raise ValueError(
            f"--model {args.model}: found a network whose input is made by {info.input.resize!r}; "
            f"the page can do {' and '.join(RESIZES)}: export with INPUT.RESIZE_TEST {RESIZES[0]}"
        )
    runtime = onnxruntime_web.find(args.onnxruntime_web)
    site = build_site(args.model, json.dumps(asdict(info)).encode(), runtime)
    if args.static is not None:
        write_site(site, args.static)
        print(f"Written: {args.static}. To look at it:")
        print(f"    python -m http.server --bind {HOST} --directory {args.static}")
        return
    with Server(site, args.port) as server:
        try:
            address = f"http://{HOST}:{server.server_port}"
            print(f"{address} shows {args.model}; Ctrl-C ends it", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print()
