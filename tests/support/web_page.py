"""A tab of Chromium with the page of `overnet web`, for tests and for the picture in docs/."""

import time
from contextlib import contextmanager, suppress

import pytest

from tests.support.needs_browser import browser_programs


@contextmanager
def open_browser():
    """Chromium without a window, which notes what its console says and what it asks for."""
    chromium, program = browser_programs()
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # Root, as whom CI runs, may not use the sandbox.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(program))
    try:
        yield opened
    finally:
        opened.quit()


def resize(driver, width=1280, height=900, theme="light"):
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


class Tab:
    """One tab of the browser, with the page open in it."""

    def __init__(self, driver, address):
        self.driver, self.handle = driver, driver.current_window_handle
        driver.get(address)
        self.wait("return document.querySelector('#file input[type=file]')")

    def run(self, script, *arguments):
        self.driver.switch_to.window(self.handle)
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments, seconds=30):
        """Wait until a script returns something, and return that."""
        end = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"{script}: {self.status()}"
            time.sleep(0.05)
        return found

    def drop(self, path):
        from selenium.common import StaleElementReferenceException

        while True:
            with suppress(StaleElementReferenceException):  # the page makes a new one after a file was removed
                self.wait("return document.querySelector('#file input[type=file]')").send_keys(str(path))
                return

    def clear(self):
        """Remove the dropped file from the page."""
        self.wait(
            "const button = document.querySelector('#file button[aria-label=Clear]'); button?.click(); return !!button"
        )

    def status(self):
        return self.run("return document.querySelector('#status')?.innerText || ''")

    def choose(self, group, words):
        self.run(
            "[...document.querySelectorAll(`#${arguments[0]} label`)].find("
            "label => label.innerText.startsWith(arguments[1])).querySelector('input').click()",
            group, words,
        )  # fmt: skip

    def press(self, name):
        self.wait(
            "const button = document.querySelector(`#${arguments[0]}`);"
            "if (!button || button.disabled || !button.offsetParent) return false; button.click(); return true",
            name,
        )

    def upscale(self, path, model="realtime"):
        """Drop a file and upscale it; its address on the server."""
        self.drop(path)
        self.choose("model", model)
        self.press("run")
        return self.result()

    def result(self, seconds=60):
        return self.wait("return document.querySelector('#status a.download')?.href", seconds=seconds)

    def failure(self):
        return self.wait("return document.querySelector('#status .failure')?.innerText")

    def view(self, script):
        """Run a script with `view`, the element that compares, and `inside`, its parts."""
        return self.run(
            "const view = document.querySelector('overnet-compare'), inside = view?.shadowRoot;"
            f"return inside ? ({script}) : null"
        )
