"""Ours beside theirs: one page for each paper, Markdown for the docs, a table for the terminal."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group

from coldframe.claims.entry import Row
from coldframe.claims.reading import Measured
from coldframe.claims.runner import Result
from coldframe.claims.verdict import Verdict
from coldframe.progress import duration
from coldframe.reports import html, markdown, terminal
from coldframe.reports.blocks import Banner, Block, Cell, Code, Column, Heading, Mark, Page, Section, Table, Text, Tone
from coldframe.reports.numbers import DASH, plural, si, span

TONES: dict[Verdict, Tone] = {"OK": "gain", "close": "undecided", "no": "loss", "cannot tell here": "undecided"}
SCALED_DOWN = "(scaled down)"
#: Says on every page what the verdicts rest on.
RULE = (
    "Published numbers belong to other models, so each row says what is compared. OK: the 95% interval of ours has "
    "the published sign, or lies within the tolerance. Close: the sign, but a smaller effect than counts; or within "
    "twice the tolerance. No: the interval excludes it. Cannot tell here: the interval includes both, has no width, "
    "or rests on fewer than 30 rows."
)


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table: what is published, ours, the verdict, of which claim."""

    result: Result
    row: Row
    measured: Measured | None
    verdict: Verdict


def lines_of(result: Result) -> list[Line]:
    """The rows of a claim."""
    return [Line(result, *judged) for judged in result.judged]


def exact(value: float, *, sign: bool = False) -> str:
    """A number that was counted or printed, with up to five digits.

    >>> exact(4750848), exact(132.12), exact(0.01024), exact(-13.93, sign=True), exact(0, sign=True)
    ('4.75 M', '132.12', '0.01024', '−13.93', '0')
    """
    if abs(value) >= 10_000:
        return si(value)
    return f"{value:{'+' if sign and value else ''}.5g}".replace("-", "\N{MINUS SIGN}")


def _decimals(value: float) -> int:
    """Digits after the point for a measured number of this size."""
    if abs(value) >= 10 or value == 0:
        return 1
    return 2 if abs(value) >= 1 else 3


def _ours(line: Line) -> Cell | None:
    """The number with its interval; it unfolds into the command that makes it."""
    measured, finished = line.measured, line.result.finished
    if measured is None or finished is None:
        return None
    ours = measured.ours
    if ours is None or not math.isfinite(ours.value):
        return Cell(DASH, measured.remark, unfold=finished.command)
    sign = len(line.row.of) == 2 and line.row.compare in ("more", "less", "value")
    if ours.n is None and ours.low == ours.high:
        return Cell(exact(ours.value, sign=sign), unfold=finished.command)
    largest = max(abs(ours.low), abs(ours.value), abs(ours.high))
    value, _, ends = span(ours, _decimals(largest), sign=sign).partition(" ")
    n = "" if ours.n is None else f" n = {ours.n:,}, {plural(ours.seeds, 'seed')}"
    return Cell(value, f"{ends}{n}".strip(), unfold=finished.command)


def _published(line: Line) -> Cell:
    row = line.row
    signed = len(row.of) == 2 and row.compare in ("more", "less")
    value = "no number" if row.published is None else exact(row.published, sign=signed)
    return Cell(value, f"({row.model}; {row.source})")


def _cost(line: Line) -> Cell | None:
    if line.measured is None:
        return None
    trials = "" if line.result.entry.run is None else f"({plural(line.measured.trials, 'trial')})"
    return Cell(duration(line.measured.seconds), trials)


def _verdict(line: Line) -> Cell:
    scaled = SCALED_DOWN if line.result.entry.scaled_down else ""
    return Cell(line.verdict, scaled, TONES[line.verdict])


COLUMNS: tuple[Column[Line], ...] = (
    Column("claim", lambda line: Cell(line.row.claim)),
    Column("ours", _ours, "95% interval"),
    Column("published", _published, words=True),
    Column("compared", lambda line: line.row.compared, words=True),
    Column("verdict", _verdict, words=True),
    Column("cost", _cost, "of making it"),
)


def by_paper(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Claims by paper, in order."""
    papers: dict[str, list[Result]] = {}
    for result in results:
        papers.setdefault(result.entry.paper, []).append(result)
    return papers


def page_name(paper: str) -> str:
    """The name of a paper's page, without its ending.

    >>> page_name("MHA-ESP, arXiv 2510.05363")
    'mha-esp-arxiv-2510-05363'
    """
    return re.sub(r"\W+", "-", paper.lower()).strip("-")


def _counts(results: Sequence[Result]) -> str:
    """How many rows have which verdict."""
    verdicts = collections.Counter(verdict for result in results for _, _, verdict in result.judged)
    return ", ".join(f"{verdicts[word]} {word}" for word in TONES if verdicts[word])


def _tone(results: Sequence[Result]) -> Tone:
    """Of what was judged: a loss where something is refuted, a gain where everything holds; neither if scaled down."""
    if any(result.entry.scaled_down for result in results):
        return "undecided"
    verdicts = {verdict for result in results for _, _, verdict in result.judged}
    return "loss" if "no" in verdicts else "gain" if verdicts <= {"OK"} else "undecided"


def _banner(paper: str, results: Sequence[Result]) -> Banner:
    rows = sum(len(result.entry.rows) for result in results)
    headline = f"{paper}: {plural(rows, 'row')}, {_counts(results)}."
    parts: list[Block] = [Text(RULE)]
    if any(result.entry.scaled_down for result in results):
        warning = "Scaled down: fewer rows, epochs and seeds than the claim needs. Nothing is concluded."
        parts.append(Text(warning, "warn"))
    return Banner(_tone(results), headline, tuple(parts))


def _about(result: Result) -> list[Block]:
    """What a claim states, how it ran, and why it did not."""
    entry = result.entry
    blocks: list[Block] = [Text(entry.claim)]
    if entry.note:
        blocks.append(Text(entry.note, "soft"))
    if result.problem:
        blocks.append(Text(f"{result.state.capitalize()}: {result.problem}", "warn"))
    blocks.append(Table.of(COLUMNS, lines_of(result), title=entry.title))
    if result.finished is not None:
        blocks.append(Text(f"All of it took {duration(result.finished.seconds)}.", "soft"))
    return blocks


def render_page(paper: str, results: Sequence[Result], model: str, command: str) -> str:
    """The page of a paper as HTML; needs jinja2 (extra ``report``)."""
    sections = [Section(result.entry.title, tuple(_about(result)), _badge(result)) for result in results]
    sections.append(Section("How this was made", (Code(command),)))
    over = f"coldframe reproduce · frozen model {model}"
    return html.render(Page(paper, over, (_banner(paper, results),), tuple(sections)))


def _badge(result: Result) -> Mark:
    if result.state == "done":
        return Mark(_counts([result]), f"badge {_tone([result])}")
    return Mark(result.state, "badge loss" if result.state == "failed" else "badge undecided")


def render_markdown(results: Sequence[Result], command: str) -> str:
    """All claims as a page for the docs, each with its command."""
    blocks: list[Block] = []
    for paper, of_paper in by_paper(results).items():
        blocks += [Heading(paper, 2), _banner(paper, of_paper)]
        for result in of_paper:
            blocks += [Heading(result.entry.title), *_about(result)]
            blocks += [Code(result.finished.command)] if result.finished else []
    return markdown.render([*blocks, Code(command)])


def render_table(results: Sequence[Result]) -> Group:
    """All rows, to be printed by a ``rich.console.Console``."""
    blocks: list[Block] = []
    for result in results:
        blocks.append(Table.of(COLUMNS, lines_of(result), title=f"{result.entry.name}: {result.entry.title}"))
        if result.problem:
            blocks.append(Text(f"{result.state}: {result.problem}", "warn"))
    return terminal.render(blocks)


def to_dict(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Everything, ready for JSON."""
    return [
        {
            "name": result.entry.name,
            "paper": result.entry.paper,
            "title": result.entry.title,
            "state": result.state,
            "problem": result.problem,
            "scaled_down": result.entry.scaled_down,
            "seconds": None if result.finished is None else result.finished.seconds,
            "command": None if result.finished is None else result.finished.command,
            "rows": [_row_dict(line) for line in lines_of(result)],
        }
        for result in results
    ]


def _row_dict(line: Line) -> Mapping[str, Any]:
    measured = {} if line.measured is None else line.measured.to_dict()
    return {**line.row.to_dict(), **measured, "compared": line.row.compared, "verdict": line.verdict}
