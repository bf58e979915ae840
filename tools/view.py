#!/usr/bin/env python
"""`d2mt view` in a clone; see d2_multitask/cli/view.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.view import main

if __name__ == "__main__":
    sys.exit(main())
