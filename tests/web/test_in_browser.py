"""The page of `overnet web` as its user meets it: in a real browser."""

import json
import signal
import time
import urllib.request
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest

from overnet.runtime.upscaler import Upscaler
from tests.conftest import ROOT
from tests.support.clips import Clip, images
from tests.support.needs_browser import browser_programs
from tests.support.web_page import Tab, open_browser, resize
from tests.support.web_server import web_server

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

HARBOUR = ROOT / "samples/harbour.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    browser_programs()
    with web_server(tmp_path_factory.mktemp("web"), "--max-size", "3", "--max-minutes", "1") as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What is dropped, by name."""
    folder = tmp_path_factory.mktemp("dropped")
    (folder / "empty.png").touch()
    (folder / "broken.png").write_bytes(HARBOUR.read_bytes()[:2000])
    (folder / "text.mp4").write_text("This is no clip.\n" * 50)
    (folder / "large.png").write_bytes(bytes(3_100_000))
    photograph = cv2.imread(str(HARBOUR))
    cv2.imwrite(str(folder / "long.png"), cv2.resize(photograph, (960, 640)))
    cv2.imwrite(str(folder / "scan.tif"), photograph[:64, :96])
    cv2.imwrite(str(folder / "zeros.png"), np.zeros((16_000, 16_000, 3), np.uint8))  # takes a while to read
    # An EXIF block that states a quarter turn.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    jpeg = cv2.imencode(".jpg", photograph)[1].tobytes()
    (folder / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    Clip(frames=images(30), audio=["aac"]).make(folder / "clip.mp4")
    Clip(frames=images(400, 160, 120)).make(folder / "slow.mkv")
    Clip(frames=images(70, 32, 24), rate=1, pts=[number * 30_000 for number in range(70)]).make(folder / "hour.mkv")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def driver():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def tab(driver, server):
    """The page, newly opened; afterwards the console holds no error, and nothing was asked of another host."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    resize(driver)
    yield Tab(driver, server.address)
    errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [each for each in asked if not each.startswith((server.address, "data:", "blob:"))] == []
    answers = [m["params"]["response"] for m in messages if m["method"] == "Network.responseReceived"]
    assert [answer["url"] for answer in answers if answer["status"] >= 400] == []


def content(address):
    with urllib.request.urlopen(address) as answer:
        return answer.read()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def seen(driver, selector):
    return decoded(driver.find_element("css selector", selector).screenshot_as_png).astype(float)


def test_an_image_is_dropped_upscaled_compared_and_downloaded(tab, driver, tmp_path):
    from selenium.webdriver import ActionChains

    address = tab.upscale(HARBOUR)
    expected = Upscaler(2, model="realtime")(cv2.imread(str(HARBOUR))[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(decoded(content(address)), expected)
    assert "480x320" in tab.status() and " s · " in tab.status() and " kB" in tab.status()

    tab.wait("return document.querySelector('overnet-compare').shadowRoot.querySelectorAll('img')[1]?.naturalWidth")
    assert tab.view("[...inside.querySelectorAll('img')].map(image => image.naturalWidth)") == [240, 480]
    whole = {}
    for place in (0, 100):
        move = f"inside.querySelector('input').value = {place}, inside.querySelector('input').oninput()"
        tab.view(move)
        whole[place] = seen(driver, "overnet-compare")[100:300, 100:300]
    # The result is sharper than what it was made of.
    sharp, soft = (np.abs(np.diff(whole[place], axis=1)).mean() for place in (0, 100))
    assert sharp > 1.2 * soft
    view = driver.find_element("css selector", "overnet-compare")
    middle = ActionChains(driver).move_to_element_with_offset(view, 0, -50).click_and_hold()
    middle.move_by_offset(view.size["width"] // 4, 0).release().perform()
    assert float(tab.view("inside.querySelector('input').value")) == pytest.approx(75, abs=1)

    tab.view("[...inside.querySelectorAll('button')].find(button => button.textContent == '400 %').click()")
    assert tab.view("inside.querySelector('span').textContent") == "480x320 at 400 %"
    pixels = seen(driver, "overnet-compare")
    # Each pixel of the result covers 4 x 4 of the screen: only every fourth step is one.
    steps = np.abs(np.diff(pixels[100:200, -170:-70].mean(axis=2), axis=1)).sum(axis=0)
    assert np.sort([steps[at::4].sum() for at in range(4)])[:3].sum() < 1e-3 * steps.sum()

    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    tab.run("document.querySelector('#status a.download').click()")
    end = time.monotonic() + 10
    while not (tmp_path / "harbour_x2.png").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "harbour_x2.png").read_bytes() == content(address)


def test_a_factor_a_height_and_another_format(tab, files):
    tab.drop(files["scan.tif"])
    tab.choose("model", "realtime")
    tab.choose("size", "height")
    tab.press("run")
    # Browsers show no TIFF: another file is shown.
    assert decoded(content(tab.result())).shape == (1080, 1620, 3)
    tab.wait("return document.querySelector('overnet-compare').shadowRoot.querySelectorAll('img')[1]?.naturalWidth")
    assert tab.view("[...inside.querySelectorAll('img')].map(image => image.naturalWidth)") == [96, 1620]
    tab.choose("size", "factor")
    tab.press("run")
    tab.wait("return document.querySelector('#status a.download')?.download.includes('x1.5')")
    assert decoded(content(tab.result())).shape == (96, 144, 3)
    assert "there is no model for that scale" in tab.status()


def test_an_image_that_is_stored_turned_is_compared_as_it_is_shown(tab, files):
    tab.upscale(files["turned.jpg"])
    tab.wait("return document.querySelector('overnet-compare').shadowRoot.querySelectorAll('img')[1]?.naturalWidth")
    sizes = "[...inside.querySelectorAll('img')].map(image => [image.naturalWidth, image.naturalHeight])"
    assert tab.view(sizes) == [[160, 240], [320, 480]]
    assert tab.view("[view.getAttribute('width'), view.getAttribute('height')]") == ["320", "480"]
    assert tab.status().startswith("320x480")


def test_a_frame_of_a_clip_is_previewed_and_the_clip_upscaled_with_its_sound(tab, files, tmp_path):
    tab.drop(files["clip.mp4"])
    tab.choose("model", "realtime")
    slider = "document.querySelector('#at input[type=range]')"
    tab.wait(f"return {slider}?.offsetParent")
    first = tab.view("view.getAttribute('before')")
    tab.run(f"{slider}.value = {slider}.max; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    tab.wait("return document.querySelector('overnet-compare').getAttribute('before') != arguments[0]", first)
    tab.press("preview")
    assert decoded(content(tab.result())).shape == (96, 128, 3)
    assert tab.view("view.getAttribute('after')")
    tab.press("run")
    tab.wait("return document.querySelector('#view video')?.readyState >= 2", seconds=60)
    path = tmp_path / "result.mp4"
    path.write_bytes(content(tab.result()))
    with av.open(str(path)) as result:
        assert [stream.type for stream in result.streams] == ["video", "audio"]
        assert (result.streams.video[0].width, result.streams.video[0].frames) == (128, 30)
    assert "30 frames" in tab.status() and "frames/s" in tab.status()
    # Playing from a place needs parts of the file.
    tab.run("document.querySelector('#view video').currentTime = 0.8")
    tab.wait("const video = document.querySelector('#view video'); return !video.seeking && video.currentTime > 0.7")


def test_a_frame_is_previewed_right_after_the_slider_was_moved(tab, files):
    tab.drop(files["clip.mp4"])
    tab.choose("model", "realtime")
    slider = "document.querySelector('#at input[type=range]')"
    tab.wait(f"return {slider}?.offsetParent")
    first = tab.view("view.getAttribute('before')")
    tab.run(
        f"{slider}.value = {slider}.max; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}));"
        "document.querySelector('#preview').click()"
    )
    assert "clip_0.96s_x2.png" in tab.result()
    assert tab.view("view.getAttribute('before')") != first


def test_a_clip_is_cancelled_with_the_frames_so_far(tab, files, tmp_path):
    tab.drop(files["slow.mkv"])
    tab.choose("model", "best")
    tab.press("run")
    tab.wait(
        "return /[1-9]\\d* of 400 frames · .* frames\\/s · \\d+:\\d\\d left/.test(document.body.innerText)", seconds=60
    )
    tab.press("cancel")
    path = tmp_path / "part.mp4"
    path.write_bytes(content(tab.result()))
    assert tab.status().startswith("Cancelled: the frames so far · 320x240")
    with av.open(str(path)) as result:
        assert 0 < sum(1 for _ in result.decode(video=0)) < 400


def test_an_image_is_cancelled_at_once_and_another_tab_has_waited(tab, driver, server, files):
    tab.drop(files["long.png"])
    tab.choose("model", "best")
    tab.choose("size", "4x")
    tab.press("run")
    tab.wait("return document.querySelector('#status').innerText.includes('Upscaling')")
    driver.switch_to.new_window("tab")
    resize(driver)
    other = Tab(driver, server.address)
    other.drop(HARBOUR)
    other.choose("model", "realtime")
    other.press("run")
    other.wait("return document.querySelector('#status').innerText.includes('Waiting for 1 other job')")
    tab.press("cancel")
    tab.wait("return document.querySelector('#status').innerText == 'Cancelled.'", seconds=2)
    assert decoded(content(other.result())).shape == (320, 480, 3)
    driver.close()
    driver.switch_to.window(tab.handle)


def test_a_file_that_is_removed_while_it_is_read_leaves_no_message(tab, files):
    tab.drop(files["zeros.png"])
    tab.wait("return document.querySelector('#status').innerText.includes('Reading')")
    tab.clear()
    tab.wait("return !document.querySelector('#status').innerText.trim()", seconds=3)
    tab.upscale(HARBOUR)
    assert tab.status().startswith("480x320")


def test_a_crash_of_the_process_that_reads_is_one_line_and_the_next_file_is_read(tab, server, files):
    tab.drop(files["zeros.png"])
    tab.wait("return document.querySelector('#status').innerText.includes('Reading')")
    for process in psutil.Process(server.process.pid).children():  # that which upscales, too, where there is one
        process.send_signal(signal.SIGSEGV)
    assert tab.failure() == "the process that reads files was ended by SIGSEGV"
    tab.clear()
    tab.upscale(HARBOUR)


def test_a_closed_tab_ends_its_job(tab, driver, server, files):
    driver.switch_to.new_window("tab")
    closed = Tab(driver, server.address)
    closed.drop(files["long.png"])
    closed.choose("model", "best")
    closed.press("run")
    closed.wait("return document.querySelector('#status').innerText.includes('Upscaling')")
    driver.close()
    driver.switch_to.window(tab.handle)
    began = time.monotonic()
    tab.upscale(HARBOUR)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.png", "empty.png is empty"),
        ("broken.png", "broken.png is "),
        ("text.mp4", "text.mp4"),
        ("hour.mkv", "hour.mkv is 1.2 minutes long, and the limit here is 1 (overnet web --max-minutes)"),
    ],
)
def test_a_file_that_cannot_be_upscaled_is_refused_in_one_line(tab, files, name, message):
    tab.drop(files[name])
    line = tab.failure()
    assert line.startswith(message) and "/" not in line.removesuffix("/s") and "\n" not in line
    assert tab.run("return document.querySelector('#run').disabled")


def test_a_too_large_file_is_refused(tab, files):
    tab.drop(files["large.png"])
    tab.wait("return document.body.innerText.includes('maximum allowed size')")
    time.sleep(3.5)  # after which Gradio asks for the progress of the upload that it has refused


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_the_window_and_the_theme(tab, driver, theme, width):
    resize(driver, width, theme=theme)
    driver.refresh()
    tab.wait("return document.querySelector('#file input[type=file]')")
    tab.upscale(HARBOUR)
    assert tab.run("return document.documentElement.scrollWidth") <= width
    page = decoded(driver.get_screenshot_as_png())
    paper = np.median(page[:80])
    assert (paper > 200) if theme == "light" else (paper < 60)
    assert np.abs(page[:80].astype(float) - paper).max() > 150  # the title


def test_the_edge_is_moved_and_the_image_zoomed_by_keys(tab, driver):
    from selenium.webdriver.common.keys import Keys

    tab.upscale(HARBOUR)
    tab.wait("return document.querySelector('overnet-compare').shadowRoot.querySelectorAll('img')[1]?.naturalWidth")
    tab.view("inside.querySelector('.stage').focus()")
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, "+")
    assert float(tab.view("inside.querySelector('input').value")) == 52
    assert tab.view("view.zoom > view.fit")
    driver.switch_to.active_element.send_keys("0")
    assert tab.view("view.zoom") == 0


def test_nothing_is_sent_to_anybody(tab, server):
    tab.upscale(HARBOUR)
    calls = Path(server.calls).read_text().splitlines() if Path(server.calls).exists() else []
    assert [call for call in calls if "127.0.0.1" not in call] == []
    assert calls, "not even the socket that it listens on was noted"
