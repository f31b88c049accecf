"""Take the picture of the page of ``overnet web`` that docs/web.md shows: ``python -m docs.web_screenshot``."""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from tests.conftest import ROOT
from tests.support.web_page import Tab, open_browser, resize
from tests.support.web_server import web_server

WIDTH, HEIGHT = 1280, 840


def main() -> None:
    """Upscale the sample image on the page, and write what is seen."""
    with tempfile.TemporaryDirectory() as folder, web_server(Path(folder)) as server, open_browser() as driver:
        resize(driver, WIDTH, HEIGHT)
        tab = Tab(driver, server.address)
        tab.choose("size", "4x")
        tab.upscale(ROOT / "samples/harbour.png", "best")
        tab.wait("return document.querySelector('overnet-compare').shadowRoot.querySelectorAll('img')[1]?.naturalWidth")
        seen = cv2.imdecode(np.frombuffer(driver.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR)
        cv2.imwrite(str(ROOT / "docs/web.jpg"), seen, [cv2.IMWRITE_JPEG_QUALITY, 75])


if __name__ == "__main__":
    main()
