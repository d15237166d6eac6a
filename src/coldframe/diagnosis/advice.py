"""What to change after a diagnosis, and what it would save, in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.config import Config
from coldframe.diagnosis.evidence import Ladder, Outcome, Rung, StoreAblation, StoreHealth
from coldframe.reports.numbers import fixed, percent_span, si

#: Rungs that give every query the same prompt, and what they are called.
STATIC_RUNGS = {
    "prompt-tuning": "Prompt Tuning",
    "reparameterised": "Prompt Tuning through a network",
    "constant": "its own method with one input for all queries",
}
LITTLE = 0.10  # of the gain: what an oracle adds below that is little

HUBNESS = 1.0  # skewness of the retrieval counts above which a store has hubs (Radovanovic et al. 2010 call 1 strong)
NEVER_RETRIEVED = 0.5  # share of entries
NARROW_CONE = 0.5  # mean cosine of two entries
SAME_SETS = 0.5  # overlap of two queries' sets
SMALL_CONTRAST = 0.1  # of the nearest entry


@dataclasses.dataclass(frozen=True)
class Savings(Config):
    """What is spent now, and what a simpler method would spend; None where it is not known.

    Args:
        parameters: Trained by the pipeline.
        static_parameters: Trained by a static prompt in its place.
        query_parameters: Trained by a prompt from the query alone in its place.
        flops: Operations a query of searching and encoding entries.
        storage: Bytes of the store and its index.
    """

    section = "savings"

    parameters: int | None = None
    static_parameters: int | None = None
    query_parameters: int | None = None
    flops: float | None = None
    storage: int | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the pipeline has no store, and no soft tokens that a static prompt could replace."""
        return self.parameters is not None and self.storage is None and self.static_parameters is None

    def is_simplest(self, outcome: Outcome) -> bool:
        """Whether the pipeline is already what an outcome would put in its place: as many parameters, and no store."""
        simpler = self.static_parameters if outcome == "prompt-tuning-like" else self.query_parameters
        return self.storage is None and self.parameters is not None and self.parameters == simpler


def best_static(rungs: Sequence[Rung]) -> Rung | None:
    """The static rung that reaches most of the gain; None if none was trained."""
    return max((rung for rung in rungs if rung.name in STATIC_RUNGS), key=lambda rung: rung.share.value, default=None)


def advice(
    outcome: Outcome,
    store_ablation: StoreAblation,
    ladder: Ladder | None = None,
    store_health: StoreHealth | None = None,
    savings: Savings | None = None,
) -> tuple[str, ...]:
    """What to do after a verdict, most important first."""
    saved, rungs = savings or Savings(), ladder.rungs if ladder else ()
    sentences: list[str] = []
    if store_ablation.gain.high < 0:
        sentences.append("Leave the pipeline out: the model alone does better.")
    elif outcome == "retrieval-driven":
        sentences += ["Keep the retriever.", *_oracle(store_ablation)]
    elif outcome == "prompt-tuning-like" and saved.is_constant:
        sentences.append(
            "Nothing is to be replaced: it retrieves nothing and changes the model in the same way for all queries."
        )
    elif outcome in ("prompt-tuning-like", "query-driven") and saved.is_simplest(outcome):
        what = "a static prompt" if outcome == "prompt-tuning-like" else "a prompt from the query alone"
        sentences.append(f"Nothing is to be replaced: it is {what} already.")
    elif outcome == "prompt-tuning-like":
        rung = best_static(rungs)
        sentences += [
            f"Replace it with a static prompt ({STATIC_RUNGS[rung.name if rung else 'prompt-tuning']})"
            f"{_share_reached(rung)}.",
            *_saving(saved, saved.static_parameters, rung, rungs),
            "If retrieval is meant to matter, check that the answers are in the store and not already in the query.",
        ]
    elif outcome == "query-driven":
        rung = next((rung for rung in rungs if rung.name == "query-only"), None)
        sentences += [
            f"Replace the retriever with a prompt from the query alone (IDPG){_share_reached(rung)}.",
            *_saving(saved, saved.query_parameters, rung, rungs),
        ]
    elif outcome == "mixed":
        sentences += [
            "Weigh what retrieval adds against its cost: a simpler prompt may keep part of the gain.",
            *_oracle(store_ablation),
        ]
    if outcome in ("mixed", "cannot-tell") and ladder is None and store_ablation.gain.low > 0:
        sentences.append("Train the ladder: it shows what a static prompt and one from the query alone reach.")
    return (*leak_advice(store_health), *sentences, *store_advice(store_health))


def leak_advice(health: StoreHealth | None) -> list[str]:
    """What comes before all else: queries that stand in the store."""
    if health is None or not health.leaks:
        return []
    can = "it can retrieve itself" if health.leaks == 1 else "they can retrieve themselves"
    return [
        f"Take {health.leaks} of the {health.queries} queries out of the store and diagnose again: {can}, "
        "so that retrieval looks better than it is."
    ]


def store_advice(health: StoreHealth | None) -> list[str]:
    """What to do about the store, whatever the verdict is."""
    return [advice for _, advice in store_findings(health) if advice] if health else []


def _share_reached(rung: Rung | None) -> str:
    return f": trained for it, it reaches {percent_span(rung.share)} of the gain" if rung else ""


def _saving(savings: Savings, parameters: int | None, rung: Rung | None, rungs: Sequence[Rung]) -> list[str]:
    full = next((other for other in rungs if other.name == "full"), None)
    before = savings.parameters if savings.parameters is not None or full is None else full.parameters
    after = parameters if parameters is not None or rung is None else rung.parameters
    parts = []
    if before is not None and after is not None and after < before:
        parts.append(f"{si(after)} trained parameters instead of {si(before)}")
    if savings.flops:
        parts.append(f"{si(savings.flops)} operations less for each query")
    if savings.storage:
        parts.append(f"{si(savings.storage, 'B')} less to store")
    if parts:
        return [f"That makes {', '.join(parts)}."]
    if savings == Savings() and before is None:
        return ["That saves the store, the search, the encoding of entries, and the parameters trained for it."]
    return []


def _oracle(store_ablation: StoreAblation) -> list[str]:
    oracle = next((row for row in store_ablation.ablations if row.condition == "oracle" and not row.retrained), None)
    if oracle is None:
        return ["Whether a better store or a better search pays was not measured."]
    rise, what = oracle.rise, "entries chosen with knowledge of the answer"
    more = f"{-rise.value:.3f} [{-rise.high:.3f}, {-rise.low:.3f}]"
    if rise.high < 0:
        return [f"Improve the retriever: {what} lower the loss by another {more}."]
    if oracle.share.low > -LITTLE:
        return [f"A better ranking wins little: even {what} lower the loss by less than {LITTLE:.0%} of the gain."]
    return [f"Whether a better ranking pays is open: {what} lower the loss by {more}."]


def store_findings(health: StoreHealth) -> list[tuple[str, str]]:
    """What is suspicious in a store, each with advice, which may be empty. Thresholds are ours, except hubness > 1."""
    n, k, findings = health.queries, health.k, []
    hubs = health.hubness > max(HUBNESS, 2 * health.hubness_chance)
    if hubs:
        most = max((count for _, count in health.curve), default=0)
        warning = (
            f"A few entries are hubs: the skewness of the retrieval counts is {health.hubness:.1f} "
            f"({health.hubness_chance:.1f} if drawn at random), and one entry is retrieved for "
            f"{most / n:.0%} of the queries."
        )
        advice = (
            f"Correct for hubs: some entries are retrieved for very many queries (skewness {health.hubness:.1f}) and "
            f"{health.never:.0%} for none. Subtract the mean vector, or use a similarity that is "
            "corrected for hubs (CSLS, mutual proximity)."
        )
        findings.append((warning, advice))
    # Few queries retrieve little of a large store, and that unevenly, whatever the retriever does.
    if health.never > health.never_chance + 0.25:
        warning = (
            f"{health.never:.0%} of the entries are never retrieved by these {n} queries "
            f"({health.never_chance:.0%} if drawn at random)."
        )
        smaller = f"A smaller store may do: {health.never:.0%} of the entries are retrieved for no query."
        findings.append((warning, smaller if health.never > NEVER_RETRIEVED and not hubs else ""))
    if health.overlap.low > max(0.1, 5 * health.overlap_chance):
        alike = "nearly the same" if health.overlap.low > SAME_SETS else "many of the same entries"
        warning = (
            f"Different queries retrieve {alike}: their sets overlap by {health.overlap.value:.0%} on average "
            f"({health.overlap_chance:.2%} if drawn at random)."
        )
        shared = f"two queries share {health.overlap.value:.0%} of their entries"
        findings.append(
            (warning, f"Use an encoder that tells queries apart: {shared}." if health.overlap.low > SAME_SETS else "")
        )
    if health.contrast < SMALL_CONTRAST:
        warning = f"The nearest entry is hardly nearer than the average one (contrast {health.contrast:.2f})."
        findings.append((warning, f"{warning} Try another encoder, or entries that differ more."))
    if k > 1 and health.score_gap < 1e-3:
        gap = f"their similarities differ by {health.score_gap:.4f}"
        findings.append((f"The nearest entry is hardly nearer than the last of {k}: {gap}.", ""))
    if health.anisotropy > NARROW_CONE:
        # Entries that are all the same have no directions once their mean is subtracted.
        cosines = f"{health.anisotropy:.2f}, and {fixed(health.anisotropy_centred, 2)} after the mean is subtracted"
        advice = f"Subtract the mean vector before searching: two entries have a mean cosine of {cosines}."
        narrower = health.anisotropy_centred < health.anisotropy / 2
        findings.append(
            (f"The entries point in similar directions: their mean cosine is {cosines}.", advice if narrower else "")
        )
    if health.duplicates:
        warning = f"{health.duplicates} of {health.entries} entries are duplicates of another entry."
        findings.append((warning, f"Remove duplicates from the store: {warning}"))
    if health.leaks:
        findings.append((f"{health.leaks} of {n} queries are in the store themselves, with their answers.", ""))
    return findings
