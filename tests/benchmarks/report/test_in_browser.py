"""The report as a reader meets it: opened from a file, in a real browser."""

import base64
import json

import cv2
import numpy as np
import pytest

from overnet.benchmarks.report.html_report import html_report
from tests.support.example_run import example_run
from tests.support.web_page import open_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_report(example_run(runs=20)), encoding="utf-8")
    return path


def show(browser, report, *, theme="light", width=1280, height=900):
    """Open the report, with nothing of an earlier page in the logs."""
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(report.as_uri())


def pixels(browser, selector=None):
    """What is seen, of the whole window or of one element, which is scrolled to first."""
    if selector is None:
        content = browser.get_screenshot_as_png()
    else:
        element = browser.find_element("css selector", selector)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        content = element.screenshot_as_png
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def requested(browser):
    """The addresses of everything that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]


def choose(browser, side, words):
    from selenium.webdriver.support.select import Select

    select = Select(browser.find_element("css selector", f"select[name='{side}']"))
    (option,) = [each for each in select.options if each.text.startswith(words)]
    select.select_by_visible_text(option.text)


def test_it_asks_for_nothing_and_complains_of_nothing(browser, report):
    show(browser, report)
    browser.find_element("css selector", "nav a:last-child").click()
    addresses = requested(browser)
    assert report.as_uri() in [address.partition("#")[0] for address in addresses]
    assert [each for each in addresses if not each.startswith(("file:", "data:", "about:"))] == []
    assert browser.get_log("browser") == []


def test_the_security_policy_stops_what_somebody_might_add(browser, tmp_path):
    # Else the test above would pass for a page that merely happens to ask for nothing.
    page = html_report(example_run(runs=20)).replace("</body>", '<script>document.title = "taken"</script></body>')
    path = tmp_path / "changed.html"
    path.write_text(page, encoding="utf-8")
    show(browser, path)
    assert browser.title.startswith("OverNet benchmark")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_hostile_names_stay_text(browser, tmp_path):
    from dataclasses import replace

    run = example_run(runs=20)
    hostile = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    run = replace(run, machine=replace(run.machine, name=hostile), notes=[hostile], options={hostile: hostile})
    path = tmp_path / "hostile.html"
    path.write_text(html_report(run), encoding="utf-8")
    show(browser, path)
    assert browser.find_element("css selector", "h1").text == hostile
    assert browser.title == f"OverNet benchmark: {hostile}"
    assert browser.get_log("browser") == []


def test_the_slider_shows_one_image_left_and_the_other_right_of_its_edge(browser, report):
    show(browser, report)
    choose(browser, "left", "bicubic")
    choose(browser, "right", "the ground truth")
    from selenium.webdriver.common.keys import Keys

    edge = browser.find_element("css selector", ".slider input")
    seen = {}
    for key in (Keys.HOME, Keys.END):
        edge.send_keys(key)
        seen[key] = pixels(browser, ".stage").astype(float)
    # In the middle height of the image, away from labels, from the edge and its handle.
    height, width = seen[Keys.HOME].shape[:2]
    part = np.s_[height // 5 : height // 3, width // 8 : width // 3]
    ground_truth, bicubic = seen[Keys.HOME][part], seen[Keys.END][part]
    # The ground truth has the fine detail that the enlargement lost.
    assert np.abs(np.diff(ground_truth, axis=1)).mean() > 1.3 * np.abs(np.diff(bicubic, axis=1)).mean()

    edge.send_keys(Keys.HOME)
    stage = browser.find_element("css selector", ".stage")
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(stage).click_and_hold().move_by_offset(stage.size["width"] // 4, 0).perform()
    ActionChains(browser).release().perform()
    assert float(edge.get_property("value")) == pytest.approx(75, abs=1)
    half = pixels(browser, ".stage").astype(float)
    np.testing.assert_allclose(half[part], bicubic, atol=2)
    right = np.s_[height // 5 : height // 3, width * 7 // 8 :]
    np.testing.assert_allclose(half[right], seen[Keys.HOME][right], atol=2)


def test_the_edge_is_moved_by_arrow_keys_and_says_what_it_parts(browser, report):
    from selenium.webdriver.common.keys import Keys

    show(browser, report)
    choose(browser, "left", "bicubic")
    choose(browser, "right", "tensorrt int8")
    edge = browser.find_element("css selector", ".slider input")
    before = float(edge.get_property("value"))
    edge.send_keys(*[Keys.ARROW_RIGHT] * 5)
    assert float(edge.get_property("value")) == pytest.approx(before + 0.5)
    name = edge.get_attribute("aria-label")
    assert "bicubic interpolation" in name
    assert "tensorrt int8" in name
    assert browser.find_element("css selector", ".side.right").text == "tensorrt int8"


def test_another_method_shows_another_image(browser, report):
    show(browser, report)
    seen = []
    for method in ("tensorrt int8", "openvino fp32"):
        choose(browser, "right", method)
        choose(browser, "left", method)
        seen.append(pixels(browser, ".stage"))
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_the_window_and_the_theme(browser, report, theme, width):
    show(browser, report, theme=theme, width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    seen = pixels(browser)
    paper = np.median(seen)
    assert (paper > 200) if theme == "light" else (paper < 60)
    assert np.abs(seen.astype(float) - paper).max() > 150  # there is writing on it
    plot = pixels(browser, ".plot")
    assert np.abs(plot.astype(float) - np.median(plot)).max() > 100


def test_every_panel_of_a_plot_can_be_reached_on_a_telephone(browser, report):
    """The plots are wider than the window, and scroll to their ends."""
    show(browser, report, width=390)
    for plot in browser.find_elements("css selector", ".plot .scroll"):
        ends = browser.execute_script(
            "const box = arguments[0], svg = box.querySelector('svg'); box.scrollLeft = 1e6;"
            "return [svg.getBoundingClientRect().right, box.getBoundingClientRect().right, box.scrollLeft,"
            " svg.viewBox.baseVal.width, svg.getBoundingClientRect().width]",
            plot,
        )
        right, end, scrolled, drawn, shown = ends
        assert right <= end + 1 and scrolled > 0, ends
        assert shown >= 0.8 * drawn, ends  # text stays readable


def test_it_can_be_read_without_scripts(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, report)
        assert "openvino fp32" in browser.find_element("css selector", "table").text
        assert base64.b64decode(browser.find_element("css selector", ".stage img").get_attribute("src").split(",")[1])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
