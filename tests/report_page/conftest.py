from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

# No test may reach out, and neither may the browser for reasons of its own.
ARGUMENTS = (
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real headless Chromium: PACKAGER_TEST_BROWSER, else the one on PATH."""
    chosen = os.environ.get("PACKAGER_TEST_BROWSER")
    names = (chosen,) if chosen else ("chromium", "chromium-browser", "google-chrome")
    executable = next((found for name in names if (found := shutil.which(name))), None)
    if executable is None:
        pytest.fail(f"no {' or '.join(names)}; run scripts/install-browser, or set PACKAGER_TEST_BROWSER=/path/to/it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield browser
        browser.close()
