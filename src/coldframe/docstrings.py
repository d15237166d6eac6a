"""Docstrings as help: what each setting means, in plain words."""

from __future__ import annotations

import re

import docstring_parser.google


def meanings_of(docstring: str) -> dict[str, str]:
    r"""What each argument of a docstring means, in plain words.

    >>> meanings_of("Settings.\n\nArgs:\n    k: *How* many, ``0``\n        for none.")
    {'k': 'How many, 0 for none.'}
    """
    return {p.arg_name: plain(p.description or "") for p in docstring_parser.google.parse(docstring).params}


def plain(text: str) -> str:
    """A docstring's words without its markup.

    >>> plain('``"auto"``: given where a *test* file is; see `coldframe methods`.')
    'auto: given where a test file is; see coldframe methods.'
    """
    text = re.sub(r'`+"([^"`]+)"`+', r"\1", " ".join(text.split()))
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"`+([^`]*)`+", r"\1", text)
    return re.sub(r"(?<!\w)\*(\w[^*]*)\*", r"\1", text)
