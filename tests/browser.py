"""The browser that looks at pages, and what happens where there is none."""

import os
import shutil

import pytest

REQUIRED = "JANOSCOPE_REQUIRE_BROWSER"  # set by .ci/run: there a skip would be a hole in the net
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: chromium) to look at the page")


def check_present(browser: str | None) -> None:
    """Raise where a browser is missing that must not be."""
    if browser is None and os.environ.get(REQUIRED):
        raise RuntimeError(f"{REQUIRED} is set and no chromium is installed: tests of pages would be skipped")


check_present(BROWSER)
