"""The report page in a real browser: it opens, sorts, slides, prints, and asks the network for nothing."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from page_data import MANY, page_data

from mrict_core.doctor import CHROMIUM
from mrict_core.reporting.page import write_page

BROWSER = os.environ.get("MRICT_BROWSER") or next(filter(None, map(shutil.which, CHROMIUM)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium found; install the package chromium, or set MRICT_BROWSER to its path"
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    return write_page(page_data(count=9, side=40), tmp_path_factory.mktemp("page") / "index.html").as_uri()


@pytest.fixture(scope="module")
def thirty(tmp_path_factory) -> str:
    data = page_data(count=19, slices=12, side=40, patients=MANY)
    return write_page(data, tmp_path_factory.mktemp("thirty") / "index.html").as_uri()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = context.new_page()
    opened.heard, opened.asked = [], []
    opened.on("console", lambda message: opened.heard.append(message.text))
    opened.on("pageerror", lambda error: opened.heard.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    yield opened
    assert opened.heard == []
    assert [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def wait_until(page, expression: str) -> None:
    """Ask again and again: the page's policy forbids the evaluation of text that playwright's own waiting needs."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def picture(page, name: str) -> str:
    return page.evaluate(f"document.getElementById('b-{name}').toDataURL()")


def column(page, place: int) -> list[str]:
    return page.eval_on_selector_all(
        "#leaderboard table tbody tr", f"rows => rows.map(r => r.cells[{place}].textContent.trim())"
    )


def test_it_opens_and_draws_every_chart(page):
    assert page.title() == "MRICT: a test (demo)"
    assert page.locator(".plot").count() == 8
    assert page.locator(".plot .main-svg").count() >= 7
    assert page.locator("nav a").count() == 16
    assert page.locator(".banner").inner_text().startswith("demo: small networks")


def test_no_button_of_a_chart_leads_out(page):
    opened = []
    page.context.on("page", lambda other: opened.append(other.url))
    names = page.eval_on_selector_all(".modebar-btn", "buttons => buttons.map(b => b.dataset.title)")
    assert set(names) == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    for button in page.locator("#plot-leaderboard .modebar-btn, #plot-path_length .modebar-btn").all():
        button.scroll_into_view_if_needed()
        button.click(force=True)
    page.wait_for_timeout(300)
    assert opened == []
    assert page.locator(".plotly-cloud-dialog, .plotlyjsicon, .js-plotly-plot a").count() == 0


def test_the_pages_policy_lets_nothing_out(page):
    out = "() => fetch('https://example.org/x').then(() => 'sent', () => 'stopped')"
    assert page.evaluate(out) == "stopped"
    assert all("Content Security Policy" in line for line in page.heard)
    page.heard.clear()
    page.asked[:] = [url for url in page.asked if "example.org" not in url]  # the attempt, which went nowhere


SEEN = {  # direction of a column's metric => what a first and a second click on its heading show
    None: ("ascending", "descending"),
    "lower": ("ascending", "descending"),
    "higher": ("descending", "ascending"),
    "zero": ("other", "other"),
    "one": ("other", "other"),
}
PERFECT = {"lower": 0, "higher": 1000, "zero": 0, "one": 1}


@pytest.mark.parametrize("section", ["leaderboard", "clinical"])
def test_a_click_on_a_metrics_heading_brings_the_best_to_the_top(page, section):
    """By what a reader sees: nearest to zero for a bias, nearest to one for continuity."""
    heads = page.locator(f"#{section} table thead th")
    for place in range(heads.count()):
        if (better := heads.nth(place).get_attribute("data-better")) not in PERFECT:
            continue
        heads.nth(place).locator("button.sort").click()
        rows = f"rows => rows.map(r => r.cells[{place}].firstChild.textContent)"
        texts = page.eval_on_selector_all(f"#{section} table tbody tr", rows)
        gaps = [round(abs(float(t.split(" ±")[0].replace("−", "-")) - PERFECT[better]), 9) for t in texts]
        assert gaps == sorted(gaps), place
        bold = page.eval_on_selector_all(
            f"#{section} table tbody tr", f"rows => rows.map(r => r.cells[{place}].classList.contains('best'))"
        )
        assert bold[0] == (better != "zero")  # a bias has no best value
        assert all(gap == gaps[0] for gap, best in zip(gaps, bold, strict=True) if best)


def test_every_column_sorts_both_ways(page):
    heads = page.locator("#leaderboard table thead button.sort")
    for place in range(heads.count()):
        keys = "rows => rows.map(r => r.cells[%d].dataset.sort ?? r.cells[%d].textContent.trim())" % (place, place)  # noqa: UP031
        heads.nth(place).click()
        upwards = page.eval_on_selector_all("#leaderboard table tbody tr", keys)
        head = page.locator("#leaderboard th").nth(place)
        first, second = SEEN[head.get_attribute("data-better")]
        assert head.get_attribute("aria-sort") == first
        heads.nth(place).click()
        downwards = page.eval_on_selector_all("#leaderboard table tbody tr", keys)
        assert head.get_attribute("aria-sort") == second
        try:
            values = [float(k) for k in upwards if k not in ("", "–")]
            assert values == sorted(values), place
            back = [float(k) for k in downwards if k not in ("", "–")]
            assert back == sorted(values, reverse=True), place
        except ValueError:  # words
            assert sorted(upwards) == sorted(downwards)
            if len(set(upwards)) == len(upwards):
                assert downwards == upwards[::-1], place
    assert page.locator("#leaderboard th[data-sorted]").count() == 1


def test_the_slider_the_keys_and_the_wheel_change_the_slice(page):
    slider, where = page.locator("#b-slice"), page.locator("#b-where")
    before = {name: picture(page, name) for name in ("mr", "ct", "sct-a", "error-a")}
    assert where.inner_text() == "15 of 28 (slice 17 of the volume)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert where.inner_text().startswith("16 of 28")
    assert all(picture(page, name) != shown for name, shown in before.items())
    page.keyboard.press("Home")
    assert where.inner_text().startswith("1 of 28")
    page.locator("#b-ct").click()
    page.mouse.wheel(0, 100)
    wait_until(page, "document.getElementById('b-where').textContent.startsWith('2 of 28')")
    assert "CT" in page.locator("#b-read").inner_text()


def test_windows_change_the_grey_levels_and_not_the_error(page):
    shown, error = picture(page, "ct"), picture(page, "error-a")
    page.get_by_role("button", name="brain", exact=True).click()
    assert picture(page, "ct") != shown
    assert picture(page, "error-a") == error
    page.fill("#b-error", "100")
    assert picture(page, "error-a") != error
    assert page.locator("#b-red-high").inner_text() == "+100"
    assert (page.input_value("#b-level"), page.input_value("#b-width")) == ("40", "80")
    assert page.locator("button.window[aria-pressed=true]").inner_text() == "brain"
    page.fill("#b-width", "2000")
    assert page.locator("button.window[aria-pressed=true]").count() == 0
    assert page.locator("#b-grey-low").inner_text() == "-960"


@pytest.mark.parametrize(("level", "width"), [("-1000", "1"), ("", ""), ("-99999", "20"), ("3000", "20"), ("40", "0")])
def test_no_level_and_width_turn_the_picture_white_or_black(page, level, width):
    page.fill("#b-level", level)
    page.fill("#b-width", width)
    page.locator("#b-width").blur()
    greys = page.evaluate(
        "() => { const c = document.getElementById('b-ct'), { width, height } = c;"
        " const d = c.getContext('2d').getImageData(0, 0, width, height).data;"
        " let white = 0, dark = 0; for (let i = 0; i < d.length; i += 4) { white += d[i] === 255; dark += d[i] === 0; }"
        " return [white / (d.length / 4), dark / (d.length / 4)]; }"
    )
    assert greys[0] < 0.6
    assert greys[1] < 0.95
    assert float(page.input_value("#b-width")) >= 20


def test_panels_are_large_and_zoom(page):
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_timeout(200)
    sizes = page.eval_on_selector_all(".panel canvas", "all => all.map(c => c.clientWidth)")
    assert min(sizes) >= 380
    assert len(sizes) == 6
    before = picture(page, "ct")
    page.locator('button.zoom[data-by="1.25"]').click()
    assert picture(page, "ct") != before
    assert page.locator("#b-zoom").inner_text() == "125 %"


def test_the_cross_is_one_point_in_three_planes(page):
    page.get_by_role("button", name="all three").click()
    assert page.locator(".panel").count() == 18
    assert page.locator(".plane").all_inner_texts() == ["axial", "coronal", "sagittal", "all three"]
    box = page.locator("#b-ct-1").bounding_box()  # coronal: right to left, superior at the top
    other = picture(page, "ct-2")
    page.locator("#b-ct-1").click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.02})
    assert page.locator("#b-where").inner_text().startswith("28 of 28")  # the uppermost axial slice
    wait_until(page, f"document.getElementById('b-ct-2').toDataURL() !== {other!r}")
    at = re.search(r"at=(\d+)%2C(\d+)%2C(\d+)", page.url)
    assert (int(at[1]), at[2]) == (27, at[2])
    page.keyboard.press("PageDown")
    assert page.locator("#b-where").inner_text().startswith("27 of 28")


def test_a_profile_shows_hu_along_a_line(page):
    page.get_by_role("button", name="Profile line").click()
    assert page.locator("#b-profile polyline").count() == 3
    assert page.locator("#b-profile .legend").inner_text().startswith("CT")
    whole = page.locator("#b-profile polyline").first.get_attribute("points")
    box = page.locator("#b-ct").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.2 * box["height"], steps=4)
    page.mouse.up()
    assert page.locator("#b-profile polyline").first.get_attribute("points") != whole
    page.get_by_role("button", name="Profile line").click()
    assert page.locator("#b-profile").is_hidden()


def test_a_link_reproduces_the_view_and_every_patient_is_reached(browser, thirty):
    """From a disk, without a server: the patients beside the page come by script tags."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    first = context.new_page()
    first.goto(thirty)
    first.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    assert "#" not in first.url
    assert first.locator("#b-patient option").count() == 30
    assert first.locator("button.role").all_inner_texts() == ["worst", "median", "best"]
    first.select_option("#b-patient", MANY[5])
    wait_until(first, f"location.hash.includes('patient={MANY[5]}')")
    first.select_option("#b-b", "baseline_1")
    wait_until(first, "location.hash.includes('b=baseline_1')")
    first.get_by_role("button", name="bone", exact=True).click()
    first.get_by_role("button", name="coronal").click()
    first.locator('button.zoom[data-by="1.25"]').click()
    first.get_by_role("button", name="Profile line").click()
    shown = picture(first, "sct-b")
    second = context.new_page()
    second.set_viewport_size({"width": 1400, "height": 900})
    second.goto(first.url)
    second.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    assert second.input_value("#b-patient") == MANY[5]
    assert picture(second, "sct-b") == shown
    assert second.locator("#b-profile polyline").count() == 3
    second.select_option("#b-patient", MANY[20])
    wait_until(second, f"location.hash.includes('patient={MANY[20]}')")
    assert second.locator("#b-says").inner_text() == ""
    context.close()


def test_the_page_sent_alone_says_what_it_lacks(browser, thirty, tmp_path):
    from urllib.parse import urlparse

    alone = shutil.copy(urlparse(thirty).path, tmp_path / "index.html")
    opened, heard = browser.new_page(), []
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.goto(alone.as_uri())
    opened.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    opened.select_option("#b-patient", MANY[5])
    wait_until(opened, "document.getElementById('b-says').textContent.includes('beside this page')")
    link = f"{alone.as_uri()}#slices?patient={MANY[5]}&at=1,2,3&plane=coronal&line=0,1,2,3,1,2,9"
    for address in (None, link):  # chosen in the page; opened with a link
        if address:
            opened.goto("about:blank")
            opened.goto(address)
            opened.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        assert MANY[5] in opened.locator("#b-says").inner_text()
        assert opened.locator("#b-panels canvas").count() == 0
        assert opened.locator("#b-read").inner_text() == opened.locator("#b-where").inner_text() == ""
        assert opened.locator(".plane").all_inner_texts() == ["axial", "coronal", "sagittal", "all three"]
        opened.locator("#b-slice").focus()
        opened.keyboard.press("ArrowRight")
        opened.locator("#b-slice").dispatch_event("input")
        opened.get_by_role("button", name="sagittal").click()
        opened.get_by_role("button", name="Profile line").click()
        opened.locator('button.zoom[data-by="1.25"]').click()
        opened.get_by_role("button", name="bone", exact=True).click()
        opened.locator("#b-panels").dispatch_event("keydown", {"key": "PageUp"})
        assert opened.locator("#b-profile").is_hidden()
    assert heard == []
    opened.get_by_role("button", name="median", exact=True).click()
    wait_until(opened, "document.getElementById('b-says').textContent === ''")
    assert opened.locator("#b-panels canvas").count() > 0
    assert opened.locator("#b-panels").is_visible()
    assert heard == []
    opened.close()


def test_print_has_at_most_eight_pages_and_cuts_no_table(browser, thirty):
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.goto(thirty)
    opened.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    paper = opened.pdf(prefer_css_page_size=True)
    assert 3 <= len(re.findall(rb"/Type\s*/Page[^s]", paper)) <= 8
    opened.set_viewport_size({"width": 1047, "height": 718})  # A4 landscape within its margins, in CSS pixels
    opened.emulate_media(media="print")
    wide = "all => all.filter(t => t.offsetParent && t.getBoundingClientRect().right > innerWidth + 1).length"
    assert opened.eval_on_selector_all("table", wide) == 0
    sizes = "all => all.filter(c => c.offsetParent).map(c => parseFloat(getComputedStyle(c).fontSize))"
    assert min(opened.eval_on_selector_all("td, th", sizes)) >= 9.3  # 7 pt
    opened.close()


def test_paper_shows_charts_as_they_are_and_no_hint_for_the_screen(page):
    names = "all => all.map(t => t.textContent)"
    wide = page.evaluate("document.querySelector('#plot-training .main-svg').getAttribute('width')")
    every = page.eval_on_selector_all("#plot-training .legendtext", names)
    place = "document.querySelector('#plot-training .legend').getAttribute('transform')"
    legend = page.evaluate(place)
    hint = page.locator("figcaption .screen", has_text="Click a pale name to show it.")
    assert hint.count() == 3
    assert hint.first.is_visible()
    page.emulate_media(media="print")
    wait_until(page, "document.querySelectorAll('#plot-training .legendtext').length === 6")
    drawn = page.eval_on_selector_all("#plot-training .scatterlayer .trace .lines path", "all => all.length")
    assert drawn == 6 < len(every) == 9
    assert page.locator(".screen:visible").count() == 0
    for chart in page.locator(".plot").all():  # the whole chart is seen: no part of it is cut or left empty
        svg = chart.locator(".main-svg").first
        assert svg.get_attribute("viewBox") == f"0 0 {svg.get_attribute('width')} {svg.get_attribute('height')}"
    page.emulate_media(media="screen")
    wait_until(page, "document.querySelectorAll('#plot-training .legendtext').length === 9")
    wait_until(page, f"document.querySelector('#plot-training .main-svg').getAttribute('width') === '{wide}'")
    wait_until(page, f"{place} === '{legend}'")


def test_pictures_show_the_values_they_claim(page):
    """Bone of 900 HU on the wide window [-1000, 1500] is grey 194; the centre of the head, 40 HU, is 106."""
    page.get_by_role("button", name="full", exact=True).click()
    grey = page.evaluate(
        "() => { const c = document.getElementById('b-ct'), d = c.getContext('2d')"
        ".getImageData(c.width >> 1, c.height >> 1, 1, 1).data; return [...d]; }"
    )
    assert grey[0] == grey[1] == grey[2]
    assert abs(grey[0] - 255 * (40 + 1000) / 2500) <= 6  # noise of 10 HU


def test_patients_and_models_can_be_chosen(page):
    first = picture(page, "ct")
    page.select_option("#b-patient", "1BB005")
    wait_until(page, f"document.getElementById('b-ct').toDataURL() !== {first!r}")
    before = picture(page, "sct-a")
    page.select_option("#b-a", "mk7")
    wait_until(page, f"document.getElementById('b-sct-a').toDataURL() !== {before!r}")
    assert "mk7" in page.locator("#b-panels").inner_text()
    page.select_option("#b-b", "")
    page.wait_for_selector("#b-sct-b", state="detached")
    assert page.locator(".panel").count() == 4


def test_cards_open_from_headings_and_numbers_and_close_with_escape(page):
    page.locator("#leaderboard button.card").first.focus()
    page.keyboard.press("Enter")
    card = page.locator("dialog#card")
    assert card.is_visible()
    for part in ("MAE (HU) (mae_hu)", "without clipping", "patients (N)", "5b11", "c0de"):
        assert part in card.inner_text()
    page.keyboard.press("Escape")
    assert not card.is_visible()
    page.locator("#leaderboard td[data-metric=ssim][data-name=mk3]").click()
    assert page.input_value("#card-name") == "mk3"
    assert "data_range 4024" in card.inner_text()
    page.locator("dialog button").click()
    assert not card.is_visible()


def test_the_theme_goes_round_and_charts_follow(page):
    def paper() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    def ink() -> str:
        return page.evaluate("getComputedStyle(document.querySelector('#plot-dice .xtick text')).fill")

    light, dark_on_light = paper(), ink()
    for name in ("light", "dark"):
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == f"Theme: {name}"
    assert paper() != light
    wait_until(page, f"getComputedStyle(document.querySelector('#plot-dice .xtick text')).fill !== {dark_on_light!r}")
    page.locator("#theme").click()
    assert paper() == light


def test_links_open_a_models_part_and_print_says_what_it_leaves_out(page):
    page.locator("#leaderboard td.name a", has_text="mk5").first.click()
    wait_until(page, "document.querySelector('#model-mk5').open")
    assert page.locator("#model-mk5 table").count() >= 3
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("main > section[id]").count() == 15
    hidden = [s.get_attribute("id") for s in page.locator("main > section[id]").all() if not s.is_visible()]
    assert hidden == ["predecessor", "features", "models", "lineage", "corrections", "definitions", "provenance"]
    assert page.locator(".printed").is_visible()  # names what is left out
    assert len(page.pdf(format="A4", landscape=True)) > 100_000


def test_every_control_can_be_reached_by_keyboard(page):
    seen = set()
    page.locator("body").focus()
    for _ in range(160):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if "b-slice" in seen:
            break
    assert {"skip", "theme", "sort", "card", "b-patient", "b-a", "b-b", "window", "b-level", "b-width", "b-slice"} <= {
        word for name in seen for word in [name, *name.split()]
    }


@pytest.mark.parametrize("which", ["address", "thirty"])
def test_it_reads_on_a_narrow_screen(browser, request, which):
    address = request.getfixturevalue(which)
    context = browser.new_context(viewport={"width": 400, "height": 900})
    opened = context.new_page()
    opened.goto(address)
    opened.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()
