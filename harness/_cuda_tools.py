"""Where the CUDA toolkit's tools lie when they are not on the path."""

from __future__ import annotations

import os
import shutil

PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/cuda/bin")


def find(name: str) -> str | None:
    """Path of ``compute-sanitizer``, ``ncu``, ..., or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [*([f"{home}/bin", f"{home}/compute-sanitizer"] if home else []), *PLACES]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
