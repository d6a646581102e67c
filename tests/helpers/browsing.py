"""Pages in a real browser, opened from the disk or from a server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESKTOP = (375, 812), (1280, 900)


def start_browser(profile: Path) -> WebDriver:
    """Start chromium; where there is none, the test is skipped, but fails in CI."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        assert not os.environ.get("CI"), "the tests of pages need chromium and chromium-driver: .ci/run installs them"
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service(chromedriver))


def opened(browser: WebDriver, page: Path | str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> WebDriver:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")  # else only the fragment of the address changes, and nothing is loaded
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page if isinstance(page, str) else page.as_uri())
    return browser


def check_quiet(browser: WebDriver, origin: str = "file:") -> None:
    """The page that was opened complains of nothing, and asked for nothing but itself and its origin."""
    assert browser.get_log("browser") == []
    messages = [entry["message"] for entry in browser.get_log("performance")]
    sent = [message for message in messages if '"Network.requestWillBeSent"' in message]
    urls = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    own = ("data:", "blob:", origin) if origin != "file:" else ("data:",)
    assert [url for url in urls if not url.startswith(own)] == []
    assert sent
    assert all(any(f'"url":"{start}' in message for start in ("data:", "blob:", origin)) for message in sent)
