"""The browser that a report is looked at with: Chromium and its driver, packages of the system."""

import os
import shutil

import pytest


def browser_programs():
    """Paths of Chromium and of its driver; skips a test, or fails it where everything has to be there."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is not None and driver is not None:
        return chromium, driver
    if os.environ.get("OVERNET_REQUIRE_BROWSER"):
        pytest.fail("Chromium or chromedriver is not here, and OVERNET_REQUIRE_BROWSER is set")
    pytest.skip("Chromium or chromedriver is not here")
