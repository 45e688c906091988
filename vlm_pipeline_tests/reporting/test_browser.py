"""The page in a real browser: filters, sorting, details, colour schemes, widths, and hostile text that stays text."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from vlm_pipeline.reporting import BuiltReport, build_report
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.reporting.browser import chromium, prefer, resize, wait_for_rows
from vlm_pipeline_tests.reporting.synthetic import HOSTILE, LONG_NAMES, make_inputs

CSS = "css selector"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def report(browser: Any, built: BuiltReport) -> Any:
    """The page, freshly opened from disk."""
    return _opened(browser, built)


KINDS = {
    "hostile": {},  # the report of all other tests
    "scores": {
        "score": True,
        "predictors": 5,
        "reward": True,
        "count": 60,
        "pages": 12,
    },  # and what changed since
    "long names": {"predictors": 8, "count": 240, "pages": 120, "units": True, **LONG_NAMES},
}


@pytest.fixture(scope="module", params=list(KINDS))
def any_report(request: Any, built: BuiltReport, tmp_path_factory: pytest.TempPathFactory) -> BuiltReport:
    """Reports that look differently: other figures, more predictors, long names."""
    if request.param == "hostile":
        return built
    folder = tmp_path_factory.mktemp("other")
    previous = {"decision": {"verdict": "worse"}, "data_version": "before", "sections": ["gone"]}
    return build_report(make_inputs(folder, **KINDS[request.param], previous=previous), folder / "report")


def _opened(browser: Any, built: BuiltReport, width: int = 1280) -> Any:
    resize(browser, width)
    prefer(browser, "light")
    browser.get("about:blank")
    browser.get(built.index.as_uri())
    wait_for_rows(browser)
    return browser


def _choose(driver: Any, name: str, value: str) -> None:
    """Set a filter as a person does: the value, then the event that the change fires."""
    script = """const field = document.getElementById('filters').elements[arguments[0]];
        field.value = arguments[1]; field.dispatchEvent(new Event('input', {bubbles: true}));"""
    driver.execute_script(script, name, value)
    _settle(driver)


def _settle(driver: Any) -> None:
    driver.execute_async_script("setTimeout(arguments[0], 250)")


def _ids(driver: Any) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.open-row')].map((b) => b.textContent)"
    )


def _count(driver: Any) -> int:
    return int(driver.find_element(CSS, "#rows-count").text.split(" of ")[0].replace(",", ""))


def _by_outcome(built: BuiltReport, predictor: str, code: str) -> set[str]:
    document = read_json(built.folder / "report.json")
    return {i for i, o in zip(document["row_ids"], document["outcomes"][predictor], strict=True) if o == code}


def test_filters_show_exactly_the_rows_that_they_name(report: Any, built: BuiltReport) -> None:
    assert _count(report) == 60 and len(_ids(report)) == 25
    _choose(report, "section", "fluids")
    assert _count(report) == 10 and all(i.startswith("fluids-") for i in _ids(report))
    _choose(report, "outcome", "wrong")
    wrong = {i for i in _by_outcome(built, "tuned", "w") if i.startswith("fluids-")}
    assert set(_ids(report)) == wrong
    _choose(report, "predictor", "0")
    assert set(_ids(report)) == {i for i in _by_outcome(built, "base", "w") if i.startswith("fluids-")}
    report.find_element(CSS, "#reset").click()
    _settle(report)
    assert _count(report) == 60
    _choose(report, "outcome", "unscored")
    assert _count(report) == len(_by_outcome(built, "tuned", "u"))


def test_finding_text_looks_at_every_answer(report: Any) -> None:
    _choose(report, "find", "hyperlink")
    assert _ids(report) == ["clearances-00001"]
    _choose(report, "find", "no such words anywhere")
    assert _count(report) == 0 and _ids(report) == []


def test_sorting_by_header_and_paging(report: Any) -> None:
    header = report.find_element(CSS, "th[data-sort=id] button")
    header.click()
    _settle(report)
    ascending = _ids(report)
    assert ascending == sorted(ascending)
    assert report.find_element(CSS, "th[data-sort=id]").get_attribute("aria-sort") == "ascending"
    header.click()
    _settle(report)
    assert _ids(report)[0].startswith("torque") and _ids(report) == sorted(_ids(report), reverse=True)
    report.find_element(CSS, "#next").click()
    assert report.find_element(CSS, "#page-number").text == "Page 2 of 3"
    report.find_element(CSS, "#next").click()
    assert len(_ids(report)) == 10 and not report.find_element(CSS, "#next").is_enabled()


def test_worst_changes_come_first_when_sorted_by_change(report: Any, built: BuiltReport) -> None:
    _choose(report, "sort", "gain")
    base_right, tuned_right = (_by_outcome(built, name, "r") for name in ("base", "tuned"))
    worse = base_right - tuned_right
    assert set(_ids(report)[: len(worse)]) == worse
    _choose(report, "outcome", "worse")
    assert set(_ids(report)) == worse


def test_rows_of_a_weak_section_open(report: Any) -> None:
    summary = report.find_element(CSS, "#weak details summary")
    summary.click()
    card = report.find_element(CSS, "#weak .card")
    assert card.is_displayed() and card.find_element(CSS, "img").get_property("naturalWidth") > 100
    assert len(card.find_elements(CSS, ".answer")) == 2


def test_details_show_every_answer_with_what_was_read(report: Any) -> None:
    _choose(report, "outcome", "right")
    button = report.find_element(CSS, ".open-row")
    button.send_keys("\ue007")  # the Enter key: the row opens without a mouse
    detail = report.find_element(CSS, "tr.detail")
    assert button.get_attribute("aria-expanded") == "true"
    assert len(detail.find_elements(CSS, ".answer")) == 3
    assert (
        detail.find_element(CSS, ".answer:nth-child(2) mark").text
        in detail.find_element(CSS, ".expected").text
    )
    assert detail.find_element(CSS, "img").get_property("naturalWidth") > 100
    assert "loopback stand-in" in detail.text
    button.send_keys("\ue007")
    assert not report.find_elements(CSS, "tr.detail") and button.get_attribute("aria-expanded") == "false"


def test_a_link_to_a_row_opens_it(report: Any, built: BuiltReport) -> None:
    report.get("about:blank")
    report.get(built.index.as_uri() + "#row=clearances-00059")
    wait_for_rows(report)
    assert report.find_element(CSS, "tr.detail code").text == "clearances-00059"
    report.execute_script("location.hash = '#row=torque-00000'")
    _settle(report)
    assert "torque-00000" in [e.text for e in report.find_elements(CSS, "tr.detail code")]


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_answers_are_shown_as_text_and_nothing_runs(
    report: Any, built: BuiltReport, kind: str
) -> None:
    row = read_json(built.folder / "report.json")["row_ids"][list(HOSTILE).index(kind)]
    report.execute_script("location.hash = arguments[0]", f"#row={row}")
    _settle(report)
    text = report.find_element(CSS, "tr.detail .answer:nth-child(2) .text")
    if kind == "long":
        text.find_element(CSS, "button").click()
        text = report.find_element(CSS, "tr.detail .answer:nth-child(2) .text")
    assert text.get_property("textContent") == HOSTILE[kind]
    assert report.execute_script("return [window.owned === undefined, document.title]") == [
        True,
        "Manual questions: Better",
    ]
    assert not report.find_elements(CSS, "tr.detail script, tr.detail .text img, tr.detail .text a")


def test_right_to_left_text_keeps_to_its_own_box(report: Any, built: BuiltReport) -> None:
    row = read_json(built.folder / "report.json")["row_ids"][list(HOSTILE).index("rtl")]
    report.execute_script("location.hash = arguments[0]", f"#row={row}")
    _settle(report)
    script = """const e = document.querySelector('tr.detail .answer:nth-child(2) .text'), s = getComputedStyle(e);
        return [e.matches(':dir(rtl)'), s.unicodeBidi, document.documentElement.matches(':dir(ltr)')]"""
    assert report.execute_script(script) == [True, "isolate", True]


def test_the_console_is_silent_and_nothing_is_requested(report: Any) -> None:
    report.get_log("browser")
    report.refresh()
    wait_for_rows(report)
    assert report.get_log("browser") == []
    requested = report.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in requested if not name.startswith("data:")] == []


_LIGHTNESS = """const rgb = getComputedStyle(arguments[0])[arguments[1]].match(/[\\d.]+/g).map(Number);
    const f = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(rgb[0]) + 0.7152 * f(rgb[1]) + 0.0722 * f(rgb[2]);"""


def _contrast(driver: Any, element: Any, colour: str = "color") -> float:
    paper = driver.execute_script(_LIGHTNESS, driver.find_element(CSS, "body"), "backgroundColor")
    ink = driver.execute_script(_LIGHTNESS, element, colour)
    return (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_are_readable_in_both_colour_schemes(report: Any, scheme: str) -> None:
    prefer(report, scheme)
    paper = report.execute_script(_LIGHTNESS, report.find_element(CSS, "body"), "backgroundColor")
    assert (paper > 0.9) if scheme == "light" else (paper < 0.05)
    for selector in ("h1", ".note", "figcaption small", ".contents a", "td span", "thead th"):
        assert _contrast(report, report.find_element(CSS, selector)) >= 4.5, selector
    for selector in (
        "svg.figure text",
        "#figure-forest svg.figure .f-p1",
        ".swatch .f-p0",
        "#figure-forest svg.figure .f-p2",
    ):
        assert _contrast(report, report.find_element(CSS, selector), "fill") >= 3, selector


def test_the_button_overrides_the_system_scheme(report: Any) -> None:
    button = report.find_element(CSS, "#scheme")
    report.execute_script("localStorage.clear()")
    while "dark" not in button.text:
        button.click()
    assert report.execute_script(_LIGHTNESS, report.find_element(CSS, "body"), "backgroundColor") < 0.05
    button.click()
    assert button.text == "Colours: auto"


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_nothing_overflows_at_three_widths(browser: Any, any_report: BuiltReport, width: int) -> None:
    _opened(browser, any_report, width)
    browser.execute_script("document.querySelector('.open-row').click()")
    _settle(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """return [...document.querySelectorAll('h1, h2, .tile, .card, .answer, .filters > *, figure, .pager')].filter((e) => {
        const box = e.getBoundingClientRect(); return box.width && (box.right > innerWidth + 1 || box.left < -1); }).map((e) => e.className || e.tagName)"""
    assert browser.execute_script(script) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_in_figures_do_not_overlap(browser: Any, any_report: BuiltReport, width: int) -> None:
    """Boxes of the texts of one figure may touch by two pixels, not more."""
    _opened(browser, any_report, width)
    script = """const found = [];
    for (const figure of document.querySelectorAll('svg.figure')) {
        const frame = figure.getBoundingClientRect();
        if (!frame.width) continue;  // the drawing for the other width
        const boxes = [...figure.querySelectorAll('text')].filter((t) => t.textContent.trim()).map((t) => [t.textContent, t.getBoundingClientRect()]);
        for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
            const [a, b] = [boxes[i][1], boxes[j][1]];
            const w = Math.min(a.right, b.right) - Math.max(a.left, b.left), h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (w > 2 && h > 4) found.push([figure.closest('figure').id, boxes[i][0], boxes[j][0]]);
        }
        for (const [text, box] of boxes) if (box.right > frame.right + 1 || box.left < frame.left - 1) found.push([figure.closest('figure').id, text, 'is clipped']);
    }
    return found;"""
    assert browser.execute_script(script) == []


def test_every_axis_of_a_figure_says_what_it_shows(browser: Any, any_report: BuiltReport) -> None:
    _opened(browser, any_report)
    labels = {
        "forest": "Difference in", "training": "Optimizer step", "loop": "Round of the loop", "predicted": "Expected", "confusion": "Predicted score",
        "errors": "Predicted less expected", "rewards": "Reward", "cost": "Seconds per row",
    }  # fmt: skip
    figures = {figure.name for figure in any_report.figures}
    for name, label in labels.items():
        if name in figures:
            text = browser.find_element(CSS, f"#figure-{name} svg").get_property("textContent")
            assert label in text, name
            if name in ("predicted", "errors") and "confusion" in figures:
                assert "(points)" in text, "scores on a scale have a unit"


def test_tables_of_costs_and_differences_are_not_cut(browser: Any, any_report: BuiltReport) -> None:
    _opened(browser, any_report)
    script = """return [...document.querySelectorAll('#cost > .scroll, #figure-forest details .scroll')].map((e) => e.scrollWidth - e.clientWidth)"""
    beyond = browser.execute_script(script)
    assert len(beyond) == 2 and max(beyond) <= 1


def test_effect_and_interval_are_readable_on_a_telephone(browser: Any, built: BuiltReport) -> None:
    """The main figure at 390 pixels: its first number stands in view, in letters that can be read."""
    _opened(browser, built, 390)
    figure = next(f for f in built.figures if f.name == "forest")
    difference, low, high = figure.table.rows[0][2:5]
    script = """const texts = [...document.querySelectorAll('#figure-forest svg.narrow text')];
        const found = texts.find((t) => t.textContent === arguments[0]); if (!found) return null;
        const box = found.getBoundingClientRect(), holder = found.closest('.scroll').getBoundingClientRect();
        return [box.left >= holder.left, box.right <= holder.right, box.height, getComputedStyle(document.querySelector('#figure-forest svg.wide')).display];"""
    left, right, height, wide = browser.execute_script(script, f"{difference} [{low}, {high}]")
    assert left and right and height >= 10 and wide == "none"


def test_the_strip_of_contents_follows_on_narrow_screens(browser: Any, built: BuiltReport) -> None:
    _opened(browser, built, 390)
    browser.execute_script("document.getElementById('cost').scrollIntoView()")
    _settle(browser)
    script = """const here = document.querySelector('.contents a[aria-current]'), strip = here.closest('ol').getBoundingClientRect(), box = here.getBoundingClientRect();
        return [here.hash, box.left >= strip.left - 1 && box.right <= strip.right + 1];"""
    assert browser.execute_script(script) == ["#cost", True]


def test_a_link_sets_filters(browser: Any, built: BuiltReport) -> None:
    resize(browser, 1280)
    browser.get("about:blank")
    browser.get(built.index.as_uri() + "#section=fluids&predictor=base&outcome=wrong")
    wait_for_rows(browser)
    _settle(browser)
    wrong = {i for i in _by_outcome(built, "base", "w") if i.startswith("fluids-")}
    assert set(_ids(browser)) == wrong
    browser.execute_script(
        "location.hash = '#predictor=%E0%A4%A&section=nowhere'"
    )  # broken and unknown: nothing breaks
    _settle(browser)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_light_whatever_the_scheme(report: Any, scheme: str) -> None:
    """A reader in the dark prints: every text must stand out from white paper, and what was read must stay marked."""
    report.execute_script("location.hash = '#row=clearances-00059'")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    report.execute_script(
        "if (arguments[0] === 'dark') document.documentElement.dataset.scheme = 'dark'", scheme
    )
    script = """const f = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4, pale = [];
    const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
    for (const e of document.querySelectorAll('h1, h2, h3, p, td, th, dt, dd, li, span, mark, summary, svg.figure text')) {
        if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
        const style = getComputedStyle(e), colour = e instanceof SVGElement ? style.fill : style.color;
        const own = colour.startsWith('rgb') ? 1.05 / (light(colour) + 0.05) : 21;
        if (own < 4.4 && !(e instanceof SVGElement && e.closest('#figure-sections, #figure-failures'))) pale.push([e.tagName, e.className.baseVal ?? e.className, colour]);
    }
    const mark = getComputedStyle(document.querySelector('#changes mark'));
    return [pale.slice(0, 5), mark.textDecorationLine, 1.05 / (light(mark.textDecorationColor) + 0.05)];"""
    try:
        pale, line, contrast = report.execute_script(script)
        printed = report.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    finally:
        report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        report.execute_script("delete document.documentElement.dataset.scheme")
    assert pale == [] and line == "underline" and contrast >= 3
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_every_control_has_a_name_and_headings_step_by_one(report: Any) -> None:
    script = """const unnamed = [...document.querySelectorAll('button, select, input, a')].filter((e) => !(e.textContent.trim() || e.closest('label') || e.ariaLabel));
        const levels = [...document.querySelectorAll('main h1, main h2, main h3')].map((h) => Number(h.tagName[1]));
        const jumps = levels.filter((level, i) => i && level > levels[i - 1] + 1);
        return [unnamed.length, jumps.length, document.querySelectorAll('img:not([alt])').length, document.documentElement.lang];"""
    assert report.execute_script(script) == [0, 0, 0, "en"]


def test_print_opens_the_numbers(report: Any) -> None:
    report.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert report.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    report.execute_script("dispatchEvent(new Event('afterprint'))")
    assert report.execute_script("return document.querySelectorAll('details:not([open])').length") > 0
