"""The playground over a real model: what the page shows is what the artifact says. The README's picture is made here.

COLDFRAME_SCREENSHOTS=docs/assets python -m pytest tests/e2e/test_playground.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.serving.gateway.browser import chromium, opened, shown
from tests.serving.gateway.support import Process

from coldframe.pipeline.pipeline import Pipeline

ASPIRIN = "CC(=O)OC1=CC=CC=C1C(=O)O"


@pytest.mark.e2e
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_real_artifact_in_the_playground(fitted: tuple[Pipeline, Path], size: str) -> None:
    pipeline, folder = fitted
    label, shares = pipeline.predict([ASPIRIN])[0], pipeline.predict_proba([ASPIRIN])[0]
    with Process("coldframe", "serve", "--adapter", f"b3db={folder}", "--port", "0") as gateway, chromium() as browser:
        page = opened(browser, gateway, size, adapter="b3db")
        page.get_by_label("Molecule (SMILES)").fill(ASPIRIN)
        page.get_by_role("button", name="Answer", exact=True).first.click()
        page.locator("#ways tbody tr").nth(2).wait_for()
        assert page.locator("#answer .big").inner_text() == label
        assert page.locator("#answer .first .num").inner_text() == f"{100 * max(shares):.1f}%"
        assert page.locator("#neighbours img.molecule").count() == 5
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.complaints == []
        shown(page, f"b3db-{size}")
