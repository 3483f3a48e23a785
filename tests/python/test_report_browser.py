"""The report in a real headless Chromium: clicks, keys, search, tables, themes, safety, access."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from report_world import ENDING, HOSTILE, N_ROWS, WORDS, build

import km
from km.report import write_report

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
SECTIONS = ("overview", "verdicts", "taxonomy", "runs", "run-1", "run-2", "run-3")
Page = Any  # playwright is not needed to import this file


def _missing() -> str | None:
    if not shutil.which(CHROMIUM):
        return f"{CHROMIUM} is not installed"
    try:
        import axe_playwright_python  # noqa: F401
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = _missing()
    if reason and os.environ.get("KM_TEST_BROWSER") != "required":
        pytest.skip(reason)
    assert reason is None, reason
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    build(folder / "study.db")
    with km.KnowledgeBase(folder / "study.db", read_only=True) as kb:
        write_report(kb, folder / "report.html")
    return folder / "report.html"


class Watch:
    """What a page says, asks for and opens, which is nothing."""

    def __init__(self, page: Page) -> None:
        self.said: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Page]:
    """The report in a window; at the end nothing was said, and nothing but the file asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    watch = Watch(page)
    page.goto(report.as_uri())
    yield page
    assert watch.said == []
    assert set(watch.requests) == {report.as_uri()}
    context.close()


def shown(page: Page) -> list[str]:
    """Sections that can be seen."""
    return [page_id for page_id in SECTIONS if page.locator(f"#{page_id}").is_visible()]


def wait_open(page: Page, section: str) -> None:
    """By its selector: conditions in JavaScript are tried again by `eval`, which pages forbid."""
    page.locator(f"#{section}.open").wait_for(timeout=10_000)


def go(page: Page, section: str) -> None:
    page.locator(f'nav.contents a[href="#{section}"]').click()
    wait_open(page, section)


# ---- opening ----


def test_size_and_first_view(opened: Page, report: Path) -> None:
    """Below a second and 3 MB with 100,000 rows behind the page; the best of three views."""
    assert report.stat().st_size < 3_000_000
    times = []
    for _ in range(3):
        opened.reload()
        paints = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
        while not (found := opened.evaluate(paints)):
            opened.wait_for_timeout(20)
        times.append(found[0])
    assert min(times) < 1000


def test_one_section_at_a_time(opened: Page) -> None:
    assert shown(opened) == ["overview"]
    for section in SECTIONS:
        go(opened, section)
        assert shown(opened) == [section]
        link = opened.locator("nav.contents a[aria-current=page]")
        assert link.get_attribute("href") == f"#{section}"
        assert opened.evaluate("document.activeElement.id") == f"{section}-h"
    opened.go_back()
    wait_open(opened, SECTIONS[-2])


def test_without_scripts_everything_is_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert shown(page) == list(SECTIONS)
    assert not page.locator("#search").is_visible()
    assert page.locator("noscript svg").count() == 1 or page.locator("noscript").count() == 1
    assert page.locator("#verdicts table.verdicts").count() == len(WORDS)
    context.close()


# ---- verdicts ----


def test_verdicts_stand_by_their_figures(opened: Page) -> None:
    go(opened, "verdicts")
    for word, (estimate, low, high, n) in WORDS.items():
        box = opened.locator(f"#prediction-toy-{word.replace(' ', '-')}-1")
        cells = box.locator("tbody td").all_inner_texts()
        assert cells[5] == word
        assert cells[2] == f"{estimate:.3g} [{low:.3g}, {high:.3g}]"
        assert cells[3] == f"{n} relations"
        plot = box.locator("tbody svg")
        point = float(plot.locator("circle").get_attribute("cx"))
        null = float(plot.locator("line.null").get_attribute("x1"))
        assert (point > null, point < null) == (estimate > 0, estimate < 0)
    opened.locator("#prediction-toy-consistent-1 summary").click()
    assert opened.get_by_text("An interval below 0.").first.is_visible()


def test_a_conversation_is_told(opened: Page) -> None:
    go(opened, "run-3")
    turns = opened.locator("#run-3 ol.turns li").all_inner_texts()
    assert [turn.split("\n")[0] for turn in turns] == [f"Is {HOSTILE} kept?", "Wine?"]
    assert "rests on Memorization, work:x" in turns[0] and "no sentence" in turns[1]
    opened.locator("#run-3 ol.turns a").click()
    wait_open(opened, "taxonomy")


# ---- tables ----


def rows_grid(page: Page) -> Any:
    go(page, "run-2")
    closed = page.locator("#run-2 details.table-box:not([open]) > summary")
    while closed.count():  # each click takes one away
        closed.first.click()
    return page.locator('.grid[data-caption^="Measured rows of run 2"]').last


def first_column(grid: Any) -> list[str]:
    return [str(text) for text in grid.locator("tbody tr td:first-child").all_inner_texts()]


def test_cut_tables_say_so(opened: Page) -> None:
    grid = rows_grid(opened)
    assert f"of {N_ROWS:,}" in grid.inner_text() and "Every 50th row" in grid.inner_text()
    summary = opened.locator('.grid[data-caption*="in figures"]')
    cells = summary.locator("tbody tr").nth(1).locator("td").all_inner_texts()
    assert cells[:4] == ["number", "", str(N_ROWS), "0"] and cells[8] == str(N_ROWS - 1)


def test_sorting(opened: Page) -> None:
    grid = rows_grid(opened)
    head = grid.locator("th", has_text="score")
    column = "tbody tr td:nth-child(3)"

    def scores() -> list[float]:
        return [float(text) for text in grid.locator(column).all_inner_texts()]

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert scores() == sorted(scores()) and scores()[0] < 50
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert scores() == sorted(scores(), reverse=True) and scores()[0] > 14_000


def test_filter_and_pages(opened: Page) -> None:
    grid = rows_grid(opened)
    assert len(first_column(grid)) == 50
    begin = first_column(grid)
    grid.get_by_role("button", name="Next").click()
    assert first_column(grid)[0] != begin[0]
    grid.get_by_role("searchbox").fill("item 9995")
    assert first_column(grid) == ["item 99950"]
    assert grid.get_by_role("status").inner_text() == "1 of 2000 rows"
    grid.get_by_role("searchbox").fill("nothing has this")
    assert first_column(grid) == []


# ---- search ----


def test_search_finds_nodes_and_rows(opened: Page) -> None:
    opened.keyboard.press("/")
    opened.keyboard.type("glows summary")
    hits = opened.locator("#hits a")
    assert hits.count() == 1 and HOSTILE in hits.first.inner_text()
    opened.keyboard.press("Enter")
    opened.wait_for_url(lambda url: "#node-" in url)
    assert HOSTILE in opened.locator("#panel h2").inner_text()
    opened.locator("#search").fill("item 98700")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    grid = opened.locator('.grid[data-caption^="Measured rows of run 2"]').last
    grid.locator("tbody tr").first.wait_for(state="visible")
    assert first_column(grid) == ["item 98700"] and shown(opened) == ["run-2"]
    opened.locator("#search").fill("item")
    assert "the first 40 are listed" in opened.locator("#hit-count").inner_text()
    opened.keyboard.press("Escape")
    assert not opened.locator("#hits-box").is_visible()


# ---- taxonomy ----

RELATIONS = {"proposes:", "supports:", "contradicts:", "measures:", "surveys:"}


def transform(page: Page) -> str:
    return str(page.locator("#map-view").get_attribute("transform"))


def test_clicking_a_node_lists_its_works(opened: Page) -> None:
    go(opened, "taxonomy")
    opened.locator("#map .node", has_text="Memorization").first.click()
    panel = opened.locator("#panel")
    assert panel.locator("h2").inner_text() == "Memorization"
    text = panel.inner_text()
    assert "Literature, work by work" in text and "the survey says so" in text
    assert "toy mean: 0.5 [0.4, 0.6] share, n = 30" in text
    assert [word for word in WORDS if word in text] == list(WORDS)
    relations = {text.strip() for text in panel.locator(".relation").all_inner_texts()}
    assert relations and relations <= RELATIONS
    assert " works" not in text  # listed, never counted


def test_zoom_and_pan(opened: Page) -> None:
    go(opened, "taxonomy")
    before = transform(opened)
    opened.get_by_role("button", name="Zoom in").click()
    assert transform(opened) != before
    opened.get_by_role("button", name="Fit").click()
    assert transform(opened) == before
    box = opened.locator("#map").bounding_box()
    opened.mouse.move(box["x"] + 60, box["y"] + box["height"] - 20)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 160, box["y"] + box["height"] - 80, steps=4)
    opened.mouse.up()
    x, y = (float(part) for part in before.split("(")[1].split(")")[0].split())
    moved = transform(opened).split("(")[1].split(")")[0].split()
    assert [float(part) for part in moved] == pytest.approx([x + 100, y - 60])


def test_the_tree_by_keyboard(opened: Page) -> None:
    go(opened, "taxonomy")
    opened.locator("#map .node[tabindex='0']").focus()
    label = "document.activeElement.getAttribute('aria-label')"
    root = opened.evaluate(label)
    opened.keyboard.press("ArrowRight")
    first = opened.evaluate(label)
    assert "level 1" in root and "level 2" in first
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("End")
    last = opened.evaluate(label)
    assert last not in (root, first)
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    opened.keyboard.press("ArrowLeft")
    assert opened.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    opened.keyboard.press("Enter")
    assert opened.locator("#panel h2").inner_text() == last.split(",")[0]
    opened.keyboard.press("Home")
    assert opened.evaluate(label) == root
    assert opened.locator("#map .node[tabindex='0']").count() == 1


def test_all_and_none(opened: Page) -> None:
    go(opened, "taxonomy")
    opened.get_by_role("button", name="Open all").click()
    n = opened.evaluate(
        "JSON.parse(document.getElementById('atlas-data').textContent).nodes.length"
    )
    assert opened.locator("#map .node").count() == n > 100
    opened.get_by_role("button", name="Close all").click()
    assert opened.locator("#map .node").count() < 12


# ---- themes ----

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WHITE, BLACK = "rgb(255, 255, 255)", "rgb(20, 23, 27)"


def test_themes(opened: Page) -> None:
    assert opened.evaluate(BACKGROUND) == WHITE
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(BACKGROUND) == BLACK
    button = opened.locator("#theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert opened.evaluate(BACKGROUND) == WHITE
    opened.reload()
    assert opened.evaluate(BACKGROUND) == WHITE
    opened.emulate_media(color_scheme="light")
    opened.locator("#theme").click()
    assert opened.evaluate(BACKGROUND) == BLACK
    opened.emulate_media(media="print")
    assert opened.evaluate(BACKGROUND) == WHITE
    assert shown(opened) == list(SECTIONS)
    assert not opened.locator("#search").is_visible()


def test_narrow_windows_do_not_scroll_sideways(opened: Page) -> None:
    opened.set_viewport_size({"width": 360, "height": 740})
    for section in SECTIONS:
        go(opened, section)
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360, section


# ---- safety ----


def test_hostile_labels_stay_text(opened: Page) -> None:
    for section in SECTIONS:
        go(opened, section)
    opened.goto(opened.url.split("#")[0] + "#taxonomy")
    opened.get_by_role("button", name="Open all").click()
    opened.locator("#search").fill("onerror")
    assert opened.locator("#hits a").count() > 3
    assert opened.locator("img").count() == 0
    assert opened.locator("script:not([type])").count() == 2
    everything = opened.evaluate("document.body.innerHTML + document.body.textContent")
    assert HOSTILE in opened.evaluate("document.body.textContent") and ENDING[:9] in everything
    handlers = "[...document.querySelectorAll('*')].some(e => [...e.attributes].some("
    assert not opened.evaluate(handlers + "a => /^on|^style$/.test(a.name)))")


def test_the_policy_refuses_other_scripts(browser: Any, report: Path) -> None:
    page = browser.new_page()
    watch = Watch(page)
    page.goto(report.as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); const i = document.createElement('img');"
        " i.src = 'data:,'; document.body.append(i); }"
    )
    assert page.evaluate("window.ran") is None
    assert len(watch.said) == 2 and all("Content Security Policy" in line for line in watch.said)
    page.close()


# ---- access ----


@pytest.mark.parametrize(
    ("scheme", "rules"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})]
)
def test_axe_finds_nothing(browser: Any, report: Path, scheme: str, rules: Any) -> None:
    """Roles, names, contrast, landmarks, headings: axe-core's rules on every section."""
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page = browser.new_page(color_scheme=scheme)
    page.goto(report.as_uri())
    page.evaluate(axe)
    for section in SECTIONS:
        go(page, section)
        found = page.evaluate("rules => axe.run(rules).then(r => r.violations)", rules)
        told = [(v["id"], [node["html"][:160] for node in v["nodes"][:3]]) for v in found]
        assert told == [], section
    page.close()


def test_order_of_the_focus(opened: Page) -> None:
    """Tab goes through skip link, search, switch and contents; each stop can be seen."""
    stops = []
    for _ in range(8):
        opened.keyboard.press("Tab")
        stops.append(
            opened.evaluate(
                "(e => [e.id || e.textContent.trim(), getComputedStyle(e).outlineStyle])"
                "(document.activeElement)"
            )
        )
    names = [name for name, _ in stops]
    assert names[:4] == ["Skip to the content", "search", "theme", "Overview"]
    assert names[4:7] == ["Verdicts", "Taxonomy", "Runs and provenance"]
    assert all(outline != "none" for _, outline in stops)
