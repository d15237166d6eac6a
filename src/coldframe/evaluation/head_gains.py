"""The page on a reweighted model: which heads have a gain, and what the gains do to the copying of random tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from coldframe.config import Config
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.reports import blocks, html
from coldframe.reports.blocks import Block, Figure, Group, Section, Table, Text
from coldframe.reports.figures import Chart, Heatmap, Line
from coldframe.reports.numbers import fixed, plural

#: Heads in the table of the page; the data has all.
MOST_HEADS = 40

WORDS: Mapping[str, str] = {
    "effect": "What the right next token of a random copy gains (its logit, above the mean logit) when the head's "
    "output is replaced by its mean. Above 0 the head holds copying back.",
    "gain": "The factor that the head's output is multiplied by: 1 leaves it, below 1 weighs it down, 0 cuts it out.",
    "nat": "The unit of the loss, minus the natural logarithm of a probability: 1 nat more is a probability 2.7 times "
    "smaller.",
}


@dataclasses.dataclass(frozen=True)
class Head(Config):
    """A head that has a gain; ``effect`` is what the right token gains without it."""

    layer: int
    head: int
    effect: float
    gain: float

    @property
    def name(self) -> str:
        """``layer.head``, both counted from 0."""
        return f"{self.layer}.{self.head}"


@dataclasses.dataclass(frozen=True)
class HeadGains(Config):
    """The gains of a reweighted model, and how they were found.

    Args:
        effects: ``[layers, heads]``.
        heads: Those with a gain.
        history: One record for each validation: ``step`` and ``validation_loss``.
        stability: Mean rank correlation of the effects under two settings of N and n; None with one setting.
    """

    effects: tuple[tuple[float, ...], ...]
    heads: tuple[Head, ...]
    history: tuple[dict[str, float], ...]
    stability: float | None = None

    @classmethod
    def of(cls, result: Reweighting, effect: str = "difference") -> HeadGains:
        """What the page needs of it."""
        effects, gains = result.effects.mean(effect), result.gains
        heads = [Head(i, h, float(effects[i, h]), float(gains[i, h])) for i, h in result.heads]
        rows = tuple(tuple(map(float, row)) for row in effects.tolist())
        return cls(rows, tuple(heads), result.history, result.effects.stability(effect))

    @property
    def losses(self) -> tuple[float, float] | None:
        """Held-out loss of random sequences, of the base model and with the gains; None if it was not measured."""
        losses = [record["validation_loss"] for record in self.history]
        return (losses[0], min(losses[1:])) if losses[1:] else None


def render_page(model: str, gains: HeadGains, settings: Mapping[str, Any], seconds: float, data_name: str = "") -> str:
    """The page of ``coldframe reweight`` as HTML, see :func:`coldframe.reports.html.render`.

    Args:
        model: The base model's name.
        gains: What to show.
        settings: They stand at the end of the page.
        seconds: What it took.
        data_name: Of the file with the same numbers, beside the page; empty if there is none.

    Raises:
        MissingExtraError: jinja2 (extra ``report``) is not installed.
    """
    sections = (
        Section("Which heads", head_blocks(gains)),
        Section("How copying goes", training_blocks(gains)),
        Section("What the words mean", (blocks.Terms(words(gains)),)),
        blocks.provenance("", {"Settings": settings}, seconds=seconds, data_name=data_name),
    )
    banner = blocks.Banner("undecided", headline(model, gains), blocks.notes(remarks(gains), ""))
    return html.render(blocks.Page(f"{model}, reweighted", f"coldframe · PEAR on {model}", (banner,), sections))


def words(gains: HeadGains) -> tuple[tuple[str, str], ...]:
    """The terms that the page uses, with their meanings."""
    used = {"effect": True, "gain": bool(gains.heads), "nat": gains.losses is not None}
    return tuple((word, meaning) for word, meaning in WORDS.items() if used[word])


def headline(model: str, gains: HeadGains) -> str:
    """How many heads have a gain, and whether copying got better, in a sentence or two."""
    sentence = f"{plural(len(gains.heads), 'head')} of {model} {'has' if len(gains.heads) == 1 else 'have'} a gain"
    if gains.losses:
        before, after = gains.losses
        change = "falls" if after < before else "does not fall"
        sentence += f"; the loss of copying random tokens {change} from {before:.3f} to {after:.3f} nats"
    return f"{sentence}. Whether it answers better was not measured."


def remarks(gains: HeadGains) -> list[str]:
    """How many heads are weighed down, and how sure their choice is, each a sentence."""
    below = sum(head.gain < 1 for head in gains.heads)
    sentences = [f"{below} of {plural(len(gains.heads), 'head')} with a gain are weighed down."]
    if gains.stability is not None:
        sentences.append(
            f"Rank correlation of all effects between two settings of N and n: {gains.stability:.2f}; near 0 the "
            "choice of heads would be chance."
        )
    return sentences


def head_blocks(gains: HeadGains) -> tuple[Block, ...]:
    """All effects as a map, and a table of the heads that have a gain."""
    effects, heads = gains.effects, gains.heads
    top = max((abs(value) for row in effects for value in row if math.isfinite(value)), default=0.0) or 1.0
    lowest, highest = (fixed(end, 3, sign=True) for end in (-top, top))
    drawing = Heatmap.of(
        "Effect of every head, by layer and head",
        effects,
        # A few heads do much; without the root the rest would all look empty.
        lambda value: math.copysign(math.sqrt(abs(value) / top), value),
        (lowest, (-1.0, -0.7, -0.4, 0.0, 0.4, 0.7, 1.0), highest),
        [(h.layer, h.head, f"{h.name}: effect {h.effect:+.3f}, gain {h.gain:.3f}") for h in heads],
    )
    caption = (
        f"Rows are the {drawing.rows} layers, the first at the top; columns are the {drawing.columns} heads. Blue: the "
        "head holds copying back. Ochre: copying needs it. A colour's strength is the square root of the effect. "
        "Framed heads have a gain."
    )
    figure: Block = Figure(drawing, caption)
    if drawing.one_colour:
        first = next((value for row in effects for value in row if math.isfinite(value)), math.nan)
        figure = Text(f"All {drawing.rows * drawing.columns} heads have the same effect, {fixed(first, 3, sign=True)}.")
    rows = [[h.name, fixed(h.effect, 3, sign=True), f"{h.gain:.3f}"] for h in heads[:MOST_HEADS]]
    table = Table.plain(["layer.head", "effect", "gain"], rows)
    rest = f"The first {MOST_HEADS} of {len(heads)} heads; the data has all."
    return (
        Group((figure, table), "grid pair"),
        *([Text(rest, "soft")] if len(heads) > MOST_HEADS else []),
    )


def training_blocks(gains: HeadGains) -> tuple[Block, ...]:
    """The loss of random sequences before and after, and at every validation while gains were trained."""
    if gains.losses is None:
        return ()
    before, after = (fixed(loss, 3) for loss in gains.losses)
    change = Text(f"Loss on held-out random sequences: {before} before, {after} with the gains, nats a token.")
    points = tuple((record["step"], record["validation_loss"]) for record in gains.history)
    if not points[-1][0]:  # the gains were given, not trained
        return (change,)
    line = Line("held-out sequences", points, marked=min(points, key=lambda point: point[1]))
    return (change, *blocks.figures([Chart.of("Loss while the gains were trained", "step", [line])]))
