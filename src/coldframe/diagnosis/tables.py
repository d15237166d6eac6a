"""The tables of a diagnosis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from coldframe.diagnosis import figures
from coldframe.diagnosis.evidence import Ablation, Ladder, Rung, StoreAblation, StoreHealth, TokenVariance
from coldframe.diagnosis.figures import LOSS
from coldframe.reports.blocks import Cell, Column, Group, Table, ranged
from coldframe.reports.numbers import DASH, fixed, p_value, percent, si

_share = partial(ranged, decimals=0, scale=100, unit="%")
_loss = partial(ranged, decimals=LOSS.decimals)


def ablation_table(evidence: StoreAblation, *, page: bool = False, title: str = "") -> Table:
    """Loss, rise and share under every condition; ``page`` adds what each means, and p-values."""
    what = figures.WHAT if page else {}
    p_values = Column[Ablation]("p", lambda row: p_value(row.rise.p_value), "permutation")
    columns: list[Column[Ablation]] = [
        Column("in the place of what was retrieved", lambda row: Cell(row.condition, what.get(row.condition, ""))),
        Column("training", lambda row: "again" if row.retrained else "as it was", words=True),
        Column("loss", lambda row: _loss(row.loss), "[95%]"),
        Column("rise", lambda row: _loss(row.rise), "[95%]"),
        Column("share of the gain lost", lambda row: _share(row.share), "[95%]"),
        *([p_values] if page else []),
    ]
    return Table.of(columns, evidence.ablations, title=title)


def rung_table(evidence: Ladder, *, page: bool = False) -> Table:
    """Parameters, loss, gain and share of every rung."""

    def name(rung: Rung) -> Cell:
        shown, kind = figures.RUNGS.get(rung.name, rung.name), "main" if rung.name == "full" else ""
        return Cell(shown, rung.what if page else "", kind)

    columns: list[Column[Rung]] = [
        Column("rung", name),
        Column("trained", lambda rung: si(rung.parameters), "parameters"),
        Column(
            "learning rate", lambda rung: Cell(f"{rung.learning_rate:.2g}", f"of {len(rung.sweep)}"), "best of sweep"
        ),
        Column("loss", lambda rung: _loss(rung.loss), "[95%]"),
        Column("gain", lambda rung: _loss(rung.gain), "[95%]"),
        Column("share of the gain reached", lambda rung: _share(rung.share), "[95%]"),
    ]
    return Table.of(columns, evidence.rungs, title="Ladder: the same rows and budget")


def _facts(rows: Sequence[tuple[str, Cell | str | None, str]]) -> Table:
    """Name, value and meaning of numbers."""
    cells = [(name, value or DASH, meaning) for name, value, meaning in rows]
    return Table.plain(("", "", ""), cells, words=(0, 2), kind="facts")


def token_facts(evidence: TokenVariance) -> Table:
    """What was measured on the soft tokens."""
    chance = f"chance {percent(evidence.probe_chance)}, p {p_value(evidence.probe_p_value)}"
    energy = "Part of the tokens' squared length that differs between queries."
    query = "Part of those differences that the query's own vector predicts, on queries it was not fitted to."
    divergence = "How far the model's answer moves when the mean token stands in (KL divergence, nats)."
    probe = "How often a linear probe reads from the tokens which kind of entries was retrieved."
    return _facts(
        [
            ("energy share", _loss(evidence.energy_share), energy),
            ("explained by the query", percent(evidence.given_query), query),
            ("divergence", _loss(evidence.divergence), divergence),
            ("probe", Cell(percent(evidence.probe), chance), f"{probe} Readable does not mean used: see the shares."),
        ]
    )


def slots(evidence: TokenVariance) -> Group:
    """Cosine and effective rank of each soft token."""
    ranks = itertools.chain(map(fixed, evidence.effective_ranks), itertools.repeat(DASH))
    cosines = enumerate(evidence.cosines, 1)
    rows = [(str(j), _loss(cosine) or DASH, rank) for (j, cosine), rank in zip(cosines, ranks, strict=False)]
    head = ("token", "mean cosine between queries (1: the same for all)", "effective rank (its directions)")
    return Group((Table.plain(head, rows),), "fold", "Each token")


def store_facts(health: StoreHealth) -> Table:
    """What was measured on the store."""
    show, chance = LOSS.show, "if drawn at random."
    hubness = f"Skewness of how often each entry is retrieved; {fixed(health.hubness_chance, 2)} {chance}"
    never = f"Entries that no query brings up; {percent(health.never_chance)} {chance}"
    overlap = f"Jaccard overlap of the sets of two queries; random sets would have {show(health.overlap_chance)}."
    contrast = "How much nearer the nearest entry is than the mean one; near 0 all are alike."
    gap = "Similarity of the nearest entry minus that of the last one retrieved."
    cosine = "Mean cosine of two random entries; near 1 all point the same way."
    return _facts(
        [
            ("hubness", fixed(health.hubness, 2), hubness),
            ("never retrieved", percent(health.never), never),
            ("Gini", show(health.gini), "Inequality of the counts: 0 all alike, 1 one entry takes all."),
            ("entropy", show(health.entropy), "Of the retrievals, as a share of the largest possible: 1 all alike."),
            ("overlap", _loss(health.overlap), overlap),
            ("contrast", show(health.contrast), contrast),
            ("score gap", show(health.score_gap), gap),
            ("anisotropy", show(health.anisotropy), cosine),
            ("centred", show(health.anisotropy_centred), "The same after the mean entry is subtracted."),
            ("duplicates", str(health.duplicates), "Entries with the same content as another."),
            ("leaks", str(health.leaks), "Queries that stand in the store themselves."),
        ]
    )
