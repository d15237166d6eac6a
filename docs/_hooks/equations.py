r"""Equations become MathML while the site is built, so that pages need no script for them.

A fence ``math`` is an equation of its own, and ``$`x_k`$`` is one in a sentence: the two ways that GitHub reads too.
Use ``align*`` where signs shall stand below each other.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

INLINE = re.compile(r"\$<code>(.*?)</code>\$", re.S)
PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>")
NOT_CONVERTED = re.compile(r"<m[io]>(\\[a-zA-Z]+|&)</m[io]>")


def mathml(latex: str, display: str) -> str:
    """An equation as MathML; one that uses what the converter does not know stops the build."""
    markup = convert(latex, display=display)
    if unknown := NOT_CONVERTED.search(markup):
        raise PluginError(f"{unknown[1]} is not known to latex2mathml, in the equation:\n{latex}")
    return PRIME.sub(r"<mrow>\1<mi>&#x02032;</mi></mrow>", markup)  # the sign is raised by itself


def fence(source: str, *_: Any, **__: Any) -> str:
    """What stands for a fence ``math``; wide equations scroll by themselves, not with their page."""
    return f'<div class="equation" tabindex="0">{mathml(source, "block")}</div>'


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Hands the fence to the extension that reads fences."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "equation", "format": fence})
    return config


def on_page_content(content: str, **_: Any) -> str:
    """Replaces the equations in sentences and tables."""
    return INLINE.sub(lambda match: mathml(html.unescape(match[1]), "inline"), content)
