"""Passages that come with a row: the cell of a log that says what was retrieved for a question."""

from __future__ import annotations

import ast
import dataclasses
import io
import itertools
import json
import re
import tokenize
from collections.abc import Iterable, Mapping
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.cells import as_text
from coldframe.tasks.table import Table
from coldframe.tasks.task import Passage

CONTEXT_NAMES = ("contexts", "retrieved_contexts", "passages", "documents", "docs", "context")
"""Columns that hold a row's own passages, if what is in them are lists."""

_TEXTS = ("text", "body", "passage", "content", "page_content", "contents")
_TITLES = ("title", "name", "source")
_PLACE = re.compile(r"[/\\]|\.[A-Za-z0-9]{1,5}$")


class OwnPassages:
    """The passages of many rows, each once: equal content is one passage, whatever it is called.

    Args:
        store: Passages that are there already.

    Attributes:
        added: Those that were not there, in their order.
    """

    def __init__(self, store: Iterable[Passage] = ()) -> None:
        self._by_content = {passage.key: passage for passage in store}
        self._ids = {passage.id for passage in self._by_content.values()}
        self.added: list[Passage] = []

    def add(self, passage: Passage) -> Passage:
        """The passage as it stands in the store.

        It keeps its own id, unless another passage has that: rows may number their passages from 0.
        """
        if (known := self._by_content.get(passage.key)) is not None:
            return known
        if passage.id in self._ids:
            passage = dataclasses.replace(passage, id=passage.key)
        self._by_content[passage.key] = passage
        self._ids.add(passage.id)
        self.added.append(passage)
        return passage


def passages_of(cell: object) -> tuple[Passage, ...]:
    """The passages of a cell: a list of texts or of mappings with ``text`` and ``title``, or the JSON of one.

    Raises:
        DataError: It is something else, or a passage is empty.

    Example:
        >>> [passage.text for passage in passages_of('[{"title": "It", "text": "It is in Rome."}, "It is old."]')]
        ['It: It is in Rome.', 'It is old.']
        >>> passages_of(["It is old."]) == passages_of([{"text": "It is old."}])
        True
    """
    items = decoded(cell)
    if not isinstance(items, list):
        got = f"{type(cell).__name__}, {str(cell)[:60]!r}"
        raise DataError("the passages are no list", got=got, expected="a list of texts, or of title and text")
    return tuple(_passage(_as_written(item)) for item in items)


def context_column(table: Table, name: str | None, used: tuple[str, ...] = ()) -> str | None:
    """The column with the passages of each row: the named one, else one that holds lists of texts or mappings.

    Args:
        table: The rows.
        name: What the user says; None to look for it.
        used: Columns that hold something else.

    Raises:
        DataError: There is no such column, or several hold lists and none has a usual name.
    """
    if name is not None:
        return table.require(name)
    listed = [column for column in table.columns if column not in used and holds_lists(table, column)]
    usual = [column for column in CONTEXT_NAMES if column in listed]
    if len(listed) > 1 and not usual:
        fix = "Name it: contexts='...' (--contexts on the command line)."
        raise DataError(f"{table.name} does not say which column holds the passages", got=", ".join(listed), fix=fix)
    return next(iter(usual or listed), None)


def holds_lists(table: Table, column: str) -> bool:
    """Whether the cells of a column are lists of texts or of mappings."""
    cells = [cell for row in table.rows[:200] if (cell := row.values.get(column)) not in (None, "")]
    lists = [items for cell in cells if isinstance(items := decoded(cell), list)]
    return bool(cells) and len(lists) == len(cells) and any(lists) and all(isinstance(i, str | dict) for i in lists[0])


def _passage(item: Any) -> Passage:
    item = _unwrapped(item)
    if isinstance(item, Mapping):
        body = next((as_text(item[key]) for key in _TEXTS if item.get(key) is not None), "")
        title = next((as_text(item[key]) for key in _TITLES if item.get(key) is not None), "")
        if title and title == as_text(item.get("source")) and _PLACE.search(title):
            title = ""  # where a passage was read from says nothing about it
        identity = as_text(item.get("id"))
    else:
        body, title, identity = as_text(item), "", ""
    if not body:
        raise DataError("a passage is empty", got=repr(item)[:80], expected="a text, or a mapping with title and text")
    return Passage.of(body, title, id=identity)


def _as_written(item: Any) -> Any:
    """What a passage is: the mapping that a text says in JSON, if it holds a text; other JSON is a text like others."""
    value = decoded(item)
    if value is item or not isinstance(item, str):
        return value
    inner = _unwrapped(value)
    holds_text = isinstance(inner, Mapping) and any(inner.get(key) is not None for key in _TEXTS)
    return value if holds_text else item


def _unwrapped(item: Any) -> Any:
    """What a framework wraps a passage in: LlamaIndex a scored node, LangChain a constructor, both objects too."""
    if isinstance(item, Mapping):
        for name in ("node", "kwargs", "document", "text_resource"):
            if isinstance(item.get(name), Mapping):
                return _unwrapped(item[name])
        return item
    for name in ("page_content", "text"):
        if isinstance(text := getattr(item, name, None), str):
            return {"text": text, "id": getattr(item, "id", None) or getattr(item, "node_id", None)}
    return item


def decoded(value: Any) -> Any:
    """What a text says in JSON, or in Python (as pandas writes lists into CSV), if it is a list or a mapping.

    Anything else stays as it is. Lists of numpy, whose items no comma parts, are not taken for lists.

    >>> decoded("['It is old.', 'It is in Rome.']"), decoded("It is old."), decoded("['a' 'b']")
    (['It is old.', 'It is in Rome.'], 'It is old.', "['a' 'b']")
    """
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = _python(value.strip())
        return parsed if isinstance(parsed, list | dict) else value
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if type(value).__module__ == "numpy" else value


def _python(text: str) -> Any:
    """A Python literal; None where it is none, or where two texts follow each other without a comma."""
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in _PARTS]
        if any(kind == follower == tokenize.STRING for kind, follower in itertools.pairwise(kinds)):
            return None
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None


_PARTS = (tokenize.STRING, tokenize.OP, tokenize.NUMBER, tokenize.NAME)
