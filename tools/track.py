#!/usr/bin/env python
"""`d2mt track` in a clone; see d2_multitask/cli/track.py."""

from __future__ import annotations

import sys

from d2_multitask.cli.track import main

if __name__ == "__main__":
    sys.exit(main())
