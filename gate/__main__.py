"""``python -m gate COMMAND ...``: each command is a module of this package with a ``main``."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "compare": "measure two commits in turn, and say whether the second is worse",
    "history": "what changed in the committed history, and what of it is open",
    "selftest": "what the verdicts are worth: detection and false alarms",
    "aa": "measure one commit in many processes, for the self-test",
    "inject": "slow kernels down by real work on a GPU, and see whether the verdict notices",
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code, or argparse's 2 for one that does not exist."""
    name, *rest = arguments or ["--help"]
    if name in COMMANDS:
        code: int = importlib.import_module(f"gate.{name}").main(rest)
        return code
    asked = name in ("-h", "--help")
    lines = [f"  {command:10} {meaning}" for command, meaning in COMMANDS.items()]
    text = "\n".join(["usage: python -m gate COMMAND ...", *lines])
    print(text, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
