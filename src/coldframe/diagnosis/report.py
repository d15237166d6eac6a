"""What the report of a diagnosis says, as blocks for page and terminal: the verdict first, then the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Group as RichGroup

from coldframe.config import read_mapping
from coldframe.diagnosis import figures
from coldframe.diagnosis.evidence import Diagnosis, Ladder, Outcome, StoreAblation, StoreHealth, TokenVariance
from coldframe.diagnosis.figures import LOSS
from coldframe.diagnosis.tables import ablation_table, rung_table, slots, store_facts, token_facts
from coldframe.diagnosis.verdict import MIN_QUERIES
from coldframe.reports import blocks, html, terminal
from coldframe.reports.blocks import Block, Figure, Group, Heading, Mark, Section, Table, Text
from coldframe.reports.numbers import percent, percent_span, plural
from coldframe.storage.files import write_json, write_text

#: What each verdict says, and its colour.
OUTCOMES: Mapping[Outcome, tuple[blocks.Tone, str]] = {
    "retrieval-driven": (
        "gain",
        "Most of the gain is lost without the entries that were retrieved: the store does the work.",
    ),
    "query-driven": (
        "main",
        "The retrieved entries could be anything, but the query's own part could not: an encoder of the query does the "
        "work.",
    ),
    "prompt-tuning-like": (
        "loss",
        "Neither the retrieved entries nor the query's part in the adaptation matter: a fixed prompt for all queries "
        "would do.",
    ),
    "mixed": ("undecided", "Part of the gain comes from retrieval, or two diagnostics disagree."),
    "cannot-tell": ("undecided", "The intervals are too wide for any of these, or there is no gain to explain."),
}

WORDS = {
    "loss": "How badly the right answer is predicted, in nats: minus the logarithm of its probability. For written "
    "answers the mean over their tokens.",
    "gain": "Loss of the frozen model alone, with nothing added, minus loss of the whole pipeline.",
    "share": "A change of the loss divided by the gain: 0% is nothing, 100% is all that the pipeline achieves.",
    "interval": "In 95 of 100 repetitions with other queries such an interval holds the true value. Verdicts rest on "
    "what intervals exclude: no difference found is never taken as proof that there is none.",
    "retrieved entries": "What the pipeline took out of its store for a query.",
    "swapped": "Every query gets the entries of another one: of the same kind and number, but for another query.",
    "soft tokens": "Vectors that stand beside the words of the prompt and steer the model.",
    "static prompt": "Soft tokens that were trained and are the same for every query (Prompt Tuning).",
    "hub": "An entry that is retrieved for very many queries, whatever they are.",
}


def render_report(diagnosis: Diagnosis, data_name: str = "diagnosis.json") -> str:
    """The report as HTML, see :func:`coldframe.reports.html.render`; ``data_name`` is of the file beside the page.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    d, tokens, rungs, health = diagnosis, diagnosis.token_variance, diagnosis.ladder, diagnosis.store_health
    words = [(_badge(outcome), meaning) for outcome, (_, meaning) in OUTCOMES.items()]
    sections = (
        Section("Is the store needed?", _store_ablation(d), _part_badge(d, d.store_ablation)),
        Section("Do the soft tokens follow the query?", _tokens(d), _part_badge(d, tokens)),
        Section("How far does a fixed prompt get?", _ladder(d), _part_badge(d, rungs)),
        Section("Is the store in order?", _store(health) if health else ()),
        Section("What to know about it", blocks.notes(d.notes)),
        Section("The numbers", numbers(d)),
        Section("What the words mean", (blocks.Terms((*words, *WORDS.items())),)),
        blocks.provenance(d.command, {}, seconds=d.seconds, data_name=data_name),
    )
    over = f"coldframe diagnosis · {d.subject} · task {d.task} · frozen model {d.model} · {_counted(d)}"
    return html.render(blocks.Page(f"Diagnosis of {d.subject} on {d.task}", over, (_banner(d),), sections))


def render_table(diagnosis: Diagnosis) -> RichGroup:
    """Verdict, reasons and advice, then the numbers; to be printed by a ``rich.console.Console``."""
    d, tokens, health = diagnosis, diagnosis.token_variance, diagnosis.store_health
    title = f"{d.subject} on {d.task}, {d.model}, {_counted(d)}; losses in {d.unit}"
    gain = Text(f"Gain over the model alone: {LOSS.span(d.store_ablation.gain)} {d.unit}.")
    parts: list[Block] = [_banner(d), ablation_table(d.store_ablation, title=title), gain]
    if tokens and not math.isnan(tokens.mean_share.value):
        mean, alone = percent_span(tokens.mean_share), percent_span(tokens.predicted_share)
        lost = f"with the mean token for all {mean} of the gain is lost, with tokens from the query alone {alone}"
        parts.append(Text(f"Soft tokens: {lost}."))
    parts += [rung_table(d.ladder)] if d.ladder else []
    return terminal.render([*parts, *(Text(f"Store: {line}") for line in (health.warnings if health else ()))])


def write_report(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write the page; before it the data, which :func:`read_diagnosis` reads, to the same path with ``.json``."""
    data = Path(path).with_suffix(".json")
    write_json(data, diagnosis.to_dict())
    # If drawing fails, hours of measuring are not lost with it.
    write_text(path, render_report(diagnosis, data.name))


def read_diagnosis(path: str | Path) -> Diagnosis:
    """A diagnosis out of the data that :func:`write_report` wrote; what is null there is not defined (NaN)."""
    return Diagnosis.from_dict(read_mapping(path), results=True)


def _badge(outcome: Outcome) -> Mark:
    return Mark(outcome.replace("-tell", " tell"), f"badge {OUTCOMES[outcome][0]}")


def _part_badge(diagnosis: Diagnosis, part: StoreAblation | TokenVariance | Ladder | None) -> Mark | None:
    """What one diagnostic says on its own; none where there are too few queries for any verdict."""
    few = diagnosis.verdict.queries_needed == MIN_QUERIES
    return None if part is None or few else _badge(part.outcome)


def _counted(diagnosis: Diagnosis) -> str:
    queries = "query" if diagnosis.n == 1 else "queries"
    return f"{diagnosis.n:,} {queries}, {plural(diagnosis.seeds, 'training seed')}"


def _banner(diagnosis: Diagnosis) -> blocks.Banner:
    verdict = diagnosis.verdict
    parts: list[Block] = []
    for title, lines in {"Why": verdict.reasons, "What to do": verdict.advice}.items():
        parts += [Heading(title), *blocks.notes(lines, "")] if lines else []
    return blocks.Banner(OUTCOMES[verdict.outcome][0], verdict.headline, tuple(parts), _badge(verdict.outcome).text)


def _store_ablation(diagnosis: Diagnosis) -> tuple[Block, ...]:
    evidence = diagnosis.store_ablation
    text = (
        "The gain is what the pipeline has over the model alone, the loss of the model alone minus its own: "
        f"{LOSS.span(evidence.gain)} {diagnosis.unit} for each query. On each line the query stays, and "
        "something else takes the place of the retrieved entries. How much of the gain is lost?"
    )
    drawing = figures.ablations(evidence)
    caption = (
        "Left of the first dashed line (10%) nothing that counts is lost: the entries could be anything. Right of the "
        "second (50%) most of it is lost: the entries matter. An interval that crosses a line leaves that open. Below "
        "0 the loss got smaller. Bars are 95% intervals."
        if drawing.zones
        else "The gain is not significantly above 0, so there are no shares of it. The bars show by how much the loss "
        "rises, with 95% intervals."
    )
    return Text(text), Figure(drawing, caption)


def _tokens(diagnosis: Diagnosis) -> tuple[Block, ...]:
    evidence = diagnosis.token_variance
    if evidence is None:
        return ()
    text = (
        f"The pipeline speaks to the model through {plural(evidence.tokens, 'vector')} (soft tokens). If they are the "
        "same for every query, they are a fixed prompt, whatever was retrieved."
    )
    parts = []
    if len(evidence.similarity) > 1:
        drawing, low = figures.heatmap(evidence.similarity)
        below = "; below 0 the colour is another" if low == 0 else ""
        caption = (
            f"The cosine between the tokens of each two of {drawing.rows} queries. An evenly dark square means nearly "
            f"the same tokens for all. Note where the scale begins{below}."
        )
        parts.append(Figure(drawing, caption))
    if shares := figures.tokens(evidence):
        text += " What counts is the share of the gain that is lost when they are replaced."
        lost = "Only the retrieved entries could have brought the share on the second line. Bars are 95% intervals."
        parts.append(Figure(shares, lost))
    return Text(text), Group(tuple(parts), "grid pair" if len(parts) == 2 else "grid")


def _ladder(diagnosis: Diagnosis) -> tuple[Block, ...]:
    if diagnosis.ladder is None:
        why = "Not measured: this diagnostic has to train simpler methods. For a pipeline of coldframe, "
        command = Mark("coldframe diagnose DIR --ladder", "code")
        return (Text((why, command, " trains them, and says first how long that takes."), "soft"),)
    text = (
        "Simpler methods, trained on the same rows with the same budget, each with its own best learning rate. Every "
        "step begins where the one above it ended; retrieval can claim what the last step adds."
    )
    caption = (
        f"Gain over the model alone in {diagnosis.unit}. The dot and its 95% interval are the method's own gain, the "
        "bar is the step to it. Squares are controls without a language model, from the model alone."
    )
    return Text(text), Figure(figures.ladder(diagnosis.ladder), caption)


def _store(health: StoreHealth) -> tuple[Block, ...]:
    text = f"The store has {health.entries:,} entries; {health.queries:,} queries retrieved {health.k} each."
    parts: list[Block] = [Text(text), *blocks.notes(health.warnings, "warn")]
    if chart := figures.hubness(health):
        caption = (
            "How often each entry was retrieved, the most retrieved first, beside random retrieval. If a few entries "
            "come up for nearly every query (hubs), retrieval hardly depends on the query."
        )
        parts.append(Figure(chart, caption))
    return tuple(parts)


def numbers(diagnosis: Diagnosis) -> tuple[Block, ...]:
    """All tables."""
    d, ladder = diagnosis, diagnosis.ladder
    over = "queries and training seeds" if d.seeds > 1 else "queries"
    text = Text(f"All intervals are 95% bootstrap intervals over {over}; losses are in {d.unit}.", "soft")
    parts: list[Block] = [text, Heading("Store ablation"), ablation_table(d.store_ablation, page=True)]
    if d.store_ablation.missing:
        missing = "; ".join(f"{name} ({reason})" for name, reason in d.store_ablation.missing)
        parts.append(Text(f"Not run: {missing}.", "soft"))
    if d.token_variance:
        parts += [Heading("Soft tokens"), token_facts(d.token_variance), slots(d.token_variance)]
    if ladder:
        gap = f"The full pipeline against the best rung below it: {LOSS.span(ladder.gap)} {d.unit};"
        alone = f"what it has over the query alone: {percent_span(ladder.retrieval)} of its gain."
        seeds = plural(ladder.seeds, "training seed")
        parts += [Heading("Ladder"), rung_table(ladder, page=True), Text(f"{seeds}. {gap} {alone}", "soft")]
        rows = [(control.name, LOSS.show(control.loss), percent(control.accuracy)) for control in ladder.controls]
        parts += [Table.plain(("without a language model", "loss", "answered right"), rows)] if rows else []
        if chart := figures.sweeps(ladder):
            parts.append(Figure(chart, "One seed for each learning rate; the ring is the rate that was chosen."))
    if d.store_health:
        parts += [Heading("Store"), store_facts(d.store_health)]
    return tuple(parts)
