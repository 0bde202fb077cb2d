"""The pages: one file each, nothing from outside; and opened in Debian's chromium at two widths."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from report_runs import read_record, write_run

from symlora.report import write
from symlora.report.collect import Problem
from symlora.report.pages import markdown_page
from symlora.store.folder import seal

LONG = "short_holdout_with_a_very_long_name_without_any_place_at_which_it_could_break"
PAGES = ("report.html", "audit.html", *(f"tables/table{number}.html" for number in range(1, 5)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report with awkward names and errors; its figure is one wide picture, since drawing takes seconds."""
    root = tmp_path_factory.mktemp("site")
    runs, out = root / "runs", root / "out"
    for seed in range(3):
        for method in ("lora", "symlora"):
            for protocol in ("short", LONG):
                write_run(runs, method, seed=seed, right=70 + seed, protocol=protocol, held_out=0.5)
    failed = write_run(runs, "lora", "mrpc", status="failed")
    seal(failed, read_record(failed) | {"error": "<script>console.error('injected')</script>" + "x" * 300})
    (write_run(runs, "lora", "cola") / "run.json").write_text("{}")

    def draw(report: write.Report, out: Path, as_paper: bool = False) -> write.Files:
        folder = out / "figures" / "short-minilm"
        folder.mkdir(parents=True)
        matplotlib.image.imsave(folder / "figure1-query.png", np.zeros((60, 2400, 3)))
        for name in ("figure1.csv", "figure1-query.pdf"):
            (folder / name).write_text("a\n")
        return [folder / "figure1-query.png"], (Problem("y" * 300, "norms.parquet is gone"),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "write_figures", draw)
        write.write_report(write.build(runs), out)
    return out


VOID = ("meta", "link", "img")


class _Reader(HTMLParser):
    """Keeps what is open, what was linked and what was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.anchors.append(found["href"])
        else:
            self.loaded += [found[key] for key in ("src", "href", "srcset", "data") if key in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, (tag, self.getpos())


def _read(path: Path) -> _Reader:
    reader = _Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_loads_nothing(site: Path, name: str) -> None:
    reader, text = _read(site / name), (site / name).read_text()
    assert all(address.startswith("data:") for address in reader.loaded)
    assert "script" not in reader.tags and not re.search(r"@import|url\(|@font-face", text)
    assert len(set(reader.ids)) == len(reader.ids)
    for address in reader.anchors:
        assert address[1:] in reader.ids if address.startswith("#") else (site / address).is_file(), address


def test_the_report_holds_tables_figures_symmetry_and_what_was_left_out(site: Path) -> None:
    reader, text = _read(site / "report.html"), (site / "report.html").read_text()
    assert {"table1", "table2", "table3", "table4", "figures", "symmetry"} <= set(reader.ids)
    assert {"audit.html", "figures/short-minilm/figure1.csv", "#table2"} <= set(reader.anchors)
    assert text.count("data:image/png;base64,") == 1 and 'width="1600"' in text and text.count("schema version") == 1
    assert "norms.parquet is gone" in text and '<h2 id="symmetry">How symmetric are the updates?</h2>' in text
    assert "&lt;script&gt;console.error" in text and "schema version None" in text
    assert "SymLoRA against LoRA, margin ±1 points: RTE equivalent" in text
    assert (site / "symmetry.md").is_file() and (site / "audit.md").is_file()


def test_markdown_becomes_a_page(tmp_path: Path) -> None:
    matplotlib.image.imsave(tmp_path / "wide one.png", np.zeros((6, 24, 3)))
    text = '# A < B\n\n<a id="here"></a>\n\n## The `code`\n\n<script>x</script> ![seen](<wide one.png>)\n\n'
    table = f"| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n| {'z' * 25} | 2 |\n"
    got = markdown_page("A < B", text + table, tmp_path)
    assert "<title>A &lt; B</title>" in got and "<h1>A &lt; B</h1>" in got
    assert '<h2 id="here">The <code>code</code></h2>' in got and "&lt;script&gt;x" in got
    assert '<img src="data:image/png;base64,' in got and 'alt="seen" width="16"' in got
    assert '<td>x|y</td>\n<td style="text-align:right">1</td>' in got and f'<td class="text">{"z" * 25}</td>' in got
    assert got.count('<div class="scroll" tabindex="0" role="region" aria-label="The `code`">') == 1


# In a browser. A window of chromium's is at least 500 wide, so the page is shown in a frame of the width to be tested.

FRAME = """<!doctype html><title>waiting</title>
<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>f.onload = () => {{ const root = f.contentDocument.documentElement;
document.title = f.contentWindow.innerWidth + " " + Math.max(root.scrollWidth, f.contentDocument.body.scrollWidth) }}
</script>"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, once it has shown a page; skips where it is not there or cannot start."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    profile = tmp_path_factory.mktemp("profile")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run"]
    command += ["--allow-file-access-from-files", f"--user-data-dir={profile}", "--window-size=1400,900", "--dump-dom"]
    blank = profile / "blank.html"
    blank.write_text("<!doctype html><p>shown")
    try:
        tried = subprocess.run([*command, blank.as_uri()], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{found} does not start: {error}")
    if "shown" not in tried.stdout:
        pytest.skip(f"{found} does not start: {tried.stderr[-300:]}")
    return command


def _shown(chromium: list[str], folder: Path, name: str, width: int) -> tuple[int, int, list[str]]:
    """Width of the view, width of what is in it, and what the page said on the console."""
    frame = folder / f"frame-{width}-{name.replace('/', '-')}"
    frame.write_text(FRAME.format(page=(folder / name).as_uri(), width=width))
    done = subprocess.run([*chromium, frame.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert title, done.stderr[-500:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return int(title[1]), int(title[2]), console


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report.html", "audit.html"])
def test_no_horizontal_scroll_and_nothing_on_the_console(
    site: Path, chromium: list[str], name: str, width: int
) -> None:
    inner, needed, console = _shown(chromium, site, name, width)
    assert inner == width and needed <= inner and console == []


def test_the_browser_test_sees_what_it_looks_for(tmp_path: Path, chromium: list[str]) -> None:
    body = "<div style='width:500px'>wide</div><script>console.error('boom')</script>"
    (tmp_path / "bad.html").write_text(markdown_page("Bad", "").replace("<main>", f"<main>{body}"))
    inner, needed, console = _shown(chromium, tmp_path, "bad.html", 400)
    assert inner == 400 and needed > 500 and any("boom" in line for line in console)
