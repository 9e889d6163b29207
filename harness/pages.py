"""``python -m harness.pages``: publish the asv pages from what ``results/`` holds."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import _asv


def publish(root: Path) -> bool:
    """Publish, say what must be known, name the pages.  False, with a sentence, if it fails."""
    try:
        notices = _asv.publish(root)
    except _asv.AsvError as error:
        print(error, file=sys.stderr)
        return False
    for text in notices:
        print(f"notice: {text}")
    print(f"pages: {_asv.PAGES / 'index.html'}  (browse them: nox -s serve)")
    return True


def main() -> int:
    """Publish from the current folder, the repository's root."""
    return 0 if publish(Path.cwd()) else 1


if __name__ == "__main__":
    sys.exit(main())
