"""asv plugin: the environment ``checkout``, and the machine's facts.

An asv environment normally builds the project and installs it, with everything it needs, from a
package index.  Here torch and Triton belong to the machine (a GPU box brings its own, often with
no network), and the measured packages need no building: this environment checks a commit out and
runs asv's own interpreter with the checkout first on the path.

Exported to every benchmark process: FP8_BENCH_COMMIT, FP8_BENCH_CHECKOUT and FP8_BENCH_RESULTS
(absolute).  With FP8_BENCH_FACTS set (a fingerprint as JSON, see :mod:`harness.bench`) asv records
under that machine and those versions instead of this one's: values are derived from a raw log that
was written elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asv import util
from asv.environment import Environment, EnvironmentUnavailable
from asv.machine import Machine, MachineCollection

from benchmarks import fingerprint
from harness import asv_guard

if TYPE_CHECKING:
    from asv.config import Config
    from asv.repo import Repo

FACTS_VARIABLE = "FP8_BENCH_FACTS"
MACHINE_FILE = Path(".asv/machine.json")
# Facts that belong to the environment: asv keeps them with each result and files results by them,
# so that two Triton versions on one machine are two curves, not one that overwrites the other.
VERSIONS = ("python", "torch", "triton")
# Facts of the machine that, with the versions, tell one curve from another.  The others stand in
# its machine.json only: a new kernel of the operating system is not a new machine.
IDENTITY = ("machine", "cpu", "gpu", "driver", "sm_clock_max_mhz", "power_limit_w")


def facts() -> dict[str, str]:
    """The fingerprint to record under: FP8_BENCH_FACTS when set, else this machine's."""
    given = os.environ.get(FACTS_VARIABLE)
    return json.loads(given) if given else fingerprint.fingerprint()


class Checkout(Environment):
    """A commit's tree, run in asv's own interpreter.  No build, no install, no network."""

    tool_name = "checkout"
    # Never chosen for an interpreter other than the running one.
    matches_python_fallback = False

    def __init__(
        self,
        conf: Config,
        python: str,
        requirements: dict[str, str],
        tagged_env_vars: dict[Any, str],
    ) -> None:
        known = facts()
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        if python not in (running, known["python"]):
            raise EnvironmentUnavailable(
                f"environment checkout runs asv's own Python {running}, not {python}"
            )
        versions = {name: known[name] for name in VERSIONS if name != "python"}
        # asv names the environment's folder before it keeps the requirements itself.
        self._requirements = requirements | versions
        super().__init__(conf, known["python"], self._requirements, tagged_env_vars)
        self._results = os.path.abspath(conf.results_dir)

    @classmethod
    def matches(cls, python: str) -> bool:
        """Whether ``python`` is the running interpreter's version."""
        return python == f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def installed_commit_hash(self) -> str | None:
        """None: every run checks out afresh, so that no edited checkout is ever measured."""
        return None

    def check_presence(self) -> bool:
        """Whether the folder is there; its content is replaced by each checkout anyway."""
        return os.path.isdir(self._path)

    def _setup(self) -> None:
        os.makedirs(self._path, exist_ok=True)

    def install_project(self, conf: Config, repo: Repo, commit_hash: str) -> None:
        """Check ``commit_hash`` out; there is nothing to build."""
        self.checkout_project(repo, commit_hash)

    def find_executable(self, executable: str) -> str:
        """asv's own interpreter; there is no other program in this environment."""
        if executable != "python":
            raise OSError(f"environment checkout has no {executable}")
        return sys.executable

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run asv's interpreter with the checkout first on the path."""
        env = dict(kwargs.pop("env", os.environ))
        env.update(self._global_env_vars)
        # asv drops PYTHONPATH unless it is part of ASV_PYTHONPATH; a box without a network may
        # hold asv itself in a folder that only PYTHONPATH names.
        inherited = env.get("PYTHONPATH")
        env["ASV_PYTHONPATH"] = os.pathsep.join(filter(None, [self._build_root, inherited]))
        env["FP8_BENCH_COMMIT"] = self._global_env_vars.get("ASV_COMMIT", "")
        env["FP8_BENCH_CHECKOUT"] = self._build_root
        env["FP8_BENCH_RESULTS"] = self._results
        return util.check_output([sys.executable, *args], env=env, **kwargs)


def setup() -> None:
    """Called by asv when it loads the plugin: make the fingerprint asv's machine.

    asv would ask for the machine's facts and keep them in the user's home; it gets them, complete,
    in a file of its own inside ``.asv``.
    """
    asv_guard.install()
    known = {name: value for name, value in facts().items() if name not in VERSIONS}
    name = known["machine"]
    path = str(MACHINE_FILE.absolute())
    identity = {fact: known[fact] for fact in IDENTITY}
    util.write_json(path, {name: identity}, MachineCollection.api_version)

    def save(self: Machine, results_dir: str) -> None:
        target = os.path.join(results_dir, self.machine, "machine.json")
        util.write_json(target, known | self.__dict__, self.api_version)

    MachineCollection.get_machine_file_path = staticmethod(lambda: path)
    Machine.hardcoded_machine_name = name
    Machine.save = save
