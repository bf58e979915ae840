"""How command lines end; without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable


def exit_code(work: Callable[[], int | None], interrupted: str = "\nInterrupted.\n") -> int:
    """Run the work of a small tool; no traceback for what its user can repair.

    Args:
        work: returns the exit code, or nothing for 0.
        interrupted: what is said after Ctrl-C.

    Returns:
        2, with the message on stderr, for a ValueError, OSError or ImportError; 130 for an
        interrupt.
    """
    try:
        return work() or 0
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(interrupted)
        return 130
