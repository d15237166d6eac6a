"""A diagnosis for a terminal, from the same data as the report."""

from __future__ import annotations

import math

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from coldframe.diagnosis.advice import percent
from coldframe.diagnosis.evidence import Diagnosis, Estimate, Ladder, StoreAblation
from coldframe.diagnosis.figures import LOSS, RUNGS
from coldframe.diagnosis.report import spoken
from coldframe.evaluation.figures import si

_COLOURS = {"retrieval-driven": "green", "query-driven": "cyan", "prompt-tuning-like": "red"}


def render_table(found: Diagnosis) -> Group:
    """Verdict, reasons and advice, then the numbers; to be printed by a ``rich.console.Console``."""
    verdict = found.verdict
    colour = _COLOURS.get(verdict.outcome, "yellow")
    # Text, not str: a name with square brackets is a name, not markup.
    text = Text(verdict.headline, style="bold")
    for line in (*verdict.reasons, *(f"→ {line}" for line in verdict.advice)):
        text.append("\n" + line, style="not bold")
    parts: list[Panel | Table | Text] = [Panel(text, title=spoken(verdict.outcome), border_style=colour)]
    title = (
        f"{found.subject} on {found.task}, {found.model}, n = {found.n}, {found.seeds} seed{'s' * (found.seeds > 1)}"
    )
    parts.append(_ablations(found.store_ablation, title, found.unit))
    tokens = found.token_variance
    if tokens and not math.isnan(tokens.mean_share.value):
        parts.append(
            Text(
                f"Soft tokens: with the mean token for all {_share(tokens.mean_share)} of the gain is lost, "
                f"with tokens from the query alone {_share(tokens.predicted_share)}.\n"
            )
        )
    if found.ladder:
        parts.append(_rungs(found.ladder, found.unit))
    parts += [Text(f"Store: {warning}") for warning in (found.store_health.warnings if found.store_health else ())]
    return Group(*parts)


def _share(share: Estimate) -> str:
    return "–" if math.isnan(share.value) else percent(share)


def _ablations(found: StoreAblation, title: str, unit: str) -> Table:
    table = Table(title=Text(title), title_justify="left", caption_justify="left")
    table.add_column("in the place of what was retrieved")
    table.add_column("training", style="dim")
    table.add_column(f"loss, {unit} [95%]", justify="right")
    table.add_column("rise", justify="right")
    table.add_column("share of the gain lost", justify="right")
    for one in found.ablations:
        table.add_row(
            Text(one.condition),
            "again" if one.retrained else "",
            LOSS.span(one.loss),
            LOSS.span(one.rise),
            _share(one.share),
            style="bold" if one.condition == "swapped" else "",
        )
    table.caption = Text(f"gain over the model alone: {LOSS.span(found.gain)} {unit}")
    return table


def _rungs(found: Ladder, unit: str) -> Table:
    table = Table(title=Text("Ladder: the same rows and budget"), title_justify="left")
    table.add_column("what the prompt may depend on")
    table.add_column("trained", justify="right")
    table.add_column("learning rate", justify="right")
    table.add_column(f"gain, {unit} [95%]", justify="right")
    table.add_column("share of the gain reached", justify="right")
    for rung in found.rungs:
        table.add_row(
            Text(RUNGS.get(rung.name, rung.name)),
            si(rung.parameters),
            f"{rung.learning_rate:.2g}",
            LOSS.span(rung.gain),
            _share(rung.share),
            style="bold" if rung.name == "full" else "",
        )
    return table
