"""What pages promise, without building the site: nothing from elsewhere, pictures that are there, code that exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import coldframe

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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_on_pages_names_what_exists(path: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M):
        tree = ast.parse(code)
        for name in re.findall(r"\bcf\.(\w+)", code):
            assert name in coldframe.__all__, f"coldframe.{name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coldframe"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):  # then it is a module of this package
                        importlib.import_module(f"{node.module}.{alias.name}")
