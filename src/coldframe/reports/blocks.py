"""What a report consists of, as plain data. HTML, Markdown and the terminal each show the blocks in their own way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from coldframe.reports.figures import Drawing
from coldframe.reports.numbers import DASH, Outcome, Ranged, flatten, span

T = TypeVar("T")

#: The colour of a verdict: its outcome, or the main colour of the page.
Tone: TypeAlias = Outcome | Literal["main"]


@dataclasses.dataclass(frozen=True)
class Mark:
    """Words that look different: ``kind`` is ``"code"``, ``"strong"``, ``"badge TONE"``, ``"key KIND"`` or a tone."""

    text: str
    kind: str


#: A piece of running text.
Part: TypeAlias = str | Mark


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; ``kind`` is ``"soft"`` for an explanation, ``"warn"`` for a warning, ``"code"`` for a string."""

    words: str | tuple[Part, ...]
    kind: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its pieces."""
        return (self.words,) if isinstance(self.words, str) else self.words


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading within a section; ``level`` counts in Markdown only."""

    text: str
    level: int = 3


@dataclasses.dataclass(frozen=True)
class Code:
    """A command or program."""

    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list; ``kind`` is ``"soft"``, ``"warn"``, or ``"against"`` for comparisons, marked by their tones."""

    items: tuple[Part, ...]
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Terms:
    """Words with their meanings."""

    pairs: tuple[tuple[Part, str], ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture inside the page: a ``data:`` address and its size in pixels."""

    uri: str
    alt: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The value.
        detail: Small, below it on a page and beside it in text: an interval, a unit.
        kind: A tone, ``"right"``, ``"wrong"`` or ``"code"``; ``"main"`` in the first cell marks the whole row.
        heat: Shade of the background, 0 to 1.
        bar: Length of a bar below the value, 0 to 1.
        hint: Shown under the pointer.
        picture: Stands on a page in the text's place.
        order: What a table that sorts goes by, if not the text.
        unfold: A command that the text opens into at a click, on a page.
    """

    text: str
    detail: str = ""
    kind: str = ""
    heat: float | None = None
    bar: float | None = None
    hint: str = ""
    picture: Picture | None = None
    order: float | None = None
    unfold: str = ""


def ranged(interval: Ranged | None, decimals: int = 1, *, kind: str = "", **options: Any) -> Cell | None:
    """A value with its interval as the detail, see :func:`span`; None where there is no value."""
    if interval is None or math.isnan(interval.value):
        return None
    value, _, ends = span(interval, decimals, **options).partition(" ")
    return Cell(value, ends, kind)


@dataclasses.dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table: its title, the unit below it, and the cell of an item, None where there is no value.

    ``words`` stand on the left and may break; numbers stand on the right.
    """

    title: str
    cell: Callable[[T], Cell | str | None]
    unit: str = ""
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Items below one another; the first column names them.

    On a page ``kind`` is ``"facts"`` (name, value, meaning), ``"settings"``, ``"heat"``, ``"sorts"`` (by a click on a
    title), or plain; a terminal shows the ``title``.
    """

    columns: tuple[Column[Any], ...]
    rows: tuple[tuple[Cell, ...], ...]
    kind: str = ""
    title: str = ""

    @classmethod
    def of(cls, columns: Iterable[Column[T]], items: Iterable[T], **more: Any) -> Table:
        """The table of some items. A column in which no item has a value is left out; elsewhere a dash stands for it.

        Example:
            >>> columns = [Column[tuple](name, itemgetter(i)) for i, name in enumerate(("method", "score", "note"))]
            >>> table = Table.of(columns, [("idpg", "81.2", None), ("icl", None, None)])
            >>> [column.title for column in table.columns]
            ['method', 'score']
            >>> [[cell.text for cell in row] for row in table.rows]
            [['idpg', '81.2'], ['icl', '–']]
        """
        items = list(items)
        values = [(column, [column.cell(item) for item in items]) for column in columns]
        shown = [(column, cells) for column, cells in values if any(cell is not None for cell in cells)]
        rows = zip(*(map(_cell, cells) for _, cells in shown), strict=True)
        return cls(tuple(column for column, _ in shown), tuple(rows), **more)

    @classmethod
    def plain(
        cls, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, words: Container[int] = (0,), **more: Any
    ) -> Table:
        """A table as it is; ``words`` are the places of the columns that hold words, the others hold numbers."""
        columns = [Column[Sequence[Cell | str]](name, itemgetter(i), words=i in words) for i, name in enumerate(head)]
        return cls.of(columns, rows, **more)


def _cell(value: Cell | str | None) -> Cell:
    return value if isinstance(value, Cell) else Cell(DASH if value is None else value)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing and what it shows, in a sentence."""

    drawing: Drawing
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Blocks that belong together.

    ``kind`` is ``"grid"`` for blocks beside one another where there is room, ``"grid pair"`` for a narrow one beside a
    wide one, ``"card"`` for a frame with a picture on the left, ``"fold"`` for a title that opens at a click.
    """

    blocks: tuple[Block, ...]
    kind: Literal["grid", "grid pair", "card", "fold"] = "grid"
    title: str = ""
    picture: Picture | None = None


@dataclasses.dataclass(frozen=True)
class Banner:
    """The verdict, first on every report: one sentence, then what it rests on."""

    tone: Tone
    headline: str
    blocks: tuple[Block, ...] = ()
    badge: str = ""


Block: TypeAlias = Text | Heading | Bullets | Code | Terms | Table | Figure | Group | Banner


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading, with a badge for what this part says on its own; without blocks it is left out."""

    title: str
    blocks: tuple[Block, ...]
    badge: Mark | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """A report on a page: a line on what it is about, the header with the banner, and the sections."""

    title: str
    over: str
    header: tuple[Block, ...]
    sections: tuple[Section, ...]


def notes(lines: Sequence[str], kind: str = "soft") -> tuple[Block, ...]:
    """A list of remarks; nothing where there are none."""
    return (Bullets(tuple(lines), kind),) if lines else ()


def figures(drawings: Iterable[Drawing | None]) -> tuple[Block, ...]:
    """Drawings beside one another; nothing where there are none."""
    shown = tuple(Figure(drawing) for drawing in drawings if drawing)
    return (Group(shown),) if shown else ()


def provenance(
    command: str, parts: Mapping[str, Mapping[str, Any]], *, seconds: float | None = None, data_name: str = ""
) -> Section:
    """The end of every page: the command that makes it again, settings by heading, time, the file with the data."""
    blocks: list[Block] = [Code(command)] if command else []
    for title, values in parts.items():
        table = Table.plain(("", ""), flatten(values), words=(0, 1), kind="settings")
        blocks += [Group((table,), "fold", title)] if table.rows else []
    end: list[Part] = [] if seconds is None else [f"It took {seconds:.0f} s. "]
    end += ["The same numbers are in ", Mark(data_name, "code"), ", beside this page."] if data_name else []
    return Section("How this was made", (*blocks, *([Text(tuple(end), "soft")] if end else [])))
