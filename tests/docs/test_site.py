"""What the site promises, without building it: nothing from elsewhere, pictures that are there and described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def test_styles_and_settings_name_nothing_elsewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^  font: false", settings, re.M) and "extra_javascript" not in settings
    assert "repo_url" not in settings  # the theme asks GitHub's server about it whenever a page is opened
    for style in (ROOT / "docs/assets").glob("*.css"):
        addresses = re.findall(r"url\(\"?([^)\"]+)", style.read_text(encoding="utf-8"))
        assert addresses and all((style.parent / address).is_file() for address in addresses)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pictures_are_there_described_and_small(path: Path) -> None:
    for words, target in PICTURE.findall(path.read_text(encoding="utf-8")):
        picture = path.parent / target
        assert picture.is_file(), target
        assert len(words) > 20 or picture.suffix != ".png", f"{target} has no words that say what it shows"
        assert picture.suffix != ".png" or picture.stat().st_size < 200_000, target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_equations_are_closed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    equations = re.findall(r"```math\n(.*?)```", text, re.S) + re.findall(r"\$`(.*?)`\$", text)
    for equation in equations:
        assert equation.count("{") == equation.count("}")
        assert equation.count(r"\begin{") == equation.count(r"\end{")
