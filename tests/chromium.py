"""A real browser without a window: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.missing_tools import lacks

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Without one the test is skipped, or fails where nothing may be skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        lacks("no Chromium: deploy/scripts/chromium installs Debian's")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root with one
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
