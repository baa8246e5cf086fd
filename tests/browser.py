"""A real browser without a window, for the pages of `mobconv report`; it is watched for errors and requests."""

import json
import os
import shutil
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)  # fmt: skip
MISSING = (
    "the report's pages are tested in a real browser, and there is no {what} here. Install Debian's or Ubuntu's "
    "`chromium` and `chromium-driver` (on macOS: Chrome, and `brew install chromedriver`), or set MOBCONV_BROWSER and "
    "MOBCONV_CHROMEDRIVER to the two programs"
)
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900",
)  # fmt: skip


class NoBrowserError(RuntimeError):
    """There is none, or no driver of one."""


def find(what, variable, names):
    """The program that a variable names, else the first of these that is there."""
    named = os.environ.get(variable)
    found = next(filter(None, map(shutil.which, [named] if named else names)), None)
    if found is None:
        raise NoBrowserError(MISSING.format(what=f"{what} ({variable}={named})" if named else what))
    return found


@contextmanager
def browser(profile):
    """A driver with an empty profile; ended with its browser, whatever happens."""
    options = Options()
    options.binary_location = find("browser", "MOBCONV_BROWSER", _BROWSERS)
    driver_path = find("chromedriver", "MOBCONV_CHROMEDRIVER", ["chromedriver"])
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        driver.get("about:blank")  # away from the browser's own first page, and what that asked for
        watched(driver)
        yield driver
    finally:
        driver.quit()


def watched(driver):
    """Console messages, and addresses that were asked for, since the last call."""
    console = [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return console, asked


def emulate(driver, scheme="light", width=None, height=800):
    """A colour scheme; with a width, a phone of that many CSS pixels."""
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    if width is None:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    else:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True},
        )
