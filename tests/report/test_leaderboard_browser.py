"""The leaderboard page in a real Chromium: sorting, filtering, dark mode, and that no text of a result runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lens_bench.report.leaderboard import build, write_html

from .made_runs import perf, score, write_run

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published.csv"
HOSTILE = "<img src=x onerror='window.ran=1'><script>window.ran=1</script>"
SPEEDS = {"slow": 2.0, "fast": 100.0, "middle": 30.0, "unknown": None}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    for i, (model, speed) in enumerate(SPEEDS.items()):
        scores = [score(n, 0.4 + 0.1 * i, tags=()) for n in range(12)]
        write_run(folder, scores, model=model, suite="refcoco", speed=perf(images_per_s=speed))
    board = build(folder, PUBLISHED, suite="refcoco")
    rows = [replace(r, model=HOSTILE, notes=(HOSTILE,)) if r.model == "LENS-2B" else r for r in board.rows]
    write_html(replace(board, rows=tuple(rows), notes=(HOSTILE,)), folder / "board.html")
    return folder / "board.html"


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.get(page.as_uri())
    return driver


def column(driver: webdriver.Chrome, title: str) -> list[str]:
    """Models of the first measured table, in the order shown, after a click on the heading ``title``."""
    table = driver.find_element(By.CSS_SELECTOR, "table[aria-label='refcoco val, measured']")
    next(b for b in table.find_elements(By.TAG_NAME, "button") if b.text == title).click()
    return [r.find_elements(By.TAG_NAME, "td")[1].text for r in table.find_elements(By.CSS_SELECTOR, "tbody tr")]


def test_a_heading_sorts_by_number_both_ways_with_what_is_missing_last(opened: webdriver.Chrome) -> None:
    assert column(opened, "Images/s") == ["fast", "middle", "slow", "unknown"]
    assert column(opened, "Images/s") == ["slow", "middle", "fast", "unknown"]
    assert column(opened, "Model") == ["fast", "middle", "slow", "unknown"]
    assert column(opened, "cIoU %") == ["unknown", "middle", "fast", "slow"]
    assert column(opened, "#") == ["unknown", "middle", "fast", "slow"]


def test_the_filter_hides_rows_and_empty_tables(opened: webdriver.Chrome) -> None:
    def visible() -> set[str]:
        rows = opened.find_elements(By.CSS_SELECTOR, "tbody tr")
        return {r.find_elements(By.TAG_NAME, "td")[1].text for r in rows if r.is_displayed()}

    opened.switch_to.active_element.send_keys("/")
    box = opened.switch_to.active_element
    assert box.get_attribute("id") == "find"
    box.send_keys("LENS-3b")
    assert visible() == {"LENS-3B"}
    assert not opened.find_element(By.CSS_SELECTOR, "table[aria-label='refcoco val, measured']").is_displayed()
    box.clear()
    box.send_keys("nothing has this")
    assert visible() == set()


def test_nothing_of_a_result_runs_and_nothing_is_fetched(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return window.ran") is None
    assert HOSTILE in {e.text for e in opened.find_elements(By.CSS_SELECTOR, "td")}
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert opened.get_log("browser") == []


def test_light_and_dark(opened: webdriver.Chrome, artefacts: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        shades[scheme] = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        opened.execute_script("document.querySelectorAll('h2')[1].scrollIntoView()")
        assert opened.save_screenshot(str(artefacts / f"leaderboard-{scheme}.png"))
    assert shades == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}
