"""``python -m harness.serve``: the published asv pages in a browser, from this machine alone."""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGES = Path(".asv/html")
PORT = 8080


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints no line for each of them."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name)
        """Nothing."""


def server(pages: Path, port: int = PORT) -> http.server.ThreadingHTTPServer:
    """A server of ``pages`` on 127.0.0.1: on ``port``, or on a free one when that is taken."""
    handler = functools.partial(Quiet, directory=str(pages))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted.  Returns 1 when nothing was published."""
    parser = argparse.ArgumentParser(prog="python -m harness.serve", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"default {PORT}; another if it is taken"
    )
    parser.add_argument("--pages", type=Path, default=PAGES, help=f"default {PAGES}")
    chosen = parser.parse_args(arguments)
    if not (chosen.pages / "index.html").is_file():
        print(f"nothing is published in {chosen.pages}: run nox -s bench first", file=sys.stderr)
        return 1
    with server(chosen.pages, chosen.port) as serving:
        print(f"http://localhost:{serving.server_address[1]}/  (stop with Ctrl+C)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
