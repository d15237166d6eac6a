"""The playground in a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.gateway.support import Process

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"desk": (1200, 900), "phone": (390, 844)}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Any, gateway: Process, size: str = "desk", scheme: str = "light", adapter: str = "oxygen") -> Any:
    """A page with an adapter chosen; what it complains about goes into ``page.complaints``."""
    width, height = SIZES[size]
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    page.set_default_timeout(60_000)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    hosts = page.hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url[:4] == "http" else None)
    page.goto(gateway.url)
    page.get_by_label("Adapter", exact=True).select_option(adapter)
    return page


def shown(page: Any, name: str) -> None:
    """Keep a picture where ``COLDFRAME_SCREENSHOTS`` says."""
    if folder := os.environ.get("COLDFRAME_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"playground-{name}.png", full_page=True)
