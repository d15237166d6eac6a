"""Pages: one HTML file each that needs nothing else, at any width, on screen and on paper."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from coldframe.errors import MissingExtraError
from coldframe.reports.blocks import Page

if TYPE_CHECKING:
    from jinja2 import Environment


def render(page: Page) -> str:
    """A page as HTML.

    Everything that comes from data is escaped. The page loads nothing and runs no script but the one that sorts
    tables, and says so to the browser in its content security policy.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.

    Example:
        >>> from coldframe.reports.blocks import Banner
        >>> page = Page("<b>", "a task", (Banner("undecided", "Too few rows to tell."),), ())
        >>> "<title>&lt;b&gt; – coldframe</title>" in render(page)
        True
    """
    templates = environment()
    html = templates.get_template("page.html.j2").render(page=page, script="")
    if 'class="sorts' not in html:
        return html
    assert templates.loader is not None  # given below
    script = templates.loader.get_source(templates, "sort.js")[0]
    return templates.get_template("page.html.j2").render(page=page, script=script, script_hash=_csp_hash(script))


def _csp_hash(script: str) -> str:
    """What a content security policy calls a script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def environment() -> Environment:
    """Fills the templates; called before long work, it raises the MissingExtraError (jinja2) in time."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "Writing a report") from error
    environment = Environment(
        loader=PackageLoader("coldframe.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["macro"] = lambda block: type(block).__name__
    return environment
