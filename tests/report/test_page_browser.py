"""The page in a real Chromium: table, gallery, keys and looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from lens_bench.records import Prediction, Sample
from lens_bench.report.page.build import PageOptions, report

from .made_runs import perf, write_run
from .made_suite import SIDE, Suite, corner, run_suite, shifted, write_suite

pytest.importorskip("selenium", reason="selenium is not installed (extra `dev`)")
from selenium.webdriver.common.keys import Keys

if TYPE_CHECKING:
    from .browser import Browser

N = 60


def options(suite: Suite) -> PageOptions:
    return PageOptions(data_root=suite.data_root, suite=str(suite.card))


def offset(number: int) -> int:
    """How far the answers of the toy run are off: another for every expression."""
    return number % N // 2


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of sixty expressions; the higher the number, the worse the answer."""
    root = tmp_path_factory.mktemp("one")
    suite = write_suite(root, [f"thing number {i}" for i in range(N)])

    def answer(number: int, sample: Sample) -> Prediction:
        if number == 7:
            return Prediction(sample.id, "no_mask", text="I see nothing.")
        return shifted(
            number, sample, offset(number), f"Thought of {number}.\nSo it is {'left' if number % 2 else 'right'}."
        )

    run = run_suite(suite, root / "runs", answer, speed=perf())
    report([run.root], options=options(suite))
    return run.report


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ on every third expression."""
    root = tmp_path_factory.mktemp("two")
    suite = write_suite(root, [f"thing number {i}" for i in range(N)])
    a = run_suite(suite, root / "a", lambda n, s: shifted(n, s, 5, "short"), speed=perf())
    b = run_suite(suite, root / "b", lambda n, s: shifted(n, s, 30 if n == 12 else 5 - n % 3), "model-b", speed=perf())
    report([a.root, b.root], root / "two.html", options(suite))
    return root / "two.html"


# ---------------------------------------------------------------------------------------------- table


def test_it_opens_without_an_error_or_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.drawn()
    assert browser.driver.get_log("browser") == []
    outside = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert browser.count() == "60 samples"
    assert browser.js("return scrollY") == 0, "it opens at the top"


def test_columns_sort_both_ways(browser: Browser, page: Path) -> None:
    browser.open(page)
    heads = browser.texts("#heads button")
    place = heads.index("IoU") + 1
    click = f"document.querySelectorAll('#heads button')[{place - 1}].click()"
    for direction in ("descending", "ascending"):
        browser.js(click)
        values = [float(v) for v in browser.column(place)]
        assert len(set(values)) > 5
        assert values == sorted(values, reverse=direction == "descending")
        assert browser.find(f"#heads th:nth-child({place})").get_attribute("aria-sort") == direction
    browser.js("document.querySelectorAll('#heads button')[1].click()")
    names = browser.column(2)
    assert names[:3] == ["thing number 0", "thing number 1", "thing number 2"], "digits are compared as numbers"


def test_filters_narrow_the_table_and_reset(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.type("#search", "LEFT number 3")
    expected = [n for n in range(N) if n % 2 and n != 7 and "3" in f"{n} p{n // 2:03d}"]
    assert browser.count() == f"{len(expected)} of 60", "answers are searched too; words in any order and case"
    assert browser.column(2) == [f"thing number {n}" for n in expected]
    browser.find("#filters button[type=reset]").click()
    browser.wait("return document.getElementById('count').textContent === '60 samples'")
    browser.choose("tag", "part")
    browser.wait("return document.getElementById('count').textContent === '15 of 60'")
    browser.type("#low", "50")
    browser.type("#high", "80")
    place = browser.texts("#heads button").index("IoU") + 1
    values = [float(v) for v in browser.column(place)]
    assert values
    assert all(50 <= v <= 80 for v in values)
    browser.type("#search", "no such thing at all")
    assert browser.texts("#body .none td") == ["No sample fits these filters."]


def test_status_filter_finds_the_one_without_an_answer(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.choose("status", "n")
    browser.wait("return document.getElementById('count').textContent === '1 of 60'")
    browser.find("#body tr[data-row]").click()
    assert browser.row() == 7
    assert "no answer" in browser.find("#viewer").text
    assert "I see nothing." in browser.find("#viewer pre.text").text


def test_only_rows_in_sight_are_in_the_document_and_scrolling_brings_the_rest(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert len(browser.column(1)) < N
    browser.js("const t = document.getElementById('table'); t.scrollTop = t.scrollHeight")
    browser.wait("return !!document.querySelector('#body tr[data-row=\"59\"]')")
    assert browser.find("#body tr[data-row='59']").get_attribute("aria-rowindex") == "61"


def test_a_run_without_an_answer_says_so(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path, [], n_samples=3)
    report([run.root], options=PageOptions(data_root=tmp_path))
    browser.open(run.report)
    assert browser.driver.get_log("browser") == []
    assert browser.find("#viewer").text == browser.find("#body .none").text == "No expression was answered."


# ---------------------------------------------------------------------------------------------- gallery and keys


def test_arrows_move_through_the_gallery(browser: Browser, page: Path) -> None:
    browser.open(page)
    found = browser.js("return JSON.parse(document.getElementById('data').textContent).lists")
    lists = {entry["name"]: entry["rows"] for entry in cast("list[dict[str, list[int]]]", found)}
    worst = lists["worst"]
    assert browser.row() == worst[0] == 7
    browser.key(Keys.ARROW_RIGHT)
    browser.key(Keys.ARROW_RIGHT)
    assert browser.row() == worst[2]
    browser.key(Keys.ARROW_LEFT)
    assert browser.row() == worst[1]
    for _ in range(3):
        browser.key(Keys.ARROW_LEFT)
    assert browser.row() == worst[0], "the first stays the first"
    assert browser.find("#strip [aria-current=true]").get_attribute("data-at") == "0"
    browser.find("#lists [data-list=best]").click()
    assert browser.row() == lists["best"][0]
    browser.find("#strip button:nth-child(4)").click()
    assert browser.row() == lists["best"][3]
    assert browser.find("#viewer pre.text").text.startswith(f"Thought of {lists['best'][3]}.")


def test_slash_searches_and_arrows_in_the_field_stay_there(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.row()
    browser.key("/")
    assert browser.driver.switch_to.active_element.get_attribute("id") == "search"
    browser.key("abc" + Keys.ARROW_LEFT + "/")
    assert browser.find("#search").get_attribute("value") == "ab/c"
    assert browser.row() == before
    browser.key(Keys.ESCAPE)
    browser.key(Keys.ARROW_RIGHT)
    assert browser.row() != before


def test_the_table_is_walked_and_opened_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js("document.querySelector('#body tr[tabindex=\"0\"]').focus()")
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP):
        browser.key(key)
    browser.key(Keys.ENTER)
    assert browser.row() == 2
    browser.key(Keys.ARROW_RIGHT)
    assert browser.row() == 3, "arrows go on in the order of the table"
    assert browser.find("#body tr[aria-selected=true]").get_attribute("data-row") == "3"
    browser.js("document.querySelector('#body tr[tabindex=\"0\"]').focus()")
    browser.key(Keys.END)
    browser.key(Keys.ENTER)
    assert browser.row() == 59


def test_the_address_names_the_sample(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.key(Keys.ARROW_RIGHT)
    shown = browser.row()
    address = browser.driver.current_url
    assert address.endswith(f"#sample=toy%2F{shown}")
    browser.driver.get("about:blank")
    browser.driver.get(address)
    browser.wait("return document.documentElement.dataset.startMs !== undefined")
    assert browser.row() == shown


def test_overlays_show_hits_and_both_kinds_of_error(browser: Browser, page: Path) -> None:
    browser.open(page)
    number = 50
    browser.driver.get(f"{page.as_uri()}#sample=toy%2F{number}")
    browser.driver.refresh()
    browser.wait("return document.documentElement.dataset.startMs !== undefined")
    browser.drawn()
    x, y = corner(number)
    off = offset(number)
    assert 0 < off < SIDE
    middle = y + SIDE / 2
    ground = browser.pixel(2, 2)
    hit, wrong, missed = (
        browser.pixel((x + off + x + SIDE) / 2, middle),
        browser.pixel(x + SIDE + 4, middle),
        browser.pixel(x + 4, middle),
    )
    assert abs(ground[0] - 200) < 12, "the picture is under the overlay"
    assert hit[1] - hit[0] > 20, "hits are green"
    assert wrong[0] - wrong[2] > ground[0] - ground[2] - 60
    assert wrong[0] > wrong[1] > wrong[2], "false positives are orange"
    assert missed[2] > ground[2] + 40, "what was missed is blue"
    browser.key("4")
    browser.wait("return document.querySelector('#viewer canvas').dataset.drawn.endsWith('picture')")
    for place in ((x + off + 5, middle), (x + SIDE + 4, middle), (x + 4, middle)):
        assert max(abs(a - b) for a, b in zip(browser.pixel(*place), ground, strict=True)) < 12
    browser.key("2")
    browser.wait("return document.querySelector('#viewer canvas').dataset.drawn.endsWith('truth')")
    assert browser.pixel(x + 4, middle) != ground
    assert max(abs(a - b) for a, b in zip(browser.pixel(x + SIDE + 4, middle), ground, strict=True)) < 12
    assert browser.texts("#legend li") == ["ground truth"]


def test_two_runs_are_drawn_side_by_side(browser: Browser, two: Path, artefacts: Path) -> None:
    browser.open(two)
    browser.drawn(0)
    browser.drawn(1)
    assert browser.row() == 12, "the sample that changed most comes first"
    assert browser.find("#lists [aria-pressed=true]").text == "Most changed"
    x, y = corner(12)
    assert browser.pixel(x + 2, y + 20, panel=0)[2] > 100
    assert browser.pixel(x + SIDE + 20, y + 20, panel=0) != browser.pixel(x + SIDE + 20, y + 20, panel=1)
    heads = browser.texts("#heads button")
    assert heads[-3:] == ["IoU A", "IoU B", "B − A"]
    browser.js(f"document.querySelectorAll('#heads button')[{len(heads) - 1}].click()")
    browser.js(f"document.querySelectorAll('#heads button')[{len(heads) - 1}].click()")
    assert browser.column(len(heads))[0].startswith("−"), "the largest loss comes first in ascending order"
    assert "better" in browser.find("#metrics .lead").text
    browser.driver.save_screenshot(str(artefacts / "report-two-runs.png"))


# ---------------------------------------------------------------------------------------------- looks


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_the_system_and_is_readable(browser: Browser, two: Path, artefacts: Path, dark: bool) -> None:
    browser.open(two)
    browser.dark(dark)
    ground = browser.colour("body", "backgroundColor")
    assert (luminance(ground) < 0.05) == dark
    browser.js("document.querySelector('#metrics td.num').classList.add('gain')")
    for selector in ("body", ".lead", "nav a", ".eyebrow", ".figures thead th", "td.loss", "td.gain", ".keys"):
        assert contrast(browser.colour(selector, "color"), ground) >= 4.5, selector
    pressed = "#layers [aria-pressed=true]"
    assert contrast(browser.colour(pressed, "color"), browser.colour(pressed, "backgroundColor")) >= 4.5
    browser.driver.save_screenshot(str(artefacts / f"report-{'dark' if dark else 'light'}.png"))


def test_the_button_overrides_the_system(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.dark(False)
    button = browser.find("#theme")
    assert button.text == "Dark"
    button.click()
    assert luminance(browser.colour("body", "backgroundColor")) < 0.05
    assert (button.text, button.get_attribute("aria-pressed")) == ("Light", "true")
    button.click()
    assert luminance(browser.colour("body", "backgroundColor")) > 0.8


def test_a_narrow_window_does_not_scroll_sideways(browser: Browser, two: Path, artefacts: Path) -> None:
    browser.open(two)
    size = browser.driver.get_window_size()
    browser.driver.set_window_size(500, 900)
    try:
        assert browser.js("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        browser.driver.save_screenshot(str(artefacts / "report-narrow.png"))
    finally:
        browser.driver.set_window_size(size["width"], size["height"])


def test_every_control_has_a_name_and_every_picture_a_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    nameless = browser.js("""
        const named = (node) => node.getAttribute("aria-label") || node.getAttribute("aria-labelledby")
            || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
        const kinds = "button, input, select, a, [role=img], [role=region], [role=group]";
        const shown = [...document.querySelectorAll(kinds)];
        return shown.filter((node) => !named(node)).map((node) => node.outerHTML)
            .concat([...document.querySelectorAll("img:not([alt])")].map((node) => node.outerHTML));
    """)
    assert nameless == []
