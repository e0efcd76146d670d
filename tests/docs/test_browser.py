"""The site and the example's reports in a real browser: quiet consoles, whole pictures, readable at a phone's width, light and dark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.browser import Browser, excuse, missing_programs, open_browser, served
from tests.docs.snippets import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),
]

PHONE, DESK = 390, 1280
# WCAG's level AA for body text, and the smallest type that is comfortable on a phone.
CONTRAST, TYPE = 4.5, 12

MATHEMATICS_DONE = "return window.MathJax?.startup?.promise?.then(() => true);"
BROKEN_IMAGES = """
return [...document.images]
  .filter(image => getComputedStyle(image).display !== "none" && !(image.complete && image.naturalWidth > 0))
  .map(image => image.src);
"""
# Elements that stick out of the window although nothing around them scrolls.
TOO_WIDE = """
const page = document.documentElement;
if (page.scrollWidth <= page.clientWidth) return [];
const wide = [...document.body.querySelectorAll("*")].filter(each => each.getBoundingClientRect().right > page.clientWidth + 1);
return ["page " + page.scrollWidth].concat(wide.slice(0, 5).map(each => each.tagName + "." + each.className));
"""
READABLE = """
const parse = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const luminance = colour => {
  const [r, g, b] = colour.slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const canvas = document.body.appendChild(document.createElement("i"));
canvas.style.background = "Canvas"; // what lies below everything follows the page's colour scheme
const bottom = parse(getComputedStyle(canvas).backgroundColor);
canvas.remove();
// Tinted backgrounds let through what lies behind them.
const background = element => element
  ? over(parse(getComputedStyle(element).backgroundColor), background(element.parentElement)) : bottom;
const root = document.querySelector(".md-content") || document.body;
return [...root.querySelectorAll("p, li, td, h1")].filter(each => each.innerText && each.offsetParent).map(each => {
  const style = getComputedStyle(each);
  const [a, b] = [luminance(over(parse(style.color), background(each))), luminance(background(each))].sort((x, y) => y - x);
  return [[...each.innerText].slice(0, 40).join(''), parseFloat(style.fontSize), (a + 0.05) / (b + 0.05)];
});
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One window for all pages."""
    if missing := missing_programs():
        excuse(missing)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with served(site) as url:
        yield url


def _pages() -> list[str]:
    pages = [path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*.md"))]
    return [str(page.parent if page.name == "index.md" else page.with_suffix("")) for page in pages]


def _assert_fine(browser: Browser, url: str, width: int, dark: bool) -> None:
    browser.open(url, width=width, dark=dark)
    browser.run(MATHEMATICS_DONE)
    # Pictures further down load when they come into view.
    browser.run("for (const image of document.images) image.loading = 'eager';")
    browser.run("return Promise.all([...document.images].map(image => image.decode().catch(() => null)));")
    assert browser.console() == []
    assert browser.run(BROKEN_IMAGES) == []
    assert browser.run("return document.documentElement.clientWidth;") == width, (
        "without a viewport a phone shows a page for desks, in small print"
    )
    assert browser.run(TOO_WIDE) == []
    texts = browser.run(READABLE)
    assert texts, "no text on the page"
    assert [text for text in texts if text[1] < TYPE] == []
    assert [text for text in texts if text[2] < CONTRAST] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("page", _pages())
def test_a_page_is_quiet_whole_and_readable(browser: Browser, address: str, page: str, width: int, dark: bool) -> None:
    _assert_fine(browser, f"{address}/{page}/", width, dark)
    scheme = browser.run("return document.body.getAttribute('data-md-color-scheme');")
    assert scheme == ("slate" if dark else "default")
    assert browser.run("return document.querySelectorAll('mjx-merror, [data-mml-node=merror]').length;") == 0


def test_mathematics_is_set(browser: Browser, address: str) -> None:
    browser.open(f"{address}/how-it-works/")
    browser.run(MATHEMATICS_DONE)
    assert browser.run("return document.querySelectorAll('mjx-container svg').length;") > 20


def test_the_search_finds(browser: Browser, address: str) -> None:
    browser.open(f"{address}/?q=ProjectedOptimizer")
    found = browser.run(
        """return new Promise(done => {
             const look = () => {
               const hits = document.querySelectorAll(".md-search-result__item").length;
               hits ? done(hits) : setTimeout(look, 100);
             };
             setTimeout(() => done(0), 20000);
             look();
           });"""
    )
    assert found > 0
    assert browser.console() == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's report on its published results, written anew."""
    folder = tmp_path_factory.mktemp("report")
    command = [sys.executable, "-m", "examples.leetcode_grpo", "report", "examples/leetcode_grpo/results/smollm2"]
    subprocess.run([*command, "--out", str(folder)], cwd=ROOT, check=True, capture_output=True)
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK], ids=["phone", "desk"])
def test_the_report_is_quiet_whole_and_readable(browser: Browser, report: Path, width: int, dark: bool) -> None:
    with served(report.parent) as url:
        _assert_fine(browser, f"{url}/{report.name}", width, dark)


def test_what_is_looked_for_is_seen(browser: Browser, tmp_path: Path) -> None:
    """A page with every fault: each check has to find its own."""
    (tmp_path / "bad.html").write_text(
        "<meta name='viewport' content='width=device-width'><body style='background: #fff'><p style='color: #ccc; font-size: 9px'>faint</p><div style='width: 900px'>wide</div>"
        "<img src='absent.png'><script>throw new Error('loud')</script></body>"
    )
    with served(tmp_path) as url:
        browser.open(f"{url}/bad.html", width=PHONE)
        console = " ".join(browser.console())
        assert "loud" in console
        assert "absent.png" in console
        assert browser.run(BROKEN_IMAGES) == [f"{url}/absent.png"]
        assert browser.run(TOO_WIDE)
        ((_, size, contrast),) = browser.run(READABLE)
        assert size < TYPE
        assert contrast < CONTRAST
