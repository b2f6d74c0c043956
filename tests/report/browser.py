"""A real Chromium, driven by selenium, and what it was made to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",  # no smooth scrolling under a click
    "--window-size=1280,900",
)


def start(profile: Path) -> Browser:
    """A browser with an empty profile, which keeps a log of its console and of every request."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(120)
    return Browser(driver)


class Browser:
    """A Chromium and what it was made to do."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())
        self.wait("return document.documentElement.dataset.startMs !== undefined")

    def js(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        WebDriverWait(self.driver, 60, poll_frequency=0.02).until(lambda d: d.execute_script(script))

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [str(e.text) for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def contents(self, selector: str) -> set[str]:
        """Text as it stands in the document, with all its white space."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return {str(e.get_attribute("textContent")) for e in found}

    def key(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def column(self, number: int) -> list[str]:
        return self.texts(f"#body tr[data-row] td:nth-child({number})")

    def count(self) -> str:
        return self.find("#count").text

    def row(self) -> int:
        return int(str(self.js("return document.getElementById('viewer').dataset.row")))

    def type(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)
        self.driver.execute_async_script("setTimeout(arguments[0], 150)")

    def dark(self, wanted: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def colour(self, selector: str, of: str) -> tuple[float, ...]:
        """A computed colour as the browser paints it, resolved through a canvas."""
        script = """
            const colour = getComputedStyle(document.querySelector(arguments[0]))[arguments[1]];
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data];
        """
        return tuple(self.js(script, selector, of))  # type: ignore[arg-type]

    def requests(self) -> list[str]:
        """Addresses that were asked for since ``open``."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def drawn(self, panel: int = 0) -> None:
        self.wait(f"return document.querySelectorAll('#viewer canvas')[{panel}].dataset.drawn !== undefined")

    def pixel(self, x: float, y: float, panel: int = 0) -> list[int]:
        """Colour of the drawn picture at image coordinates of the toy suite."""
        script = """
            const canvas = document.querySelectorAll("#viewer canvas")[arguments[2]];
            const at = [arguments[0] * canvas.width / 160, arguments[1] * canvas.height / 120].map(Math.floor);
            return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
        """
        return list(self.js(script, x, y, panel))  # type: ignore[call-overload]

    def choose(self, control: str, value: str) -> None:
        """Pick an entry of a drop-down list, as a person does, and let the table follow."""
        self.js(
            """
            const control = document.getElementById(arguments[0]);
            control.value = arguments[1];
            control.dispatchEvent(new Event("input", {bubbles: true}));
            """,
            control,
            value,
        )
        self.driver.execute_async_script("setTimeout(arguments[0], 50)")
