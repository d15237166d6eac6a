"""The playground in a browser: what a user does with mouse and keyboard, at a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.gateway.browser import SIZES, chromium, opened, shown
from tests.serving.gateway.show import artifacts
from tests.serving.gateway.support import KEY, Process

STATIC = Path(__file__).parents[3] / "src/coldframe/serving/static"
ASPIRIN = "CC(=O)OC1=CC=CC=C1C(=O)O"


# ---- without a browser ------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere_and_has_no_script_in_it() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="([^"#]+)"', page) == [
        "static/icon.svg",
        "static/style.css",
        "static/playground.js",
    ]
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" not in text and "innerHTML" not in text and "eval(" not in text, path.name


def test_every_field_has_a_label() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    fields = re.findall(r'<(?:input|textarea|select) id="([\w-]+)"', page)
    assert len(fields) >= 4 and all(f'<label for="{field}">' in page for field in fields)


def test_text_stands_out_from_its_ground() -> None:
    """Contrast of 4.5 and more (WCAG AA), light and dark."""
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for ground in ("page", "card"):
            for ink in ("ink", "soft", "main", "loss", "gain", "open"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        heat = mixed(colours["main"], colours["card"], 0.5)  # the strongest ground of the attention
        assert contrast(colours["ink"], heat) >= 4.5
        assert contrast(colours["on-main"], colours["main"]) >= 4.5 and contrast(colours["field"], colours["card"]) >= 3


def mixed(first: str, second: str, share: float) -> str:
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * high + (1 - share) * low):02x}" for high, low in pairs)


def contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# ---- in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(root: Path) -> Iterator[Process]:
    pytest.importorskip("rdkit")
    with Process.of(artifacts(root)) as process:
        yield process


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_ask_drop_relabel(browser: Any, gateway: Process, size: str, scheme: str) -> None:
    page = opened(browser, gateway, size, scheme)
    page.get_by_label("Molecule (SMILES)").fill(ASPIRIN)
    page.get_by_role("button", name="Answer", exact=True).first.click()
    page.locator("#ways tbody tr").nth(2).wait_for()
    status, answer = gateway.post("/v1/predict", {"adapter": "oxygen", "inputs": [ASPIRIN], "attention": True})
    record = answer["answers"][0]
    assert status == 200 and page.locator("#answer .big").inner_text() == record["label"]
    share = f"{100 * record['probabilities'][record['label']]:.1f}%"
    assert page.locator("#answer .first .num").inner_text() == share
    assert page.locator("#status").inner_text().startswith(f"Answer: {record['label']}, {share}")
    assert page.locator("#neighbours li").count() == 3 and page.locator("#neighbours img.molecule").count() == 3
    assert page.locator("#neighbours img").first.evaluate("image => image.naturalWidth") == 220
    assert page.locator("#attention tbody tr").count() == len(record["attention"]) == 2
    assert page.locator("#ways tbody th").all_inner_texts()[1:] == ["Zero-shot", "Retrieved ICL"]

    first = record["neighbours"][0]
    page.get_by_role("button", name=re.compile("^Drop No. 1")).click()
    page.get_by_role("button", name=re.compile("^Put back")).wait_for()
    assert first["text"] not in page.locator("#neighbours .text").all_inner_texts()
    page.get_by_role("button", name=re.compile("^Put back")).click()
    page.locator("#dropped li").wait_for(state="hidden")
    other = {"yes": "no", "no": "yes"}[first["label"]]
    page.get_by_label("Label of No. 1").select_option(other)
    page.locator("#moved").wait_for()
    _, turned = gateway.post(
        "/v1/predict", {"adapter": "oxygen", "inputs": [ASPIRIN], "overrides": {"relabel": {first["id"]: other}}}
    )
    after = f"{100 * turned['answers'][0]['probabilities'][record['label']]:.1f}%"
    assert f"{share} → {after}" in page.locator("#moved").inner_text() and share != after
    shown(page, f"{size}-{scheme}")
    page.get_by_role("button", name="Undo all changes").click()
    page.locator("#moved").wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.complaints and page.hosts == {f"127.0.0.1:{gateway.port}"}


@pytest.mark.slow
@pytest.mark.e2e
def test_passages_and_all_of_it_by_keyboard(browser: Any, gateway: Process) -> None:
    page = opened(browser, gateway, "phone", adapter="mood")
    page.get_by_role("tab", name="Ask an adapter").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-rag" and page.locator("#rag").is_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("what is it")
    page.keyboard.press("Enter")
    page.locator("#cases tbody tr").nth(4).wait_for()
    titles = [text.split("\n")[0] for text in page.locator("#cases tbody th").all_inner_texts()]
    assert titles == ["All passages", "No passage", *(f"Without passage {i}" for i in (1, 2, 3))]
    assert page.locator("#status").inner_text().startswith("Answer: ")
    page.get_by_role("button", name="Remove passage 3").press("Enter")
    page.get_by_role("button", name="Add a passage").press("Enter")
    assert page.evaluate("document.activeElement.id") == "passage-2"
    shown(page, "passages")
    page.get_by_role("tab", name="Passages (RAG)").focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_label("Text", exact=True).fill("the answer is yes")
    page.keyboard.press("Control+Enter")
    page.locator("#answer .big").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth") and not page.complaints


@pytest.mark.slow
@pytest.mark.e2e
def test_what_goes_wrong_is_said_and_texts_are_texts(browser: Any, gateway: Process) -> None:
    page = opened(browser, gateway)
    page.get_by_label("Molecule (SMILES)").fill("no molecule at all")
    page.get_by_role("button", name="Answer", exact=True).first.click()
    page.get_by_role("alert").wait_for()
    assert "SMILES" in page.get_by_role("alert").inner_text()
    page.get_by_label("Adapter", exact=True).select_option("mood")
    page.get_by_label("Text", exact=True).fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Answer", exact=True).first.click()
    page.locator("#answer .big").wait_for()
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.slow
@pytest.mark.e2e
def test_a_key_is_given_on_the_page(browser: Any, root: Path) -> None:
    pytest.importorskip("rdkit")
    folders = {"mood": artifacts(root)["mood"]}
    with Process.of(folders, {"COLDFRAME_API_KEY": KEY}) as gateway:
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(gateway.url)
        page.get_by_role("alert").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        page.locator("#adapter option").first.wait_for(state="attached")
        page.get_by_label("Text", exact=True).fill("yes")
        page.get_by_role("button", name="Answer", exact=True).first.click()
        page.locator("#answer .big").wait_for()
