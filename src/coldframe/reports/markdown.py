"""Blocks as Markdown, for pages of results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from coldframe.reports.blocks import Banner, Block, Bullets, Code, Heading, Mark, Part, Table, Text


def render(blocks: Iterable[Block]) -> str:
    r"""Text, lists, tables, code and the banner, with empty lines between them; figures stay on the page.

    Example:
        >>> print(render([Banner("gain", "It helps."), Table.plain(["method", "F1"], [["a|b", "81.0"]])]), end="")
        **It helps.**
        <BLANKLINE>
        | method | F1 |
        | --- | ---: |
        | a\|b | 81.0 |
    """
    return "\n\n".join("\n".join(lines) for block in blocks for lines in _lines(block)) + "\n"


def escape(text: str) -> str:
    """Words of data as they may stand in a line or a cell: they become no further cell, no line and no HTML."""
    return " ".join(_safe(text).split())


def _safe(text: str) -> str:
    return re.sub(r"\||<(?=[a-zA-Z/!?])", r"\\\g<0>", text)  # a "<" that begins no tag is one


def _lines(block: Block) -> Iterator[list[str]]:
    match block:
        case Banner():
            yield [f"**{escape(block.headline)}**"]
            for inner in block.blocks:
                yield from _lines(inner)
        case Text():
            yield [_line(block.parts)]
        case Heading():
            yield [f"{'#' * block.level} {escape(block.text)}"]
        case Bullets():
            yield [f"- {_line([item])}" for item in block.items]
        case Code():
            yield ["```bash", block.text, "```"]
        case Table():
            yield list(_table(block))


def _line(parts: Iterable[Part]) -> str:
    frames = {"code": "`", "strong": "**"}
    marks = ((part.text, frames.get(part.kind, "")) if isinstance(part, Mark) else (part, "") for part in parts)
    pieces = (f"{frame}{text if frame == '`' else _safe(text)}{frame}" for text, frame in marks)
    return " ".join("".join(pieces).split())


def _table(table: Table) -> Iterator[str]:
    yield _row(escape(f"{column.title} {column.unit}") for column in table.columns)
    yield _row("---" if i == 0 or column.words else "---:" for i, column in enumerate(table.columns))
    for row in table.rows:
        name, *rest = (escape(f"{cell.text} {cell.detail}") for cell in row)
        yield _row([f"**{name}**" if row[0].kind == "main" else name, *rest])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
