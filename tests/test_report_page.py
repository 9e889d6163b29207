"""results/report.html: what it says, that it says the same again, and how a browser shows it."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests._miniature import browser
from tests._tree import CASE, H200, LAPTOP, NEW, OLD, SMALL, Box, grow, put

pytest.importorskip("pandas", reason="the report needs pandas")

from harness import _history, _logs, _page, _page_changes, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness._logs import Log

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {
    OLD[:12]: _history.Commit(0, "the first"),
    NEW[:12]: _history.Commit(1, 'tiles "by" shape </script><b>'),
}
CHANGES = [
    _page_changes.Mark("nvidia-h200", "fp8_gemm", case, metric, NEW[:12], word, text)
    for case, metric, word, text in (
        (CASE, "device_us", "improved", "800 to 710 us"),
        (SMALL, "device_us", "noise", "of another case"),
        (CASE, "registers", "accepted", "of another metric"),
    )
]
NETWORK = re.compile(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, and a second Triton on the GPU: each with the newest commit's big case."""
    root = grow(tmp_path_factory.mktemp("page"))
    code = {"sass_code": "1", "grid": [1], "warps": 4, "shared": 8}
    writer = Box(root, "nvidia-h200", H200 | {"triton": "3.9.0"}).log(NEW)
    put(writer, "registers", [172], detail={"kernels": [code]})
    put(writer, "device_us", [781.0])
    put(Box(root, "laptop", LAPTOP).log(NEW), "registers", [170])
    return root


def load(root: Path) -> list[Log]:
    return _logs.load(root / "results", lambda _: None)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    marks = [{"commit": NEW[:12], "verdict": "regressed", "text": "<i>the gate</i>"}]
    return _page.html(load(root), marks, KNOWN, CHANGES)


def data(page: str) -> Any:
    return json.loads(page.split('id="data">')[1].partition("</script>")[0])


def rows(page: str, machine: str, operator: str) -> dict[str, list[str]]:
    """Cells of an operator's table by its columns' titles, a list a column, from the markup."""
    section = page.split(f'id="{machine}/{operator}"')[1].partition("</section>")[0]
    titles = [browser.text(cell) for cell in re.findall(r"<th scope=\"col\".*?</th>", section)]
    found: dict[str, list[str]] = {title: [] for title in titles}
    for row in re.findall(r"<tr data-case.*?</tr>", section):
        cells = re.findall(r"<t[hd].*?</t[hd]>", row)
        assert len(cells) == len(titles)
        for title, cell in zip(titles, cells, strict=True):
            found[title].append(browser.text(cell))
    return found


def test_the_table_holds_the_newest_numbers(page: str) -> None:
    held = rows(page, "nvidia-h200", "fp8_gemm")
    assert held["case"] == ["o m=4096 n=7168 k=16384"]
    assert held["device, µs"] == ["781.0"], "the last measured environment of the newest commit"
    assert held["registers"] == ["172"]
    assert rows(page, "nvidia-h200", "act_quant")["of a copy"] == ["86 %"]
    assert rows(page, "laptop", "fp8_gemm")["registers"] == ["170"]


def test_a_peer_a_failure_and_a_change_are_shown(root: Path) -> None:
    logs = [log for log in load(root) if log.fact("triton") == "3.6.0"]
    held = rows(_page.html(logs, [], KNOWN), "nvidia-h200", "fp8_gemm")
    assert held["device, µs"] == ["died", "710.0"]
    assert held["change"] == ["-", "\N{MINUS SIGN}11.3 % ▼"]
    assert held["cuBLASLt, µs"] == ["40.00 †", "1420.0"]
    assert held["cuBLASLt / ours"] == ["-", "2.00"]
    assert held["cuBLASLt differing"] == ["-", "1,234,567"]


def test_curves_hold_every_log_in_the_historys_order(page: str) -> None:
    gpu, laptop = data(page)["machines"]
    assert [machine["name"] for machine in (gpu, laptop)] == ["nvidia-h200", "laptop"]
    assert [log["commit"][0] for log in gpu["logs"]] == ["a", "b", "b"]
    assert gpu["logs"][1]["subject"] == KNOWN[NEW[:12]].subject
    held = gpu["operators"]["fp8_gemm"]
    assert held["cases"] == [SMALL, CASE]
    assert held["series"]["kernels"]["device_us"] == [None, [800, 710, 781]]
    assert held["series"]["cublaslt"]["low"][0] == [None, 40, None]
    assert held["broken"] == [[[1, "died"]], []]
    assert gpu["limits"]["tflops"] == {"bf16": 730, "fp8": 1520}


def test_the_history_and_not_the_date_orders_commits(root: Path) -> None:
    turned = {commit: known._replace(rank=-known.rank) for commit, known in KNOWN.items()}
    gpu, _ = data(_page.html(load(root), [], turned))["machines"]
    assert [log["commit"][0] for log in gpu["logs"]] == ["b", "b", "a"]


def test_versions_stand_side_by_side(page: str) -> None:
    table = page.split('class="versions"')[1].partition("</table>")[0]
    (row,) = re.findall(r"<tbody>\s*(<tr>.*?</tr>)", table, re.DOTALL)
    cells = [browser.text(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
    assert cells[:5] == ["fp8_gemm o m=4096 n=7168 k=16384", "bbbbbbbb", "168", "170", "172"]
    assert cells[-1] == "nvidia-h200, 3.9.0 / 3.6.0: 1.100"
    assert row.count("differs") == 3


def test_the_same_logs_give_the_same_bytes(root: Path, page: str) -> None:
    marks = data(page)["marks"]
    assert _page.html(list(reversed(load(root))), marks, KNOWN, CHANGES) == page


def test_nothing_that_was_measured_is_taken_for_markup(page: str) -> None:
    assert page.count("</script>") == 2
    assert "<i>the gate" not in page
    assert data(page)["marks"][0]["text"] == "<i>the gate</i>"


def test_it_names_nothing_outside_itself(page: str) -> None:
    assert not NETWORK.search(page)
    assert "default-src 'none'" in page
    assert '<link rel="icon" href="data:,">' in page


def luminance(colour: str) -> float:
    """Of ``#rrggbb``, by WCAG 2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_and_marks_stand_out_light_and_dark(page: str) -> None:
    """WCAG 2: 4.5 for text, 3 for what is drawn."""
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text))
        for text in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    ]
    assert len(themes) == 2
    for theme in themes:
        for text in ("ink", "faint", "link", "good", "bad"):
            for ground in ("ground", "raised", "differs"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        assert contrast(theme["ink"], theme["bar"]) >= 4.5
        for number in range(7):
            assert contrast(theme[f"c{number}"], theme["ground"]) >= 3


def test_without_logs_it_says_so() -> None:
    assert "Nothing has been measured yet" in _page.html([], [], {})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_check_covers_the_page_where_git_knows_the_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "draw", lambda *_: "not drawn")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=measured")
    put(Box(tmp_path, "laptop", LAPTOP).log(git(tmp_path, "rev-parse", "HEAD")), "spills", [0])
    path = tmp_path / report.BROWSED
    assert report.main(["--root", str(tmp_path)]) == 0
    assert "measured" in data(path.read_text(encoding="utf-8"))["machines"][0]["logs"][0]["subject"]
    assert report.main(["--root", str(tmp_path), "--check"]) == 0
    path.write_text("old", encoding="utf-8")
    assert report.main(["--root", str(tmp_path), "--check"]) == 1
    assert "report.html" in capsys.readouterr().err
    put(Box(tmp_path, "laptop", LAPTOP).log("c" * 40), "spills", [0])
    report.main(["--root", str(tmp_path)])
    path.write_text("old", encoding="utf-8")
    assert report.main(["--root", str(tmp_path), "--check"]) == 0, "git does not know cccc"


# In a browser.

PROBE = """<script type="module">
const frame = document.createElement("iframe");
frame.style = "width: WIDTHpx; height: 900px; border: 0";
frame.src = "report.html#MACHINE";
frame.addEventListener("load", () => setTimeout(() => {
  const inside = frame.contentDocument, at = frame.contentWindow;
  const all = (wanted, within) => [...(within ?? inside).querySelectorAll(wanted)]
    .filter((node) => node.getClientRects().length > 0);
  const seen = {
    machines: all("section.machine").map((node) => node.id),
    wide: inside.documentElement.scrollWidth,
    plots: all("figure[data-family]").map((node) => [node.dataset.family, all(".mark", node).length]),
    curves: all(".history").map((node) => all(".mark", node).length),
    sparks: all(".spark svg").length,
    signs: all("text.sign").map((node) => node.getAttribute("aria-label")),
    legend: all(".legend li").map((node) => node.textContent),
    small: all("svg text").filter((node) => node.getScreenCTM().a < 0.95).length,
    requests: at.performance.getEntriesByType("resource").length,
    kept: {},
  };
  for (const words of ["m=4096", "m=409", "o FP8 4096", "m=4096 act"]) {
    const filter = inside.getElementById("filter");
    filter.value = words;
    filter.dispatchEvent(new Event("input"));
    seen.kept[words] = all("tr[data-case]").length;
  }
  const out = document.createElement("output");
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 300));
document.body.append(frame);
</script>"""


@pytest.fixture(scope="module")
def folder(page: str) -> Iterator[Path]:
    if browser.chromium() is None:
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "report.html").write_text(page, encoding="utf-8")
        yield Path(name)


def look(folder: Path, machine: str, width: int) -> Any:
    """What a reader sees of one machine in a window so wide."""
    probe = PROBE.replace("WIDTH", str(width)).replace("MACHINE", machine)
    (folder / "probe.html").write_text(
        f"<!doctype html><meta charset=utf-8><body>{probe}</body>", encoding="utf-8"
    )
    with browser.served(folder) as address:
        document = browser.dom(f"{address}/probe.html")
    found = re.search(r"<output>(.*?)</output>", document, re.DOTALL)
    assert found, "the page did not load"
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.parametrize("width", [375, 1300])
def test_a_browser_shows_plots_curves_and_marks(folder: Path, width: int) -> None:
    seen = look(folder, "nvidia-h200", width)
    assert seen["machines"] == ["nvidia-h200"]
    assert seen["wide"] <= width, "the body is wider than the window"
    assert seen["plots"] == [["gemm", 3], ["memory", 1]]
    assert all(seen["curves"])
    assert seen["sparks"] == 2
    told = "bbbbbbbb: improved\no m=4096 n=7168 k=16384\n800 to 710 us"
    # In the pictures of all cases and of one; the note of the commit is on each operator's.
    assert seen["signs"].count(told.replace("o m=", "layer=o m=")) == 2
    assert sum("of another case" in text for text in seen["signs"]) == 1
    assert not any("of another metric" in text for text in seen["signs"])
    assert seen["signs"].count("bbbbbbbb: regressed\n<i>the gate</i>") == 4
    for word, pictures in (("improved", 2), ("regressed", 4)):
        assert [text[1:] for text in seen["legend"]].count(word) == pictures
    assert seen["small"] == 0, "text smaller than the style says"
    assert seen["requests"] == 0
    assert seen["kept"] == {"m=4096": 2, "m=409": 0, "o FP8 4096": 1, "m=4096 act": 1}


def test_every_machine_has_its_place(folder: Path) -> None:
    for name in ("laptop", "triton-versions"):
        seen = look(folder, name, 375)
        assert seen["machines"] == [name]
        assert seen["wide"] <= 375


def opened(path: Path) -> tuple[str, str]:
    """The document behind a file's own address, and what the browser had to say."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [str(browser.chromium()), *browser.SWITCHES, f"--user-data-dir={profile}",
             "--enable-logging=stderr", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize("committed", [False, True])
def test_it_opens_from_the_disk_without_a_complaint(folder: Path, committed: bool) -> None:
    path = ROOT / report.BROWSED if committed else folder / "report.html"
    if not path.is_file():
        pytest.skip("results/report.html is not here")
    document, said = opened(path)
    assert "CONSOLE" not in said
    assert document.count("<figure data-family") == 2
    assert not committed or document.count('class="mark"') > 100
    assert re.search(r'aria-label="[0-9a-f]{8}: \w+', document), "no sign of a change"


def test_a_complaint_would_be_seen(folder: Path) -> None:
    """The test above can fail: a script that throws is on the console, and so is a request."""
    whole = (folder / "report.html").read_text(encoding="utf-8")
    for broken in (
        whole.replace("follow();\n", "no();\n"),
        whole.replace("</main>", '<img src="https://example.org/x.png" alt=""></main>'),
    ):
        (folder / "broken.html").write_text(broken, encoding="utf-8")
        assert "CONSOLE" in opened(folder / "broken.html")[1]
