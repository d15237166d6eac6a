"""What the report on a reweighted model says, as blocks for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coldframe.evaluation import head_gains
from coldframe.reports import blocks, html, markdown
from coldframe.reports.blocks import Block, Code, Column, Figure, Heading, Section, Table, Text
from coldframe.reports.figures import Bar, Chart, Forest, Kind, Line
from coldframe.reports.numbers import fixed, plural
from reproduction.reweighted.data import SHOWN, QuestionSet, Reweighted
from reproduction.reweighted.scores import Cell
from reproduction.reweighted.verdict import BASE, PEAR, SYSTEMS, judge

WORDS: Mapping[str, str] = {
    **head_gains.WORDS,
    "interval": "In 95 of 100 repetitions with other questions such an interval holds the true value. Differences are "
    "paired: both systems answered the same questions.",
    "answer contained": "An accepted answer stands in the first line that was written, both without case, punctuation "
    "and articles, at word boundaries.",
    "right one the likeliest": "Among the right answer and wrong ones, which are answers to other questions, the right "
    "one is likelier than each of the others.",
    "loss among answers": "Minus the logarithm of the right answer's share of the probability of all of these, nats. "
    "How likely it is that an answer begins in another way has no part in it.",
    "loss of the right answer": "Minus the logarithm of its probability, the mean over its tokens, nats. It finds "
    "differences with far fewer questions than written answers do; but an answer can become likelier and stay "
    "unwritten.",
}


def render_page(data: Reweighted, data_name: str = "") -> str:
    """The page as HTML, see :func:`coldframe.reports.html.render`.

    Args:
        data: What to show.
        data_name: Of the file with the same as data, beside the page; empty if there is none.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    prompts = sum(questions.rows for questions in data.sets)
    counted = f" · {plural(prompts, 'prompt')} in {plural(len(data.sets), 'set')}" if data.sets else ""
    terms = [*WORDS.items(), *((name, SYSTEMS[name]) for name in data.systems if name in SYSTEMS)]
    sets = (block for questions in data.sets for block in _set(data, questions))
    places = blocks.figures(_by_place(data, questions) for questions in data.sets)
    sections = (
        Section("Is it these heads, or any?", _gaps(data)),
        Section("Where the gold document stands", places),
        Section("Which heads", head_gains.head_blocks(data.gains) if data.gains else ()),
        Section("How copying goes", _copying(data)),
        Section("All systems", tuple(sets)),
        Section("What it must keep", (_table(data.retained, named=True),) if data.retained else ()),
        Section("What to know about it", blocks.notes(data.notes)),
        Section("What the words mean", (blocks.Terms(tuple(terms)),)),
        blocks.provenance(data.command, {"Settings": data.settings}, seconds=data.seconds, data_name=data_name),
    )
    over = f"coldframe · PEAR on {data.model}{counted}"
    return html.render(blocks.Page(f"{data.model}, reweighted", over, (_banner(data),), sections))


def render_markdown(data: Reweighted) -> str:
    """Headline, reasons, tables, notes and the command that makes them again, for a page of results."""
    parts: list[Block] = [_banner(data)]
    for questions in data.sets:
        parts += [*_set(data, questions), *_place_table(data, questions)]
    if data.retained:
        parts += [Heading("What it must keep"), _table(data.retained, named=True)]
    if data.curves:
        curves = _mean_curves(data)
        places = [place for place in (0, 4, 9, 19, 29, 48) if place < min(map(len, curves.values()))]
        rows = [[name, *(fixed(curve[place], 3) for place in places)] for name, curve in curves.items()]
        head = ["system", *(str(place + 2) for place in places)]
        parts += [Heading("Loss of a copy, by place"), Table.plain(head, rows)]
    return markdown.render([*parts, *blocks.notes(data.notes), *([Code(data.command)] if data.command else [])])


def _banner(data: Reweighted) -> blocks.Banner:
    verdict = judge(data)
    return blocks.Banner(verdict.outcome, verdict.headline, blocks.notes(verdict.reasons, ""))


def _set(data: Reweighted, questions: QuestionSet) -> list[Block]:
    places = f", the gold document at {', '.join(str(p + 1) for p in questions.places)}" if questions.places else ""
    summary = (
        f"{plural(questions.questions, 'question')} ({plural(questions.rows, 'prompt')}{places}); a prompt has "
        f"{questions.documents:.1f} documents and {questions.tokens:.0f} tokens in the mean. The passages of "
        f"{plural(questions.cut, 'prompt')} were cut."
    )
    cells = [cell for cell in data.cells if cell.set == questions.name and cell.place is None]
    return [Heading(questions.name), Text(summary, "soft"), _table(cells)]


def _table(cells: Sequence[Cell], named: bool = False) -> Table:
    def gap(cell: Cell) -> str | None:
        return SHOWN[cell.metric].span(cell.gap.interval, sign=True) if cell.gap else None

    columns: list[Column[Cell]] = [
        Column("system", lambda cell: blocks.Cell(cell.system, kind="main" if cell.system == PEAR else "")),
        Column("set", lambda cell: cell.set if named else None, words=True),
        Column("metric", lambda cell: SHOWN[cell.metric].words, words=True),
        Column("score", lambda cell: SHOWN[cell.metric].span(cell.level), "[95%]"),
        Column(f"minus {BASE}", gap, "[95%], paired"),
        Column("n", lambda cell: str(cell.level.n)),
        Column("seeds", lambda cell: str(cell.level.seeds)),
        Column(
            "n for 2 points", lambda cell: f"{cell.gap.needed:,}" if cell.gap and cell.gap.needed else None, "power 80%"
        ),
    ]
    return Table.of(columns, cells)


def _kind(system: str) -> Kind:
    return "main" if system == PEAR else "control" if system in SYSTEMS else "method"


def _gaps(data: Reweighted) -> tuple[Block, ...]:
    """For each metric, every system's difference from the base, averaged over the sets."""
    figures = []
    for metric in ("contains", "chosen", "choice_loss", "loss"):
        info, bars = SHOWN[metric], []
        for gap in (gap for gap in data.overall if gap.against == BASE and gap.metric == metric):
            text, note = info.span(gap.interval, sign=True), SYSTEMS.get(gap.system, "")
            bars.append(Bar.of(gap.system, _kind(gap.system), gap.interval, text, note=note))
        if bars:
            figures.append(Figure(Forest.of(f"{info.words}: difference from the model as it is", bars, [0.0])))
    note = (
        "Every system answered the same questions, and each set counts alike, whatever its size. Bars are 95% "
        "intervals; the dashed line is no difference."
    )
    return (Text(note, "soft"), *figures) if figures else ()


def _by_place(data: Reweighted, questions: QuestionSet) -> Chart | None:
    """The primary metric by place of the gold document, one line for each system that was measured at all places."""
    lines = []
    for system in data.systems:
        cells = [data.cell(questions.name, system, data.primary, place) for place in questions.places]
        points = [(place + 1.0, cell.level.value) for place, cell in zip(questions.places, cells, strict=True) if cell]
        if len(points) == len(cells):
            lines.append(Line(system, tuple(points)))
    ticks = {place + 1.0: str(place + 1) for place in questions.places}
    title = f"{SHOWN[data.primary].title} on {questions.name}"
    return Chart.of(title, "place of the gold document", lines, ticks=ticks)


def _place_table(data: Reweighted, questions: QuestionSet) -> list[Block]:
    """The same as numbers, for Markdown."""
    info, rows = SHOWN[data.primary], []
    for system in data.systems:
        cells = [data.cell(questions.name, system, data.primary, place) for place in questions.places]
        if cells and all(cells):
            rows.append([system, *(info.span(cell.level) for cell in cells if cell)])
    head = [f"{info.words} by place", *(str(place + 1) for place in questions.places)]
    return [Table.plain(head, rows)] if rows else []


def _copying(data: Reweighted) -> tuple[Block, ...]:
    """The loss at each place of a copy, the mean over seeds, and the loss while the gains were trained."""
    means = _mean_curves(data)
    lines = [Line(name, tuple((float(i), value) for i, value in enumerate(curve, 2))) for name, curve in means.items()]
    chart = Chart.of("Loss of a copy, by place", "token of the copy", lines)
    return (*(head_gains.training_blocks(data.gains) if data.gains else ()), *blocks.figures([chart]))


def _mean_curves(data: Reweighted) -> dict[str, list[float]]:
    return {name: np.mean(np.asarray(seeds, float), axis=0).tolist() for name, seeds in data.curves.items()}
