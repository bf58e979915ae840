"""The console script `d2mt`; the commands are in `d2_multitask.cli`.

It is not in the package, whose import takes seconds: PyTorch is only imported for what needs it.
"""

from __future__ import annotations

import os
import sys

NEED_TORCH = ("check", "eval", "export", "report", "train")
NEED_IT_FOR_WEIGHTS = ("predict", "track")


def main() -> int:
    """Run the command line."""
    if not needs_torch(sys.argv[1:]):
        os.environ["D2_MULTITASK_RUNTIME_ONLY"] = "1"
    from d2_multitask.cli.main import main as run

    return run()


def needs_torch(words: list[str]) -> bool:
    """Whether a command line is more than help or work with exported networks."""
    exported = any(word.lower().endswith((".onnx", ".xml")) for word in words)
    command = words[0] if words else ""
    return command in NEED_TORCH or (command in NEED_IT_FOR_WEIGHTS and not exported)


if __name__ == "__main__":
    sys.exit(main())
