#!/usr/bin/env python
"""`d2mt train` in a clone; see d2_multitask/cli/train.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
