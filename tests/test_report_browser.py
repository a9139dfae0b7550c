"""report.py in a real browser: with a mouse, by keyboard, on a phone, in the dark, on paper, without scripts."""
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import copied
from test_plot_ccc import write_run, write_runs
from test_postprocessing import noisy
from test_report import HOSTILE, hostile, page_of, table_in

import annotations
from support.errors import UserError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def demo(pseudo_corpus, tmp_path_factory):
    """(data folder, page) of runs by mmpkd.py with everything that belongs to them. Read only."""
    folder = copied(pseudo_corpus, tmp_path_factory.mktemp("report") / "data")
    return folder, page_of(folder)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def look(browser, demo, tmp_path):
    """look(width=..., color_scheme=...) -> the demo's page in the browser; what it complained of and asked for is in
    its `said` and `asked`."""
    contexts = []

    def look(page=demo[1], width=1200, **options):
        (tmp_path / "page.html").write_text(page)
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.said, tab.asked = [], []
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.goto((tmp_path / "page.html").as_uri())
        if options.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-drawn=yes]")
        return tab

    yield look
    for context in contexts:
        context.close()


def test_the_browser_shows_texts_and_curves_and_has_nothing_to_complain_of(look, demo):
    tab = look()
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    assert "Comparison" in tab.locator("main").inner_text()
    assert "student_both_pseudo" in tab.locator(".legend:not(.print)").first.inner_text()
    curves = tab.locator(".panel .mark-line path").evaluate_all("all => all.map(path => path.getAttribute('d').length)")
    targets = tab.locator(".panel").count()
    assert len(curves) == targets * 9 and min(curves) > 300  # gold, and raw and post-processed of four runs
    assert tab.locator("[data-chart] svg path").count() > 20
    assert tab.locator(".faces image").count() > 5


def test_ids_that_are_markup_run_nothing_in_the_browser(look, tmp_path):
    tab = look(page_of(hostile(write_runs(tmp_path))))
    assert tab.said == [] and HOSTILE in tab.locator("main").inner_text()


def test_targets_of_separate_runs_and_recordings_without_ratings_are_drawn(look, tmp_path):
    for target in ("arousal", "valence"):
        for stage in ("visual", "teacher"):
            folder = write_run(tmp_path, f"{stage}_{target}", noisy, (target,))
            path = folder / "predictions" / "val" / "dev_2.csv"
            pd.read_csv(path).assign(**{f"{target}_gold": np.nan}).to_csv(path, index=False, na_rep="nan")
            entry = {"epoch": 1, "seconds": 1.0, "loss": 0.5, "val": {target: {"mean": float("nan")}}}
            (folder / "log.jsonl").write_text(json.dumps(entry) + "\n")
    page = page_of(tmp_path)
    tab = look(page)
    assert tab.said == [] and "undefined" in [row[2] for row in table_in(page, "arousal, every recording")]
    for panel in tab.locator("figure[data-trace]").first.locator(".panel").all():
        assert panel.locator(".mark-line path:not([opacity='0'])").count() == 3  # gold and two post-processed ones
    dashed = "[...document.querySelectorAll('.panel path')].some(path => path.getAttribute('stroke-dasharray'))"
    assert not tab.evaluate(dashed)


def test_the_charts_follow_the_width_of_the_window(look):
    tab = look(width=1200)
    tab.set_viewport_size({"width": 500, "height": 800})
    tab.wait_for_function("document.querySelector('.panel svg').getBoundingClientRect().width < 480")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 500


def test_nothing_is_wider_than_the_screen_but_what_scrolls_by_itself(look):
    tab = look(width=320)
    for width in (320, 375, 1200):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_dark_page_is_dark_and_paper_is_white(look):
    tab = look(color_scheme="dark")
    brightness = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b / 3, 0)"
    colour = "() => getComputedStyle(document.querySelector('.panel .mark-line path')).stroke"
    dark = tab.evaluate(brightness), tab.evaluate(colour)
    tab.emulate_media(media="print", color_scheme="dark")
    paper = tab.evaluate(brightness), tab.evaluate(colour)
    assert dark[0] < 50 and paper[0] > 254 and dark[1] != paper[1]
    assert tab.locator(".legend.print").is_visible() and not tab.locator("#curves").is_visible()


def test_hovering_tells_the_values_at_that_time(look, demo):
    folder, _ = demo
    tab = look()
    figure = tab.locator("figure[data-trace]").first
    figure.scroll_into_view_if_needed()
    box = figure.locator(".panel").first.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    time_s, arousal, _ = figure.locator(".readout span").all_inner_texts()
    table = pd.read_csv(folder / "runs" / "visual_both" / "predictions" / "val" / "dev_1.csv")
    row = table.iloc[(table["time_s"] - float(time_s.split()[0])).abs().argmin()]
    assert float(re.search(r"gold (-?[\d.]+)", arousal)[1]) == pytest.approx(row["arousal_gold"], abs=0.03)


def test_the_traces_zoom_by_dragging_and_by_keyboard(look):
    tab = look()
    figure = tab.locator("figure[data-trace]").first
    path = lambda: figure.locator(".panel .mark-line path").first.get_attribute("d")
    figure.scroll_into_view_if_needed()
    box, whole = figure.locator(".panel").last.bounding_box(), path()
    tab.mouse.move(box["x"] + 300, box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 600, box["y"] + 50, steps=4)
    tab.mouse.up()
    tab.wait_for_function("([path, old]) => path.getAttribute('d') !== old",
                          arg=[figure.locator(".panel .mark-line path").first.element_handle(), whole])
    figure.locator("button[value=all]").press("Enter")
    tab.wait_for_timeout(200)
    assert path() == whole
    figure.locator("button[value=in]").press("Enter")
    tab.wait_for_timeout(200)
    assert path() != whole
    slider = figure.locator("input[type=range]")
    before = slider.get_attribute("aria-valuetext")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") != before and "arousal: gold" in before


def test_a_curve_can_be_switched_off(look):
    tab = look()
    opacities = ("() => [...document.querySelector('.panel').querySelectorAll('.mark-line path')]"
                 ".map(path => path.getAttribute('opacity'))")
    before = tab.evaluate(opacities)
    tab.uncheck("[name=run][value=teacher_both]")
    tab.check("[name=raw]")
    tab.wait_for_timeout(200)
    after = tab.evaluate(opacities)
    assert before.count("0") == 5 and after.count("0") == 4  # raw ones and the audio run; both of teacher and audio
    assert [one == "0" for one in after] != [one == "0" for one in before]


def test_the_first_key_offers_to_skip_to_the_results(look):
    tab = look()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


def test_without_scripts_every_table_is_there(look):
    tab = look(java_script_enabled=False)
    assert "The charts need JavaScript" in tab.locator("body").inner_text()
    assert tab.locator("table").count() > 8 and tab.locator("table").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_shuts_readers_out(look, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tab = look(color_scheme=scheme, bypass_csp=True)
    tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    results = axe.Axe().run(tab)
    assert [one["id"] for one in results.response["violations"]] == [] and len(results.response["passes"]) > 30


# ---- the page of annotations.py --check -----------------------------------------------------------------------------

@pytest.fixture(scope="session")
def checked(made_corpus, tmp_path_factory):
    """The page of a corpus with findings of every level."""
    folder = shutil.copytree(made_corpus, tmp_path_factory.mktemp("checked") / "data")
    (folder / "ratings_gold_standard" / "train_2.csv").write_text("0;0\n" * 60)
    (folder / "ratings_gold_standard" / "train_1.csv").write_text("x" * 300)
    with pytest.raises(UserError):
        annotations.main(["--data-dir", str(folder), "--check"])
    return folder / "plots" / "check.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_check_shuts_no_reader_out_and_fits_every_screen(browser, checked, scheme):
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(checked.as_uri())
    tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for width in (320, 1200):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == [] and tab.locator(".finding.error").count() == 1 and tab.locator("svg path").count() == 4
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    results = axe.Axe().run(tab)
    context.close()
    assert [one["id"] for one in results.response["violations"]] == [] and len(results.response["passes"]) > 20
