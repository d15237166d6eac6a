"""Notebooks become pages of the site: their text as it stands, their code in fences, and a link to the file itself."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NOTEBOOK_LINK = re.compile(r"(\]\((?!https?:)[^)\s]*)\.ipynb\)")


def page(notebook: Path) -> str:
    """The Markdown of a notebook."""
    cells = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, *rest = cells
    return "\n\n".join([title, f"This page is a notebook: [{notebook.name}]({notebook.name}){{ download }}", *rest])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page beside every notebook."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb") and file.abs_src_path:
            uri = posixpath.splitext(file.src_uri)[0] + ".md"
            files.append(File.generated(config, uri, content=page(Path(file.abs_src_path))))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to a notebook lead to its page; on the page itself, to the file."""
    return markdown if page.file.generated_by else NOTEBOOK_LINK.sub(r"\1.md)", markdown)
