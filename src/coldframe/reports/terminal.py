"""Blocks for a terminal, to be printed by a ``rich.console.Console``."""

from __future__ import annotations

from collections.abc import Iterable

from rich import table as rich_table
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text as RichText

from coldframe.reports.blocks import Banner, Block, Bullets, Heading, Mark, Part, Table, Text

_COLOURS = {"gain": "green", "loss": "red", "undecided": "yellow", "warn": "yellow", "main": "cyan"}


def render(blocks: Iterable[Block]) -> Group:
    """The banner, tables, text and lists; other blocks are left out.

    Example:
        >>> from rich.console import Console
        >>> console = Console(width=60)
        >>> with console.capture() as capture:
        ...     console.print(render([Table.plain(["method", "F1"], [["icl [k = 3]", "81.0"]])]))
        >>> "icl [k = 3]" in capture.get()
        True
    """
    return Group(*(shown for block in blocks if (shown := _block(block)) is not None))


def _block(block: Block) -> RenderableType | None:
    match block:
        case Banner():
            text = RichText(block.headline, style="bold")
            for line in block.blocks:
                if isinstance(line, Text | Bullets | Heading):
                    text.append("\n").append(_words(line))
            return Panel(text, title=RichText(block.badge) if block.badge else None, border_style=_COLOURS[block.tone])
        case Table():
            return _table(block)
        case Text() | Bullets() | Heading():
            return _words(block)
    return None


def _words(block: Text | Bullets | Heading) -> RichText:
    # RichText, not str: a name with square brackets is a name, not markup.
    if isinstance(block, Heading):
        return RichText(block.text, style="dim")
    style = "not bold " + _COLOURS.get(block.kind, "")
    if isinstance(block, Text):
        return RichText("".join(map(_part, block.parts)), style=style)
    return RichText("\n".join(f"• {_part(item)}" for item in block.items), style=style)


def _part(part: Part) -> str:
    return part.text if isinstance(part, Mark) else part


def _table(block: Table) -> RenderableType:
    table = rich_table.Table(
        title=RichText(block.title), title_justify="left", show_header=any(c.title for c in block.columns)
    )
    for i, column in enumerate(block.columns):
        heading = RichText(column.title).append(f"\n{column.unit}" if column.unit else "", style="dim")
        table.add_column(heading, justify="left" if i == 0 or column.words else "right")
    for row in block.rows:
        cells = ((f"{cell.text} {cell.detail}".rstrip(), _COLOURS.get(cell.kind, "")) for cell in row)
        table.add_row(*(RichText(*cell) for cell in cells), style="bold" if row[0].kind == "main" else "")
    return table
