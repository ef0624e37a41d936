"""Open a page in a headless Chromium: Debian's ``chromium`` and ``chromium-driver``."""

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


def missing_programs() -> list[str]:
    """Return which of Chromium and its driver are not installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


class Page:
    """An open page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.uri = ""

    def open(self, file: Path) -> None:
        """Open a file; drop the console's messages and the requests of the page before."""
        self.driver.get("about:blank")
        self.console()
        self.requests()
        self.uri = file.resolve().as_uri()
        self.driver.get(self.uri)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script; return the value of its ``return``."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """Return the first element that matches a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        """Return all elements that match a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def choose(self, selector: str, begins: str) -> str:
        """Choose the option of a select whose text starts with ``begins``; return its text."""
        select = Select(self.find(selector))
        text = next(one.text for one in select.options if one.text.startswith(begins))
        select.select_by_visible_text(text)
        return text

    def press(self, *keys: str) -> None:
        """Press keys in the focused element."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def console(self) -> list[str]:
        """Return the console's errors and warnings since the last call."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log]

    def requests(self) -> list[str]:
        """Return the URLs requested since the last call, except the page's own and ``data:``."""
        log: list[dict[str, Any]] = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in log]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:") and url != self.uri]

    def screenshot(self, out: Path, *, is_whole: bool = True) -> None:
        """Save a picture of the entire page, or of the visible part."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": is_whole}
        if is_whole:
            size = self.run("return [innerWidth, document.documentElement.scrollHeight]")
            options["clip"] = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        found = self._command("Page.captureScreenshot", options)
        out.write_bytes(base64.b64decode(found["data"]))

    def _command(self, name: str, options: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(name, options)

    def set_up(self, *, width: int, height: int, is_dark: bool) -> None:
        """Set the window's size and colour scheme."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self._command("Emulation.setEmulatedMedia", {"features": [scheme, motion]})


@contextmanager
def open_page(
    file: Path, *, width: int = 1280, height: int = 900, is_dark: bool = False
) -> Iterator[Page]:
    """Open a file in a new Chromium with a new profile; both are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(str(shutil.which("chromedriver")))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            page = Page(driver)
            page.set_up(width=width, height=height, is_dark=is_dark)
            page.open(file)
            yield page
        finally:
            driver.quit()
