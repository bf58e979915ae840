#!/usr/bin/env python
"""`d2mt predict` in a clone; see d2_multitask/cli/predict.py and predict_exported.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
