"""The report of two pipelines on the same questions."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group as RichGroup

from coldframe.diagnosis.paired import Pair, PairedLoss, PairedQuestion
from coldframe.reports import blocks, html, terminal
from coldframe.reports.blocks import Cell, Column, Section, Table, Text, ranged
from coldframe.reports.numbers import fixed, p_value, plural
from coldframe.storage.files import write_json, write_text

_WHAT = {
    "full": "what it retrieves",
    "empty": "nothing",
    "swapped": "what it retrieves for another question",
}
SHOWN = 500  # questions on the page


def write_pair(pair: Pair, folder: Path, command: str = "") -> None:
    """Write ``comparison.json`` and ``comparison.html``.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    write_json(folder / "comparison.json", pair.to_dict())
    ordered = sorted(pair.questions, key=lambda q: q.second - q.first)
    columns: list[Column[PairedQuestion]] = [
        Column("question", lambda q: Cell(q.question or q.id, q.id if q.question else ""), words=True),
        Column(pair.names[0], lambda q: Cell(fixed(q.first, 2), order=q.first)),
        Column(pair.names[1], lambda q: Cell(fixed(q.second, 2), order=q.second)),
        Column("difference", lambda q: Cell(fixed(q.first - q.second, 2, sign=True), order=q.first - q.second)),
    ]
    text = f"Losses in {pair.unit}; above 0 {pair.names[1]} is better. On a screen, a click on a title sorts."
    sections = (
        Section("With and without retrieval", (_table(pair),)),
        Section("Question by question", (Text(text), Table.of(columns, ordered[:SHOWN], kind="sorts"))),
        blocks.provenance(command, {}, data_name="comparison.json"),
    )
    over = f"coldframe diagnose · {pair.names[0]} and {pair.names[1]} · {plural(pair.n, 'question')}"
    banner = blocks.Banner(_tone(pair), pair.headline)
    title = f"{pair.names[0]} and {pair.names[1]}"
    write_text(folder / "comparison.html", html.render(blocks.Page(title, over, (banner,), sections)))


def render_pair(pair: Pair) -> RichGroup:
    """The same for a terminal."""
    return terminal.render([blocks.Banner(_tone(pair), pair.headline), _table(pair)])


def _tone(pair: Pair) -> blocks.Tone:
    difference = pair.losses[0].difference
    return "gain" if difference.low > 0 else "loss" if difference.high < 0 else "undecided"


def _table(pair: Pair) -> Table:
    columns: list[Column[PairedLoss]] = [
        Column("the model with", lambda row: _WHAT.get(row.condition, row.condition)),
        Column(pair.names[0], lambda row: ranged(row.first, 3), "loss [95%]"),
        Column(pair.names[1], lambda row: ranged(row.second, 3), "loss [95%]"),
        Column("difference", lambda row: ranged(row.difference, 3, sign=True), "paired [95%]"),
        Column("p", lambda row: p_value(row.difference.p_value), "permutation"),
    ]
    return Table.of(columns, pair.losses, title=f"{plural(pair.n, 'question')}, losses in {pair.unit}")
