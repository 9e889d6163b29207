"""Reads a published page as a person would see it: in Chromium, with the network unplugged."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.serve import server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1300,900", "--virtual-time-budget=8000",
    # Every other name fails to resolve: the network is unplugged.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)  # fmt: skip


def chromium() -> str | None:
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def served(pages: Path) -> Iterator[str]:
    """Address of the pages while the context lasts."""
    with server(pages, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def dom(address: str) -> str:
    """The document after its scripts have run, as HTML."""
    executable = chromium()
    assert executable, "asked for a page without Chromium"
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [executable, *SWITCHES, f"--user-data-dir={profile}", "--dump-dom", address],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    return done.stdout


def text(markup: str) -> str:
    """Markup without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup)).strip()
