"""`python -m d2_multitask` is the console script `d2mt`."""

from __future__ import annotations

import sys

from d2_multitask.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
