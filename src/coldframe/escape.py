"""Words of data as they may stand in a terminal and in a spreadsheet: they give no orders there."""

from __future__ import annotations

import re
from typing import TypeVar

T = TypeVar("T")

# Control characters but tab and line feed, and those that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def visible(text: str) -> str:
    r"""Text for a terminal: control characters are shown as such, and do nothing.

    >>> visible("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def csv_cell(value: T) -> T | str:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe before it.

    Numbers stay as they are, and so does text that is one.

    >>> [csv_cell(value) for value in ("=1+1", "@SUM(A1)", "-5", "-five", -5, "a=b")]
    ["'=1+1", "'@SUM(A1)", '-5', "'-five", -5, 'a=b']
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("=", "+", "-", "@")) and value[:1] not in "\t\r\n":
        return value
    return value if _NUMBER.fullmatch(value) or not value else f"'{value}"
