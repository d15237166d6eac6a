"""Sample queries in a report: prediction, retrieved entries, attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from coldframe.evaluation.report_data import Neighbour, ReportData, Sample
from coldframe.methods.soft_tokens.set_attention import AVERAGES, attention_entropy
from coldframe.reports.blocks import Block, Cell, Column, Group, Mark, Table, Text
from coldframe.reports.pictures import molecule

#: Longest text of a sample, in characters.
MAX_TEXT = 600
#: More soft tokens than this have no numbers in their cells.
_MOST_NUMBERS = 16


def sample_cards(data: ReportData) -> tuple[Block, ...]:
    """The samples, each a card; molecules are drawn."""
    if not data.samples:
        return ()
    entropies = [entropy for sample in data.samples if (entropy := _entropy(sample)) is not None]
    entropy = float(np.mean(entropies)) if entropies else None
    even = entropy is not None and entropy > AVERAGES
    words = "What was retrieved, with its similarity to the query."
    if any(near.label for sample in data.samples for near in sample.neighbours):
        words += " A label is green where it is the query's own and red where it is another."
    if even:
        words += (
            " The attention is even: every soft token gave the neighbours nearly equal shares "
            f"(entropy {entropy:.3f} of the greatest possible), so it chose nothing among them."
        )
    elif entropy is not None:
        words += (
            " The numbered columns are the soft tokens: the share of its attention, in %, that each gave to the "
            "neighbour; the darker, the more."
        )
    drawn = data.domain == "molecules"
    return (Text(words, "soft"), *(_sample(sample, drawn, not even) for sample in data.samples))


def _entropy(sample: Sample) -> float | None:
    """Of the soft tokens' attention over the neighbours, by the greatest possible; None where there is none."""
    weights = torch.tensor([near.attention for near in sample.neighbours if near.attention], dtype=torch.float64)
    if weights.ndim != 2 or not bool(weights.isfinite().all()):
        return None
    shares = (weights / weights.sum(0).clamp(min=1e-12)).T[None]
    return attention_entropy(shares, torch.ones(1, len(weights), dtype=torch.bool))


def _sample(sample: Sample, drawn: bool, attention: bool) -> Group:
    probability = "" if sample.probability is None else f" with probability {sample.probability:.2f}"
    predicted, target = Mark(_shorten(sample.predicted), _tone(sample.right)), Mark(_shorten(sample.target), "strong")
    answer = ("Predicted ", predicted, f"{probability}; the truth is ", target, ". ", Mark(f"({sample.id})", "soft"))
    parts: list[Block] = [Text(_shorten(sample.text), "code" * drawn), Text(answer)]
    parts += [_neighbours(sample, drawn, attention)] if sample.neighbours else []
    return Group(tuple(parts), "card", picture=molecule(sample.text, 220, 150) if drawn else None)


def _neighbours(sample: Sample, drawn: bool, attention: bool) -> Table:
    def neighbour(near: Neighbour) -> Cell:
        return Cell(_shorten(near.text), kind="code" * drawn, picture=molecule(near.text, 130, 84) if drawn else None)

    def label(near: Neighbour) -> Cell | None:  # a passage has none
        return Cell(_shorten(near.label), kind=_tone(near.label == sample.target)) if near.label else None

    def weight(token: int, near: Neighbour) -> Cell:
        share, hint = near.attention[token], f"soft token {token + 1}: {near.attention[token]:.3f}"
        return Cell(f"{100 * share:.0f}" if len(near.attention) <= _MOST_NUMBERS else "", heat=share, hint=hint)

    columns: list[Column[Neighbour]] = [
        Column("neighbour", neighbour),
        Column("label", label, words=True),
        Column("similarity", lambda near: Cell(f"{near.similarity:.2f}", bar=min(max(near.similarity, 0.0), 1.0))),
    ]
    tokens = len(sample.neighbours[0].attention) if attention else 0
    columns += [Column(str(token + 1), partial(weight, token)) for token in range(tokens)]
    return Table.of(columns, sample.neighbours, kind="heat")


def _tone(right: bool) -> str:
    return "right" if right else "wrong"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
