"""What the sources write for readers of code becomes Markdown while the site is built."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULES = (
    (re.compile(r"^(\s*)Example:$", re.M), r"\1Examples:"),  # griffe takes doctests for code only under the plural
    (re.compile(r":\w+:`~?([^`]+)`"), r"`\1`"),  # roles
    (re.compile(r"::$", re.M), ":"),  # an indented block follows
)


class Docstrings(griffe.Extension):
    """Applies the rules to every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object that griffe has read."""
        if obj.docstring is not None:
            for pattern, replacement in RULES:
                obj.docstring.value = pattern.sub(replacement, obj.docstring.value)
