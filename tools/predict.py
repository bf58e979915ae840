#!/usr/bin/env python
"""`d2mt predict` in a clone; see d2_multitask/cli/predict.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
