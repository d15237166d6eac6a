"""The report of a diagnosed log: page, terminal and tables, in the words of those who run the pipeline."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group as RichGroup

from coldframe.diagnosis.effects import ENOUGH, MeanEffect, QuestionEffect
from coldframe.diagnosis.rag_evidence import RagDiagnosis, Rate
from coldframe.diagnosis.report import OUTCOMES, numbers
from coldframe.diagnosis.verdict import MIN_QUERIES
from coldframe.escape import csv_cell
from coldframe.reports import blocks, html, terminal
from coldframe.reports.blocks import Block, Cell, Column, Figure, Group, Section, Table, Text, ranged
from coldframe.reports.figures import Bar, Forest, Kind
from coldframe.reports.numbers import fixed, percent, percent_span, plural
from coldframe.storage.files import write_json, write_text

#: Rows of a table on the page; the CSV has all.
SHOWN = 500


def render_report(result: RagDiagnosis, data_name: str = "diagnosis.json") -> str:
    """The report as HTML, see :func:`coldframe.reports.html.render`.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    d = result.diagnosis
    sections = (
        Section("Is the retrieval used?", _answers(result)),
        Section("Question by question", _questions(result)),
        Section("Passage by passage", _passages(result)),
        Section("The retriever alone", _retriever(result)),
        Section("What to know about it", blocks.notes(result.notes)),
        Section("The evidence", (Group(numbers(d), "fold", "All conditions, with intervals"),)),
        blocks.provenance(d.command, {}, seconds=d.seconds, data_name=data_name),
    )
    over = f"coldframe diagnosis · {result.log} · model {d.model} · {plural(d.n, 'question')}"
    return html.render(blocks.Page(f"Diagnosis of {result.log}", over, (_banner(result),), sections))


def render_table(result: RagDiagnosis) -> RichGroup:
    """The verdict and the numbers behind it, to be printed by a ``rich.console.Console``."""
    title = f"{result.log}, {result.diagnosis.model}, {plural(result.diagnosis.n, 'question')}"
    facts = [Text(f"{name}: {value}") for name, value, _ in _facts(result)]
    counts = Text(_counted(result.questions))
    return terminal.render([_banner(result), _rates(result, title), counts, *facts])


def write_report(result: RagDiagnosis, folder: Path) -> list[Path]:
    """Write ``diagnosis.json``, ``questions.csv``, ``passages.csv`` and ``diagnosis.html``; returns their paths."""
    paths = [folder / name for name in ("diagnosis.json", "questions.csv", "passages.csv", "diagnosis.html")]
    write_json(paths[0], result.to_dict())
    write_text(paths[1], questions_csv(result))
    write_text(paths[2], passages_csv(result))
    write_text(paths[3], render_report(result))
    return paths


def questions_csv(result: RagDiagnosis) -> str:
    """A line for each question: its losses, the effect of retrieval, and the passage that did it."""
    head = ("id", "question", "answer", "loss", "without", "others", "change", "effect", "decisive_rank", "decisive")
    lines = []
    for q in result.questions:
        best = q.decisive
        decisive = (best.rank, best.text) if best else ("", "")
        lines.append((q.id, q.question, q.answer, q.loss, q.without, q.others, q.change, q.effect, *decisive))
    return _csv(head, lines)


def passages_csv(result: RagDiagnosis) -> str:
    """A line for each passage of each question, with what it does there."""
    head = ("id", "rank", "change", "effect", "passage")
    return _csv(head, ((q.id, p.rank, p.change, p.effect, p.text) for q in result.questions for p in q.passages))


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[csv_cell(value) for value in line] for line in lines])
    return out.getvalue()


def _banner(result: RagDiagnosis) -> blocks.Banner:
    verdict = result.diagnosis.verdict
    tone = OUTCOMES[verdict.outcome][0]
    if result.diagnosis.store_ablation.gain.high < 0:
        tone = "loss"
    parts: list[Block] = [*blocks.notes(result.warnings, "warn")]
    if result.probability:
        own, none, others = (_probability(rate.value.value) for rate in result.probability)
        right = "right" if result.is_gold else "logged"
        parts.append(
            Text(
                f"The verdict rests on how probable the {right} answer is to the model: {own} a token with the "
                f"retrieved passages, {none} without, {others} with another question's."
            )
        )
    if not result.is_gold:
        parts.append(Text("The log has no right answers: this speaks of use, not of correctness.", "warn"))
    if needed := verdict.queries_needed:
        if needed == MIN_QUERIES:
            parts.append(Text(f"It takes {needed} different questions or more."))
        else:
            there = f"would tell if the values stay as they are; there are {result.diagnosis.n:,}"
            parts.append(Text(f"About {needed:,} questions {there}."))
    return blocks.Banner(tone, result.headline, tuple(parts))


def _probability(value: float) -> str:
    return f"{100 * value:.{0 if value >= 0.1 else 1}f}%"


def _answers(result: RagDiagnosis) -> tuple[Block, ...]:
    what = "right" if result.is_gold else "like the logged one"
    text = (
        "Every question is put to the model three times: with the passages that were retrieved for it, without any, "
        "and with those that were retrieved for another question. If the last does as well as the first, it does not "
        "matter what the retriever returns."
    )
    bars = []
    for place, rate in enumerate(result.right):
        kind: Kind = "main" if place == 0 else "method"
        bars.append(Bar.of(rate.situation, kind, rate.value, percent_span(rate.value), scale=100))
    drawing = Forest.of(f"answers {what}, in %", bars, holds=(0.0, 100.0))
    return Text(text), Figure(drawing, f"Scored by: {result.grading}. Bars are 95% intervals over questions.")


def _rates(result: RagDiagnosis, title: str) -> Table:
    probability = {rate.situation: rate.value for rate in result.probability}
    what = "answers right" if result.is_gold else "answers like the logged ones"
    what = f"{what}: {result.grading}"
    columns: list[Column[Rate]] = [
        Column("the model", lambda rate: rate.situation),
        Column(what, lambda rate: ranged(rate.value, 0, scale=100, unit="%"), "[95%]"),
        Column(
            "probability of a token",
            lambda rate: ranged(probability.get(rate.situation), 0, scale=100, unit="%"),
            "[95%]",
        ),
    ]
    return Table.of(columns, result.right, title=title)


def _counted(questions: Sequence[QuestionEffect]) -> str:
    counts = Counter(question.effect for question in questions)
    helped, hurt, nothing = counts["helped"], counts["hurt"], counts["did nothing"]
    total = plural(len(questions), "question")
    return f"Retrieval helped for {helped:,} of {total}, hurt for {hurt:,}, and did nothing for {nothing:,}."


def _questions(result: RagDiagnosis) -> tuple[Block, ...]:
    text = (
        f"{_counted(result.questions)} A change is the loss without passages minus the loss with them: above 0 they "
        "help. On a screen, a click on a title sorts."
    )
    decisive = {id(q): q.decisive for q in result.questions}

    def passage(q: QuestionEffect) -> Cell | None:
        best = decisive[id(q)]
        return None if best is None else Cell(_short(best.text), f"rank {best.rank}")

    columns: list[Column[QuestionEffect]] = [
        Column("question", lambda q: Cell(_short(q.question), f"{q.id}: {_short(q.answer)}"), words=True),
        Column("retrieval", lambda q: Cell(q.effect, kind=_TONES[q.effect]), words=True),
        Column("change", lambda q: _change(q.change)),
        Column("against another's passages", lambda q: _change(q.others - q.loss)),
        Column("the passage that did it", passage, words=True),
    ]
    ordered = sorted(result.questions, key=lambda q: q.change)
    parts: list[Block] = [Text(text), Table.of(columns, ordered[:SHOWN], kind="sorts")]
    if len(ordered) > SHOWN:
        parts.append(Text(f"The first {SHOWN} of {len(ordered):,}; questions.csv has all.", "soft"))
    return tuple(parts)


def _passages(result: RagDiagnosis) -> tuple[Block, ...]:
    text = (
        "Each question again without one of its passages. The change is the loss without the passage minus the loss "
        "with all: above 0 it helps. Two passages that say the same do nothing each, because the other is still there."
    )
    bars = []
    for row in result.ranks:
        if math.isfinite(row.change.low):
            shown, note = fixed(row.change.value, 2), plural(row.questions, "question")
            bars.append(Bar.of(f"passage {row.name}", "method", row.change, shown, note=note))
    parts: list[Block] = [Text(text)]
    if bars:
        drawing = Forest.of(f"mean change, in {result.diagnosis.unit}", bars, [0.0])
        parts.append(Figure(drawing, "In the order of retrieval, with 95% intervals over questions."))
    often = [row for row in result.passages if row.questions >= ENOUGH]
    if often:
        columns: list[Column[MeanEffect]] = [
            Column("passage", lambda row: _short(row.name), words=True),
            Column("retrieved for", lambda row: plural(row.questions, "question")),
            Column("mean change", lambda row: _ordered(row), "[95%]"),
        ]
        parts += [
            Text(f"Passages that were retrieved for {ENOUGH} questions or more:"),
            Table.of(columns, often[:SHOWN], kind="sorts"),
        ]
    return tuple(parts)


def _retriever(result: RagDiagnosis) -> tuple[Block, ...]:
    cells = [(name, value, meaning) for name, value, meaning in _facts(result)]
    table = Table.plain(("", "", ""), cells, words=(0, 2), kind="facts")
    return Text("What it returns, whatever the model makes of it."), table


def _facts(result: RagDiagnosis) -> list[tuple[str, str, str]]:
    q = result.quality
    facts = [
        ("passages a question", fixed(q.retrieved, 1), f"{q.distinct:,} different ones in all."),
        (
            "answer within",
            percent_span(q.answer_within),
            "Questions with an answer in one of their passages, word for word.",
        ),
        ("repeated", percent(q.redundant), "Passages that say nearly the same as an earlier one of the same question."),
    ]
    if q.hit is not None and q.recall is not None and q.ndcg is not None and q.gold_never is not None:
        known = plural(q.gold_questions, "question")
        facts += [
            ("hits", percent_span(q.hit), f"Questions with a gold passage among what was retrieved, of {known}."),
            ("recall", percent_span(q.recall), "Share of a question's gold passages that was retrieved."),
            ("nDCG", percent_span(q.ndcg), "100% if the gold passages come first."),
            ("never retrieved", percent(q.gold_never), "Gold passages that no question brought up."),
        ]
    return facts


def _change(value: float) -> Cell:
    return Cell(fixed(value, 2, sign=True), order=value)


def _ordered(row: MeanEffect) -> Cell:
    cell = ranged(row.change, 2) or Cell("")
    return Cell(cell.text, cell.detail, order=row.change.value)


def _short(text: str, length: int = 160) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


_TONES = {"helped": "gain", "hurt": "loss", "did nothing": ""}
