#!/usr/bin/env python
"""`d2mt export` in a clone; see d2_multitask/cli/export.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
