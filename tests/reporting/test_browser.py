"""The page in a real browser: no console messages, no network requests, no horizontal overflow, printable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Tab, tab
from report_cases import bare, full

from rayrec.reporting.html_report import render

pytestmark = [
    pytest.mark.slow,  # a browser
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

_CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll('h1, p, td, th, dt, dd, a')].filter(e => e.textContent.trim());
  return Math.min(...texts.map(e => light(getComputedStyle(e).color))
    .map(ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05))); })()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    for name, data in (("full", full()), ("bare", bare())):
        (folder / f"{name}.html").write_text(render(data), encoding="utf8")
    return {name: Path(folder, f"{name}.html").as_uri() for name in ("full", "bare")}


@pytest.fixture
def page() -> Iterator[Tab]:
    with tab() as opened:
        yield opened


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("name", ["full", "bare"])
def test_the_page_is_no_wider_than_the_window_and_the_console_stays_silent(
    page: Tab, pages: dict[str, str], name: str, width: int
) -> None:
    page.open(pages[name], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('section, details.section').length") == 13
    assert page.complaints == []
    assert page.requests == [pages[name]]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_contrast_is_sufficient_in_both_themes(page: Tab, pages: dict[str, str], dark: bool) -> None:
    page.open(pages["full"], 1400, dark=dark)
    assert page.evaluate(_CONTRAST) >= 4.5  # WCAG 2.1 AA


def test_the_printed_page_is_not_cut_off(page: Tab, pages: dict[str, str]) -> None:
    page.open(pages["full"], 720, media="print")
    wider = (
        "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert page.evaluate(wider) == 0
