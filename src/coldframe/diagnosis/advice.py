"""What to change after a diagnosis, and what it would save, in sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.config import Config
from coldframe.diagnosis.evidence import Ladder, Outcome, Rung, StoreAblation, StoreHealth
from coldframe.reports.numbers import percent_span, si

#: Rungs that give every query the same prompt.
STATIC_RUNGS = ("prompt-tuning", "reparameterised", "constant")

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
    sentences = []
    if store_health and store_health.leaks:
        sentences.append(
            f"Take {store_health.leaks} of the {store_health.queries} queries out of the store and diagnose again: "
            "they retrieve themselves, so that retrieval looks better than it is."
        )
    if store_ablation.gain.high < 0:
        sentences.append("Leave the pipeline out: the model alone does better.")
    elif outcome == "retrieval-driven":
        sentences += ["Keep the retriever: a better store or a better search will pay.", *_oracle(store_ablation)]
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
            f"Replace it with a static prompt (Prompt Tuning){_share_reached(rung)}.",
            _saving(saved, saved.static_parameters, rung, rungs),
            "If retrieval is meant to matter, check that the answers are in the store and not already in the query.",
        ]
    elif outcome == "query-driven":
        rung = next((rung for rung in rungs if rung.name == "query-only"), None)
        sentences += [
            f"Replace the retriever with a prompt from the query alone (IDPG){_share_reached(rung)}.",
            _saving(saved, saved.query_parameters, rung, rungs),
        ]
    elif outcome == "mixed":
        sentences += [
            "Weigh what retrieval adds against its cost: a simpler prompt keeps part of the gain.",
            *_oracle(store_ablation),
        ]
    if outcome in ("mixed", "cannot-tell") and ladder is None and store_ablation.gain.low > 0:
        sentences.append("Train the ladder: it shows what a static prompt and one from the query alone reach.")
    store = [advice for _, advice in store_findings(store_health) if advice] if store_health else []
    return (*sentences, *store)


def _share_reached(rung: Rung | None) -> str:
    return f": trained for it, it reaches {percent_span(rung.share)} of the gain" if rung else ""


def _saving(savings: Savings, parameters: int | None, rung: Rung | None, rungs: Sequence[Rung]) -> str:
    full = next((other for other in rungs if other.name == "full"), None)
    before = savings.parameters if savings.parameters is not None or full is None else full.parameters
    after = parameters if parameters is not None or rung is None else rung.parameters
    parts = []
    if before is not None and after is not None:
        parts.append(f"{si(after)} trained parameters instead of {si(before)}")
    if savings.flops:
        parts.append(f"{si(savings.flops)} operations less for each query")
    if savings.storage:
        parts.append(f"{si(savings.storage)}B less to store")
    if parts:
        return f"That makes {', '.join(parts)}."
    return "That saves the store, the search, the encoding of entries, and the parameters trained for it."


def _oracle(store_ablation: StoreAblation) -> list[str]:
    rise = next((row.rise for row in store_ablation.ablations if row.condition == "oracle"), None)
    if rise is None:
        return []
    if rise.high < 0:
        more = f"{-rise.value:.3f} [{-rise.high:.3f}, {-rise.low:.3f}]"
        return [f"Improve the retriever: entries chosen with knowledge of the answer lower the loss by another {more}."]
    return [
        "A better ranking wins little: even entries chosen with knowledge of the answer do not surely lower the loss."
    ]


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
        warning = (
            f"Different queries retrieve nearly the same: their sets overlap by {health.overlap.value:.0%} on average "
            f"({health.overlap_chance:.2%} if drawn at random)."
        )
        shared = f"two queries share {health.overlap.value:.0%} of their entries"
        findings.append(
            (warning, f"Use an encoder that tells queries apart: {shared}." if health.overlap.low > SAME_SETS else "")
        )
    if health.contrast < SMALL_CONTRAST:
        warning = f"The nearest entry is hardly nearer than any other (contrast {health.contrast:.2f})."
        findings.append((warning, f"{warning} Try another encoder, or entries that differ more."))
    if k > 1 and health.score_gap < 1e-3:
        gap = f"their similarities differ by {health.score_gap:.4f}"
        findings.append((f"The nearest entry is no nearer than the {k}th: {gap}.", ""))
    if health.anisotropy > NARROW_CONE:
        cosines = f"{health.anisotropy:.2f}, and {health.anisotropy_centred:.2f} after the mean is subtracted"
        advice = f"Subtract the mean vector before searching: any two entries have a cosine of {cosines}."
        narrower = health.anisotropy_centred < health.anisotropy / 2
        findings.append(
            (f"All entries point the same way: their mean cosine is {cosines}.", advice if narrower else "")
        )
    if health.duplicates:
        warning = f"{health.duplicates} of {health.entries} entries are duplicates of another entry."
        findings.append((warning, f"Remove duplicates from the store: {warning}"))
    if health.leaks:
        findings.append((f"{health.leaks} of {n} queries are in the store themselves, with their answers.", ""))
    return findings
