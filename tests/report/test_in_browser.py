"""The pages in a real browser: clicks, keys, phone, dark mode, a thousand rows, and values that try to break out."""

import io
import time
from itertools import pairwise

import numpy as np
import pytest
from browser import NoBrowserError, browser, emulate, find, watched
from grids import THESIS, hostile, load, thousand, write
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from mobconv.cli.app import run
from mobconv.report import overview


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The thesis's 188 cells, with scores of samples."""
    return made(write(tmp_path_factory.mktemp("thesis"), load(THESIS), scored=True))


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    return made(write(tmp_path_factory.mktemp("hostile"), hostile()))


def made(folder):
    assert run(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture
def page(driver, report):
    return opened(driver, report)


def opened(driver, path, **how):
    emulate(driver, **how)
    watched(driver)
    driver.get(path.as_uri())
    return driver


def shown(driver):
    """Names of the cells that are to be seen, in order."""
    return driver.execute_script(
        "return [...document.querySelectorAll('table.cells tbody tr')].filter(row => row.offsetParent !== null || "
        "row.getClientRects().length).map(row => row.querySelector('th').dataset.v)"
    )


def figures(driver, column):
    return driver.execute_script(
        f"return [...document.querySelectorAll('table.cells tbody tr')].map(row => "
        f"row.querySelector('[data-c=\"{column}\"]')?.dataset.v ?? null)"
    )


def heading(driver, title):
    return driver.find_element(By.XPATH, f"//table[contains(@class,'cells')]//button[text()='{title}']")


def click(driver, element):
    """A real click, once the element has come to rest: far parts of the page are laid out as they are reached."""
    driver.execute_async_script(
        """
        const [element, done] = arguments
        let last = null, same = 0
        function look() {
            const at = element.getBoundingClientRect().top
            same = at === last ? same + 1 : 0
            last = at
            if (same === 0) element.scrollIntoView({block: 'center', behavior: 'instant'})
            if (same > 5) done(); else requestAnimationFrame(look)
        }
        look()
        """,
        element,
    )
    element.click()


def status(driver):
    return driver.find_element(By.CSS_SELECTOR, "#filters [role=status]").text


def pixels(driver):
    return np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))


def test_a_browser_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("MOBCONV_BROWSER", "/no/such/browser")
    with pytest.raises(NoBrowserError, match=r"no browser \(MOBCONV_BROWSER=/no/such/browser\) here. Install"):
        find("browser", "MOBCONV_BROWSER", ["chromium"])
    monkeypatch.delenv("MOBCONV_BROWSER")
    with pytest.raises(NoBrowserError, match="`chromium` and `chromium-driver`"):
        find("browser", "MOBCONV_BROWSER", ["chromium"])


def test_nothing_is_asked_for_and_nothing_is_wrong(page, report):
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    console, asked = watched(page)
    assert console == []
    assert asked == [report.as_uri()]


def test_all_cells_are_there_and_told(page):
    assert len(shown(page)) == 188 and status(page) == "188 of 188 cells"
    text = page.find_element(By.TAG_NAME, "body").text
    assert "175 ok" in text and "13 unsupported, 0 failed" in text
    assert "ONNX has no type for a lookup table" in text
    assert "lie exactly on one another" in text
    assert "paired image by image (bootstrap over 334 groups" in text
    tiles = page.find_element(By.CLASS_NAME, "tiles").text
    assert "coreml-mlmodel/w4-kmeans\n1.18 MB, 7.5x smaller than fp32\n96.00 % (" in tiles
    assert "linear: 2 bits\nsymmetric: 3 bits\nk-means: 3 bits" in tiles


def test_sorting_by_clicks_and_keys(page):
    button = heading(page, "size")
    click(page, button)
    sizes = [int(each) for each in figures(page, 2) if each is not None]
    assert sizes == sorted(sizes) and len(sizes) == 175
    assert figures(page, 2)[-13:] == [None] * 13, "what has no size stands last"
    column = button.find_element(By.XPATH, "..")
    assert column.get_attribute("aria-sort") == "ascending"
    assert page.switch_to.active_element == button
    page.switch_to.active_element.send_keys(Keys.ENTER)
    sizes = [int(each) for each in figures(page, 2) if each is not None]
    assert sizes == sorted(sizes, reverse=True) and figures(page, 2)[-1] is None
    assert column.get_attribute("aria-sort") == "descending"
    heading(page, "cell").send_keys(Keys.SPACE)
    assert column.get_attribute("aria-sort") is None
    assert shown(page)[0] == "coreml-mlmodel/fp16"
    widths = [name for name in shown(page) if name.startswith("onnx/w")]
    assert widths[0].startswith("onnx/w1-") and widths[-1].startswith("onnx/w8-")


def test_filters(page):
    find = page.find_element(By.CSS_SELECTOR, "#filters input[type=search]")
    find.send_keys("oc16 coreml-mlmodel")
    assert len(shown(page)) == 9 and status(page) == "9 of 188 cells"
    find.clear()
    find.send_keys("no such cell")
    assert shown(page) == [] and status(page) == "0 of 188 cells"
    for _ in "no such cell":
        find.send_keys(Keys.BACKSPACE)
    assert len(shown(page)) == 188
    selects = {each.get_attribute("name"): Select(each) for each in page.find_elements(By.TAG_NAME, "select")}
    assert set(selects) == {"backend", "mode", "way", "status"}
    selects["status"].select_by_visible_text("unsupported")
    assert len(shown(page)) == 13
    selects["backend"].select_by_visible_text("onnx")
    assert shown(page) == [f"onnx/w{bits}-kmeans@native" for bits in (7, 5, 4, 3)]
    for each in ("status", "backend"):
        selects[each].select_by_visible_text("all")
    selects["mode"].select_by_visible_text("k-means")
    selects["way"].select_by_visible_text("packed")
    assert len(shown(page)) == 32
    click(page, page.find_element(By.CSS_SELECTOR, "#filters input[type=checkbox]"))
    assert {name.partition("/")[2] for name in shown(page)} == {f"w{bits}-kmeans" for bits in range(4, 9)}
    for each in page.find_elements(By.CSS_SELECTOR, "#filters input, #filters select"):
        assert each.accessible_name, "every filter has a label"


def test_a_cell_opens_by_key_and_tells_its_file(page):
    summary = page.find_element(By.XPATH, "//summary[text()='coreml/w5-linear@native']")
    summary.send_keys(Keys.ENTER)
    told = summary.find_element(By.XPATH, "..").text
    row = next(row for row in load(THESIS)["cells"] if row["cell"] == "coreml/w5-linear@native")
    assert f"sha256: {row['sha256']}" in told and f"file: {row['path']}" in told
    assert "asked 5 bits, stored at 8, linear per channel, mse, native, computed in fp32" in told
    assert "emulated: mobconv's own executor, on no Apple device" in told
    assert row["reason"] in told


def test_keys_alone_reach_the_table(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = page.switch_to.active_element
    assert skip.text == "Skip to the table of cells" and skip.rect["x"] >= 0
    skip.send_keys(Keys.ENTER)
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("type") == "search"
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is to be seen"


def test_headings_language_and_names(page):
    levels = [int(each.tag_name[1]) for each in page.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    assert page.title == "digits-mobilenet-v2.safetensors: 188 cells"
    charts = page.find_elements(By.CSS_SELECTOR, "svg.chart")
    assert len(charts) == 10
    told = [chart.get_attribute("aria-label") for chart in charts]
    assert {chart.get_attribute("role") for chart in charts} == {"img"}
    assert "linear: cliff at 2 bits (8 bits 96.05 %" in told[0] and "Pareto front" in told[3]


def test_a_pointer_over_a_mark_tells_it(page):
    mark = page.find_element(By.CSS_SELECTOR, "svg.chart [data-tip*='w3-symmetric']")
    tip = page.find_element(By.ID, "tip")
    show = "arguments[0].closest('figure').scrollIntoView({block: 'center'})"
    settled = "let end = arguments[arguments.length - 1]; requestAnimationFrame(() => requestAnimationFrame(end))"

    def pointed(_):  # plots are laid out as they come into view, which moves the page, which hides the tip
        page.execute_script(show, mark)
        page.execute_async_script(settled)
        ActionChains(page).move_by_offset(1, 0).move_to_element(mark).perform()
        return tip.is_displayed()

    WebDriverWait(page, 10).until(pointed)
    assert "w3-symmetric" in tip.text and "top-1 81.15 %" in tip.text
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_drawn(driver, report, scheme):
    page = opened(driver, report, scheme=scheme)
    page.execute_script("document.getElementById('cliff').scrollIntoView({behavior: 'instant'})")
    seen = pixels(page)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100, "a blank page has one colour"
    paper = np.array([15, 19, 24] if scheme == "dark" else [255, 255, 255])
    assert (seen == paper).all(axis=2).mean() > 0.5
    for css in ("--linear", "--symmetric", "--kmeans"):
        value = page.execute_script(f"return getComputedStyle(document.documentElement).getPropertyValue('{css}')")
        colour = [int(value.strip()[at : at + 2], 16) for at in (1, 3, 5)]
        assert (seen == colour).all(axis=2).sum() > 50, f"no mark in {css} {value}"


@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_a_phone_scrolls_down_only(driver, which, request):
    page = opened(driver, request.getfixturevalue(which), width=360, height=640)
    assert page.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    page.execute_script("document.getElementById('cells').scrollIntoView({behavior: 'instant'})")
    assert len(np.unique(pixels(page).reshape(-1, 3), axis=0)) > 50
    inside = page.execute_script(
        "let box = document.querySelector('.scroll:has(.cells)'); return [box.scrollWidth, box.clientWidth]"
    )
    assert inside[0] > inside[1], "the table scrolls in its own box"


def test_values_do_not_break_out(driver, hostile_report):
    page = opened(driver, hostile_report)
    console, asked = watched(page)
    assert console == [] and asked == [hostile_report.as_uri()]
    assert page.title.startswith("</script><script>"), "shown as it is, not run"
    assert page.execute_script("return document.scripts.length") == 1
    assert page.execute_script("return document.images.length") == 0
    assert len(shown(page)) == 26


def test_the_policy_lets_nothing_else_run(page):
    """A script that were to get in all the same would not run, and nothing could be sent."""
    page.execute_script(
        "let one = document.createElement('script'); one.textContent = 'window.owned = 1'; document.body.append(one);"
        "let two = document.createElement('img'); two.src = 'https://example.invalid/x.png'; document.body.append(two);"
    )
    time.sleep(0.2)
    assert page.execute_script("return window.owned") is None
    console, _ = watched(page)
    assert len(console) == 2 and all("Content Security Policy" in text for text in console)


def test_two_results_compared(driver, tmp_path):
    content = load()
    one = write(tmp_path / "a", content, scored=True)
    content["cells"][3]["score"] -= 20
    other = write(tmp_path / "b", content, scored=True)
    target = tmp_path / "changes.html"
    assert run(["report", str(one), str(other), "-o", str(target)]) == 0
    page = opened(driver, target, width=360)
    assert page.execute_script("return document.documentElement.scrollWidth") == 360
    console, asked = watched(page)
    assert console == [] and asked == [target.as_uri()]
    assert shown(page)[0] == "onnx/w8-symmetric"
    Select(page.find_element(By.NAME, "outcome")).select_by_visible_text("worse")
    assert shown(page) == ["onnx/w8-symmetric"] and status(page) == "1 of 188 cells"


@pytest.mark.parametrize("plots", [2, pytest.param(overview.PLOTS, marks=pytest.mark.slow)])
def test_a_thousand_rows_are_filtered_sorted_and_plotted(driver, tmp_path, monkeypatch, plots):
    """How long that takes is measured by benchmarks/report_page.py."""
    monkeypatch.setattr(overview, "PLOTS", plots)
    path = made(write(tmp_path, thousand(), scored=plots > 2))
    assert path.stat().st_size < 3_000_000
    opened(driver, path)
    driver.find_element(By.CSS_SELECTOR, "#filters input[type=search]").send_keys("w4 oc16")
    assert 0 < len(shown(driver)) < 200
    click(driver, heading(driver, "top-1 %"))
    assert driver.find_element(By.CSS_SELECTOR, "svg.chart").is_displayed()
    driver.execute_script("document.getElementById('size').scrollIntoView()")
    assert len(np.unique(pixels(driver).reshape(-1, 3), axis=0)) > 100
    assert driver.execute_script("return document.querySelectorAll('table.cells tbody tr').length") == 1000
    assert len(driver.find_elements(By.CSS_SELECTOR, "svg.chart")) == 2 * plots + min(4, plots)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_table_that_is_cut_says_that_it_scrolls(driver, report, width):
    opened(driver, report, width=width)
    cut, hint = driver.execute_script(
        "const scroll = document.querySelector('.scroll:has(.cells)');"
        "return [scroll.scrollWidth > scroll.clientWidth, scroll.previousElementSibling.getClientRects().length > 0]"
    )
    assert cut == hint == (width == 390)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_screenshot_of_the_whole_page_has_plots_and_table(driver, report, width):
    """Without scrolling: no stretch of a screen's height is blank."""
    import base64

    opened(driver, report, width=width)
    height = driver.execute_script("return document.documentElement.scrollHeight")
    how = {"captureBeyondViewport": True, "format": "png"}
    shot = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", how)["data"])
    image = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))
    scale = image.shape[0] / height
    inked = np.flatnonzero((image.max(axis=1) - image.min(axis=1)) > 60)
    gaps = np.diff([0, *inked, image.shape[0]]) / scale
    assert gaps.max() < 150, f"blank for {gaps.max():.0f} px"


@pytest.mark.slow
def test_no_page_of_a_print_is_blank(driver, report):
    """Each page, printed alone, has text or a plot: more than the bytes of an empty one."""
    import base64

    opened(driver, report)

    def printed(page):
        how = {"printBackground": True, "pageRanges": page}
        return len(base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", how)["data"]))

    pages = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"]).count(b"/Type /Page\n")
    assert pages > 3
    sizes = [printed(str(number)) for number in range(1, pages + 1)]
    driver.get("data:text/html,<p>")
    blank = printed("1")
    assert min(sizes) > 5 * blank


def test_plots_use_the_width_that_they_have(driver, report):
    """Where they stand side by side, each fills its column."""
    opened(driver, report, width=1200)
    widths = driver.execute_script(
        "return [...document.querySelectorAll('svg.chart')].map(svg => "
        "[svg.getBoundingClientRect().width, svg.parentElement.getBoundingClientRect().width])"
    )
    assert all(plot >= min(column, 576) - 1 for plot, column in widths)
    assert driver.title.startswith("digits-mobilenet-v2")
