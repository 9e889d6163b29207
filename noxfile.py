"""Everything by name: ``nox -l`` is the menu, ``nox -s NAME -- ARGUMENTS`` runs one.

A session is a plain command, ``python -m harness.NAME`` or a tool's own, in one environment that
most of them share (torch takes gigabytes), made on first use from the groups in pyproject.toml.

On a machine that brings its own torch, ``python -m nox --no-venv -s NAME`` runs the same command
with the Python that runs nox.  It installs nothing and needs no network; what is missing is named.

nox ends with 1 whatever the command's own exit code was, but for the gate's sessions, which pass it on:
where the code of another matters, call the command.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ["3.11", "3.12"]
# The oldest Triton, that of the pinned torch, and the newest that the kernels work with.
TRITONS = ["3.6.0", "3.7.1", "3.9.0"]
GROUPS = ["torch", "tests", "bench", "report", "types"]
SHARED = ROOT / ".nox" / f"main-{sys.version_info.major}.{sys.version_info.minor}"
# nox tells a session that it has no environment, not who wanted that.
BARE = bool({"--no-venv", "none"} & set(" ".join(sys.argv).partition(" -- ")[0].split()))
WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/workflows/*.yml"))

# A file's tests stay together: they share what is slow to make.
PARALLEL = ["-n", "auto", "--dist", "loadfile", "--benchmark-disable"]

nox.needs_version = ">=2025.2.9"
# Not uv: it does not read pip's configuration, and so passes over the index a machine is set up with.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = []


def groups(*names: str) -> list[str]:
    """Requirements of groups of pyproject.toml; with npm, where the machine has none."""
    node = [] if shutil.which("npm") and shutil.which("node") else ["node"]
    return list(nox.project.dependency_groups(PYPROJECT, *names, *node))


def python(
    session: nox.Session, *arguments: str, needs: Sequence[str] = (), cache: bool = True
) -> None:
    """Run the shared environment's Python, or, without one, the Python that runs nox.

    needs: modules that a foreign tool must find there; our own commands name what they lack.
    cache: keep Triton's beside the project, since the home may be read-only or shared.
    """
    session.chdir(ROOT)
    if not BARE:
        executable = shared(session)
    else:
        executable = sys.executable
        if needs:
            call = f"doctor.require({list(needs)!r}, 'nox -s {session.name}')"
            session.run(executable, "-c", f"from harness import doctor; {call}", external=True)
    if cache and "TRITON_CACHE_DIR" not in os.environ:
        session.env["TRITON_CACHE_DIR"] = str(ROOT / ".triton")
    session.run(executable, *arguments, external=True)


def keep_code(session: nox.Session, *arguments: str, cache: bool = True) -> None:
    """Run Python, and end nox with its exit code: 10, 11 and 12 mean different things.

    nox makes 1 of every failure.  It catches what a session raises, but not SystemExit; sessions
    behind this one are not run.
    """
    try:
        python(session, *arguments, cache=cache)
    except nox.command.CommandFailed as failed:
        sys.exit(getattr(failed, "return_code", None) or 1)


def shared(session: nox.Session) -> str:
    """The Python of the shared environment, which is made, and brought up to date, first."""
    executable = SHARED / "bin" / "python"
    quiet = ["--quiet"] if executable.exists() else []
    if not executable.exists():
        session.run_install(sys.executable, "-m", "virtualenv", str(SHARED), external=True)
    install = [str(executable), "-m", "pip", "install", *quiet, *groups(*GROUPS)]
    session.run_install(*install, external=True, log=not quiet)
    return str(executable)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests but the long ones; what needs a GPU, a browser or a network skips with a reason."""
    needs = ["torch", "triton", "numpy", "pytest", "hypothesis"]
    # A box that brings its own Python may lack xdist; a choice of tests is not worth more processes.
    spread = [] if BARE or session.posargs else [*PARALLEL, "-m", "not long"]
    python(session, "-m", "pytest", *spread, *session.posargs, needs=needs)


@nox.session(venv_backend="none")
def time(session: nox.Session) -> None:
    """Check and time the working tree: -- OPERATOR [CASE | M,N,K].  Records nothing."""
    python(session, "-m", "harness.timing", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure commits, record them with asv, publish the pages: -- [COMMITS]."""
    # The sweep has a cache of its own for each operator.
    python(session, "-m", "harness.bench", *session.posargs, cache=False)


@nox.session(venv_backend="none")
def compare(session: nox.Session) -> None:
    """Did a commit make it worse? -- BASE HEAD [OPERATOR [CASE-PART]...]...; keeps the exit code."""
    keep_code(session, "-m", "gate", "compare", *session.posargs, cache=False)


@nox.session(venv_backend="none")
def serve(session: nox.Session) -> None:
    """Browse the published pages, on this machine alone: -- [--port N]."""
    session.chdir(ROOT)
    session.run(sys.executable, "-m", "harness.serve", *session.posargs, external=True)


@nox.session(venv_backend="none")
def codegen(session: nox.Session) -> None:
    """What Triton compiles for sm_90, no GPU needed: -- [OPERATOR...]."""
    python(session, "-m", "harness.codegen", *session.posargs)


@nox.session(venv_backend="none")
def report(session: nox.Session) -> None:
    """Derive summary.csv, report.html, tables and roofline from the raw logs: -- [--check]."""
    python(session, "-m", "harness.report", *session.posargs)


@nox.session(venv_backend="none")
def history(session: nox.Session) -> None:
    """What changed in the committed history, what of it is open: -- [--status all]; keeps the code."""
    keep_code(session, "-m", "gate", "history", *session.posargs)


@nox.session(venv_backend="none")
def gate_selftest(session: nox.Session) -> None:
    """What the gate's verdicts are worth, by simulation: -- [--aa LOG] [--write]; keeps the code."""
    keep_code(session, "-m", "gate", "selftest", *session.posargs)


@nox.session(venv_backend="none")
def exact(session: nox.Session) -> None:
    """Every element of the production shapes against the reference, on a Hopper GPU."""
    python(session, "-m", "harness.exact", *session.posargs)


@nox.session(venv_backend="none")
def sanitize(session: nox.Session) -> None:
    """The kernels under compute-sanitizer's four tools, on a Hopper GPU."""
    python(session, "-m", "harness.sanitize", *session.posargs)


@nox.session(venv_backend="none")
def bottleneck(session: nox.Session) -> None:
    """What Nsight Compute says holds a kernel back: -- OPERATOR[:CASE]...; on a Hopper GPU."""
    keep_code(session, "-m", "harness.bottleneck", *session.posargs)


@nox.session(venv_backend="none")
def layer(session: nox.Session) -> None:
    """The layer at its true size, entry by entry: time, roofline, memory; on a Hopper GPU."""
    keep_code(session, "-m", "harness.layer", *session.posargs)


@nox.session(venv_backend="none")
def gate_inject(session: nox.Session) -> None:
    """Slow kernels down by real work, and see whether the verdict notices; on a Hopper GPU."""
    keep_code(session, "-m", "gate", "inject", *session.posargs)


@nox.session(venv_backend="none")
def adapter(session: nox.Session) -> None:
    """Is your own kernel right, and how fast? -- FILE.py [ours] [PEER]... [--time] (CONTRIBUTING.md)."""
    python(session, "-m", "harness.adapter", *session.posargs)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Plant each fault of gate/faults and see a test find it: -- [OPERATOR | NAME] [--gpu]."""
    needs = ["torch", "triton", "numpy", "pytest", "hypothesis"]
    python(session, "-m", "gate.mutants", *session.posargs, needs=needs, cache=False)


@nox.session(venv_backend="none")
def doctor(session: nox.Session) -> None:
    """Say what this machine can run, and what it lacks."""
    python(session, "-m", "harness.doctor", *session.posargs)


@nox.session
def wheelhouse(session: nox.Session) -> None:
    """Fill a folder with what a box without a network lacks: -- DIR [--python 3.12]."""
    if BARE:
        python(session, "-m", "harness.wheelhouse", *session.posargs)
        return
    session.install(*nox.project.dependency_groups(PYPROJECT, "tests"))
    session.run("python", "-m", "harness.wheelhouse", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """The code's style and format; the workflows' schema and security."""
    if not BARE:
        session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".", external=BARE)
    session.run("ruff", "format", "--check", ".", external=BARE)
    schema = ["--builtin-schema", "vendor.github-workflows"]
    session.run("check-jsonschema", *schema, *WORKFLOWS, external=BARE)
    session.run("zizmor", "--offline", "--quiet", *WORKFLOWS, external=BARE)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy, strict everywhere but inside the kernels."""
    python(session, "-m", "mypy", *session.posargs, needs=["mypy"])


def pinned(session: nox.Session, triton: str, *names: str) -> None:
    """Install the groups ``names`` beside torch, and this Triton in place of torch's own."""
    session.install(*groups("torch", *names))
    # Apart, and without what it asks for: torch insists on the Triton that it was built with.
    session.install("--no-deps", f"triton=={triton}")
    if triton.startswith("3.6."):
        session.install("numpy<2.4")  # its interpreter needs it


@nox.session(python=PYTHONS)
@nox.parametrize("triton", TRITONS)
def tests_full(session: nox.Session, triton: str) -> None:
    """All tests, the long ones too, with each Python and Triton that must work and Python there is."""
    if BARE:
        session.error("tests_full installs other Tritons: it needs environments of its own")
    pinned(session, triton, "tests", "bench", "report")
    session.run("python", "-m", "pytest", *([] if session.posargs else PARALLEL), *session.posargs)


@nox.session
@nox.parametrize("triton", TRITONS)
def upgrade(session: nox.Session, triton: str) -> None:
    """What each Triton makes of the kernels, ranked in docs/triton-upgrades.md: -- [OPERATOR...]."""
    if BARE:
        session.error("upgrade installs other Tritons; with those there are: harness.upgrade")
    pinned(session, triton)
    folder = ROOT / ".nox" / "upgrade"
    files = {version: folder / f"{version}.json" for version in TRITONS}
    command = ["python", "-m", "harness.upgrade"]
    session.run(*command, "collect", "--out", str(files[triton]), *session.posargs)
    held = [str(path) for path in files.values() if path.exists()]
    if triton == TRITONS[-1] and len(held) > 1:
        # A choice of operators is for the screen.
        page = [] if session.posargs else ["--markdown", "docs/triton-upgrades.md"]
        session.run(*command, "compare", *held, "--json", str(folder / "changes.json"), *page)
