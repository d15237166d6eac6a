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


# What would be more than the character itself: a cell's end, code, emphasis, a tag, a link, an entity, an escape.
_MARKUP = re.compile(
    r"""[|`*~]                          # a cell's end, code, emphasis
      | (?<![^\W_])_|_(?![^\W_])        # emphasis, which does not begin or end within a word
      | <(?=[a-zA-Z/!?])                # a tag or an address
      | \](?=[\[(:])                    # a link or what defines one
      | &(?=\#?\w+;)                    # an entity
      | (?<!\S)\#+$                     # a heading's closing signs
      | \\(?=[!-/:-@\[-`{-~\s]|$)      # an escape, a line's end
    """,
    re.VERBOSE,
)
_BEGINNING = re.compile(r"^(?=[#>+=-])|(?<=^\d)(?=[.)])|(?<=^\d\d)(?=[.)])")  # a heading, a quotation, a list


def escape(text: str) -> str:
    r"""Words of data as they may stand in a line or a cell: they become no markup, no further cell and no HTML.

    >>> print(escape("a|b <i> [x](y) 2 < 3, snake_case [70, 80]"))
    a\|b \<i> [x\](y) 2 < 3, snake_case [70, 80]
    """
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def code(text: str) -> str:
    """Words of data as code within a line.

    >>> code("a`b")
    '`` a`b ``'
    """
    words = " ".join(text.split())
    fence = "`" * (1 + _longest_run(words))
    return f"{fence} {words} {fence}" if "`" in words else f"{fence}{words}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


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
            fence = "`" * max(3, 1 + _longest_run(block.text))
            yield [f"{fence}bash", block.text, fence]
        case Table():
            yield list(_table(block))


def _line(parts: Iterable[Part]) -> str:
    # In one go, so that no part ends what another began; blanks at a part's ends stay.
    pieces = [_marked(part) if isinstance(part, Mark) else _MARKUP.sub(r"\\\g<0>", part) for part in parts]
    return _BEGINNING.sub(r"\\", " ".join("".join(pieces).split()), count=1)


def _marked(mark: Mark) -> str:
    if mark.kind == "code":
        return code(mark.text)
    return f"**{escape(mark.text)}**" if mark.kind == "strong" else _MARKUP.sub(r"\\\g<0>", mark.text)


def _table(table: Table) -> Iterator[str]:
    yield _row(escape(f"{column.title} {column.unit}") for column in table.columns)
    yield _row("---" if i == 0 or column.words else "---:" for i, column in enumerate(table.columns))
    for row in table.rows:
        name, *rest = (escape(f"{cell.text} {cell.detail}") for cell in row)
        yield _row([f"**{name}**" if row[0].kind == "main" else name, *rest])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
