"""Check the pages, and open them in a browser."""

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_runs import edit_run, write_run, write_seeds

from symlora.report import write
from symlora.report.build import Report, build
from symlora.report.figures.differences import difference_plot, differences
from symlora.report.figures.style import new_figure, save
from symlora.report.pages import markdown_html, page, section_html
from symlora.report.report_page import answer
from symlora.report.table import EMPTY, Cell, Section, Table, gap

LONG = "short_holdout_with_a_very_long_name_without_any_place_at_which_it_could_break"
PAGES = ("report.html", "audit.html", *(f"tables/table{number}.html" for number in range(1, 5)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """Build a report with awkward names and errors, and few figures."""
    root = tmp_path_factory.mktemp("site")
    runs, out = root / "runs", root / "out"
    protocols = {"short": [70, 71, 72], "study": [80, 81, 82], "study_20": [70, 71, 73], LONG: [80, 81, 82]}
    for protocol, ours in protocols.items():
        write_seeds(runs, lora=[70, 71, 72], symlora=ours, protocol=protocol, held_out=0.5)
    error = "<script>console.error('injected')</script>" + "x" * 300
    edit_run(write_run(runs, "lora", "mrpc", status="failed"), lambda record: record.update(error=error))
    (write_run(runs, "lora", "cola") / "run.json").write_text("{}")

    def draw(report: Report, out: Path, as_paper: bool = False) -> write.Files:
        folder = out / "figures" / "study-minilm"
        frame = differences(report.pairs, report.chosen, "minilm", "study", 1.0, 0.05)
        save(difference_plot(frame, "MiniLM & others"), folder / "differences")
        save(new_figure(20, 1, "Wide", "A caption."), folder / "figure1-query")
        for name in ("figure1.csv", "differences.csv"):
            (folder / name).write_text("a\n")
        return list(folder.iterdir()), (f"{'y' * 300}: norms.parquet is gone",)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "write_figures", draw)
        report = build(runs)
        write.write_report(report, out)
    return report, out


@pytest.fixture(scope="module")
def site(built: tuple[Report, Path]) -> Path:
    return built[1]


VOID = ("meta", "link", "img")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open, self.anchors, self.ids, self.loaded, self.tags = (list[str]() for _ in range(5))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        assert "p" not in self.open or tag not in ("p", "div", "table", "ul"), self.getpos()
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
    assert reader.tags.count("script") == 1 and not re.search(r"@import|url\((?!#)|@font-face", text)
    assert len(set(reader.ids)) == len(reader.ids)
    for address in reader.anchors:
        assert address[1:] in reader.ids if address.startswith("#") else (site / address).is_file(), address


def test_every_table_has_its_formats(site: Path) -> None:
    names = {f"table{i}.{kind}" for i in range(1, 5) for kind in ("md", "tex", "csv", "html")}
    assert {path.name for path in (site / "tables").iterdir()} == names
    for path in (site / "tables").iterdir():
        text = path.read_text()
        assert "LoRA" in text
        assert path.suffix != ".tex" or text.isascii(), [c for c in text if not c.isascii()]  # LaTeX lacks other glyphs
        assert path.suffix != ".csv" or len({len(row) for row in csv.reader(text.splitlines())}) == 1


def test_the_report_opens_with_the_answer_and_names_what_was_left_out(site: Path) -> None:
    reader, text = _read(site / "report.html"), (site / "report.html").read_text()
    assert {"table1", "table2", "table3", "table4", "figures", "others", "symmetry", "made-from"} <= set(reader.ids)
    assert {"audit.html", "figures/study-minilm/figure1.csv", "#table2"} <= set(reader.anchors)
    said = "SymLoRA against LoRA on MiniLM, protocol study: better on RTE (no spread); not yet trained on"
    assert said in text and text.index(said) < text.index("<svg") < text.index('id="table1"')
    assert text.index(said) < text.index("protocol study_20: inconclusive on RTE") < text.index("<svg")
    assert text.index('id="others"') < text.index(f">MiniLM, protocol {LONG}<") < text.index('id="symmetry"')
    assert "no run yet of the paper's own setting: RoBERTa-base" in text.replace("&#39;", "'")
    assert "Without numbers: 7 tasks and 2 columns" in text and ">reference<" not in text
    assert text.count("<svg") == 2 and "SymLoRA less LoRA: MiniLM &amp; others" in text
    assert "norms.parquet is gone" in text and text.count("schema version None") == 1
    assert "&lt;script&gt;console.error" in text
    assert (site / "symmetry.md").is_file() and (site / "audit.md").is_file()


def test_the_answer_is_honest_where_there_is_none(built: tuple[Report, Path], tmp_path: Path) -> None:
    report, _ = built
    assert answer(report, "minilm", "short").startswith("SymLoRA against LoRA on MiniLM, protocol short: equivalent on")
    assert answer(report, "roberta-base", "paper").endswith("no answer yet, as no task has two seeds of both.")
    write_seeds(tmp_path / "runs", lora=[70, 70], symlora=[60, 60], majority=65)
    write_seeds(tmp_path / "runs", "cola", lora=[70, 71], symlora=[60, 61], majority=50, protocol="study")
    write_seeds(tmp_path / "runs", "mrpc", lora=[70, 71], symlora=[None, None], protocol="smoke")
    two = build(tmp_path / "runs")
    assert answer(two, "minilm", "smoke").endswith("two seeds of both (MRPC (2 failed)).")
    assert "no verdict on RTE (2 at chance) (2 paired seeds" in answer(two, "minilm", "short")
    assert "on CoLA; not yet trained on MRPC and STS-B (2 paired seeds" in answer(two, "minilm", "study")


def test_markdown_becomes_a_page() -> None:
    table = f"| a | `b` |\n| --- | ---: |\n| x\\|y | 1 |\n| {'z' * 25} | 2 |\n"
    got = page("A < B", markdown_html('# A < B\n\n<a id="here"></a>\n\n## C\n\n<script>x</script>\n\n' + table))
    for part in ("<title>A &lt; B</title>", "<h1>A &lt; B</h1>", "&lt;script&gt;x", '<h2 id="here">C'):
        assert part in got
    assert '<td data-label="a">x|y</td>' in got and f'<td data-label="a" class="text">{"z" * 25}</td>' in got
    assert '<th scope="col" style="text-align:right">' in got or 'style="text-align:right" scope="col"' in got


def test_a_wide_table_is_split_and_what_is_empty_is_named() -> None:
    row = (Cell("RTE"), Cell("LoRA"), Cell("1", 1.0), gap("no score"), Cell("2", 2.0), Cell("3", 3.0))
    only = (Cell("RTE"), Cell("SymLoRA"), Cell("1", 1.0), EMPTY, Cell("reference"), EMPTY)
    none = (Cell("QNLI"), gap("no run"), EMPTY, EMPTY, EMPTY, EMPTY)
    section = Section("Ours", ("A < note.",), (row, only, none))
    html = section_html(Table("t", "T", "", tuple("abcdef"), (section,), breaks=(4,)), section)
    assert html.count("<table>") == 2 and html.count("<tr>") == 2 + 3 and ">reference<" not in html
    assert "Without numbers: 1 task and 1 column</summary>QNLI; d</details>" in html and "A &lt; note." in html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright (make setup installs it)")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    with sync.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync.Error as error:
            pytest.skip(f"{found} does not start: {error}")
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Callable[..., Any]:
    def open_page(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.said = []
        opened.on("console", lambda message: opened.said.append(message.text))
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.goto(path.as_uri())
        opened.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        return opened

    return open_page


WIDER = "[document.scrollingElement, ...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_scrolls_sideways_and_nothing_is_on_the_console(
    site: Path, visit: Callable[..., Any], name: str, width: int
) -> None:
    opened = visit(site / name, width)
    whole, *boxes = opened.evaluate(WIDER)
    assert whole <= 0 and opened.said == []
    wide = 2 if name == "report.html" and width == 400 else 0  # the figures, each in a box of its own
    assert sum(box > 0 for box in boxes) <= wide or name == "audit.html"


def test_a_column_sorts_by_mouse_and_by_key(site: Path, visit: Callable[..., Any]) -> None:
    opened = visit(site / "report.html")
    table = opened.locator("#table1 table").first
    button = table.get_by_role("button", name="LoRA, validation", exact=True)

    def column(number: int) -> Any:
        return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    before = column(3)
    button.click()
    assert column(3) == sorted(before) != before
    assert table.locator("th").nth(2).get_attribute("aria-sort") == "ascending"
    button.focus()
    opened.keyboard.press("Enter")
    assert column(3) == sorted(before, reverse=True)
    table.get_by_role("button", name="Task").click()
    assert column(1) == sorted(column(1), key=str.lower) and table.locator("th[aria-sort]").count() == 1


CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => rgb(text).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    const found = getComputedStyle(element).backgroundColor;
    return rgb(found)[3] === 0 ? behind(element.parentElement) : found;
  };
  const words = [...document.querySelectorAll("main *:not(svg *)")].filter(
    e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  return Math.min(...words.map(e => {
    const pair = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
}"""


def test_light_and_dark_differ_and_both_are_legible(site: Path, visit: Callable[..., Any]) -> None:
    papers = []
    for scheme in ("light", "dark"):
        opened = visit(site / "report.html", scheme=scheme)
        assert opened.evaluate(CONTRAST) >= 4.5
        papers.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        paper = [int(number) for number in re.findall(r"\d+", papers[-1])]
        shot = np.asarray(Image.open(io.BytesIO(opened.locator("figure svg").first.screenshot())).convert("RGB"))
        assert np.abs(shot[2, 2].astype(int) - paper).max() <= 2  # the figure has the page's paper
        assert opened.locator("figure svg text", has_text="RTE, accuracy").first.is_visible()
        assert shot.min() < 60 and shot.max() > 200
    assert papers[0] != papers[1]


def test_the_browser_test_sees_what_it_looks_for(tmp_path: Path, visit: Callable[..., Any]) -> None:
    body = "<p style='width:500px;color:#999'>wide</p><script>console.error('boom')</script>"
    (tmp_path / "bad.html").write_text(page("Bad", body))
    opened = visit(tmp_path / "bad.html", 400)
    assert opened.evaluate(WIDER)[0] > 100 and opened.said == ["boom"] and opened.evaluate(CONTRAST) < 4.5
