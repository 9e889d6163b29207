"""The nightly workflow's own shell: which exit code comes out, and what is done in which order."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
WORKFLOW = Path(__file__).resolve().parents[1] / ".github" / "workflows" / "nightly.yml"
# confirm ends with $CODE; issue-body leaves issues where told to.
PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$3" in
  confirm) exit "$CODE" ;;
  issue-body) echo the text; [ -z "$ISSUES" ] || echo '[]' > results/issues.json ;;
esac
"""


def jobs() -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return held


@pytest.mark.parametrize(
    ("ended", "code"), [(0, 0), (10, 10), (11, 11), (12, 12), (1, 1), (2, 1), (130, 1), (137, 1)]
)
@pytest.mark.parametrize("issues", ["", "1"])
def test_the_exit_code_comes_out(tmp_path: Path, ended: int, code: int, issues: str) -> None:
    (tmp_path / "results").mkdir()
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    (step,) = [step for step in jobs()["measure"]["steps"] if step.get("id") == "verdict"]
    variables = {
        "PATH": f"{python.parent}:{os.environ['PATH']}", "CODE": str(ended), "ISSUES": issues,
        "EXACT": "success", "GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "summary",
    }  # fmt: skip
    # As GitHub runs it.
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=variables, check=True)
    output = dict(line.split("=") for line in (tmp_path / "output").read_text().splitlines())
    assert output == {"code": str(code)} | ({"issues": "true"} if issues else {})
    assert (tmp_path / "summary").read_text() == "the text\n"
    calls = [line.split()[2] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == ["confirm", "issue-body", *(["advance"] if code == 0 else [])]
    assert (tmp_path / "calls").read_text().count("--exact success") == len(calls)


def test_only_one_job_writes_issues_and_only_where_there_are_any() -> None:
    writers = {name: job for name, job in jobs().items() if "issues" in job["permissions"]}
    assert list(writers) == ["issue"]
    assert writers["issue"]["permissions"] == {"contents": "read", "issues": "write"}
    assert writers["issue"]["if"] == "needs.measure.outputs.issues == 'true'"


def test_the_job_is_red_with_the_code() -> None:
    (step,) = jobs()["verdict"]["steps"]
    assert step["run"] == 'exit "$CODE"'
    assert step["env"] == {"CODE": "${{ needs.measure.outputs.code }}"}
