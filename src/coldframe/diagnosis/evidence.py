"""The results of a diagnosis, as plain data for the report, the command line and JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from coldframe.config import Config

Outcome = Literal["retrieval-driven", "query-driven", "prompt-tuning-like", "mixed", "cannot-tell"]


@dataclasses.dataclass(frozen=True)
class Estimate(Config):
    """A number, averaged over seeds, with its 95% interval and a p-value if it was tested; NaN if it is not defined."""

    section = "estimate"

    value: float
    low: float
    high: float
    p_value: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Ablation(Config):
    """A condition beside the full pipeline.

    Args:
        condition: Its name, a key of ``CONDITIONS``.
        retrained: Whether the method was trained again under it.
        loss: Mean loss under it.
        rise: Mean loss under it minus mean loss of the full pipeline, paired.
        share: ``rise`` as a share of the gain; NaN where the gain is not significant.
    """

    section = "ablation"

    condition: str
    retrained: bool
    loss: Estimate
    rise: Estimate
    share: Estimate


@dataclasses.dataclass(frozen=True)
class StoreAblation(Config):
    """Diagnostic 1: what is lost when something else takes the place of the retrieved entries.

    Args:
        gain: Mean loss of the model alone minus mean loss of the full pipeline.
        ablations: One per condition.
        missing: Conditions that were not run: name and reason.
        outcome: Of this diagnostic on its own.
        reason: Why, in a sentence.
    """

    section = "store ablation"

    gain: Estimate
    ablations: tuple[Ablation, ...]
    missing: tuple[tuple[str, str], ...]
    outcome: Outcome
    reason: str


@dataclasses.dataclass(frozen=True)
class TokenVariance(Config):
    """Diagnostic 2: whether the soft tokens depend on the query, and whether the model cares.

    Args:
        tokens: Soft tokens m.
        energy_share: Share of the tokens' energy that depends on the input (eta).
        cosines: Mean pairwise cosine of each slot over queries (s_j), with jackknife intervals.
        effective_ranks: Participation ratio of each slot's centred tokens.
        given_query: Share of the tokens' variance that the query's vector explains (out of sample R^2).
        mean_share: Loss rise with the mean token for everyone, as a share of the gain.
        predicted_share: Loss rise with the tokens predicted from the query's vector alone, likewise.
        divergence: Mean KL of the label distribution with own tokens from that with the mean token, nats.
        probe: Accuracy of a linear probe for the cluster of the retrieved entries from the tokens.
        probe_chance: The same with permuted clusters: mean over permutations.
        probe_p_value: Share of permutations at least as good.
        similarity: Cosine between the tokens of some queries, for the heatmap, ``[q, q]`` row by row.
        outcome: Of this diagnostic on its own.
        reason: Why, in a sentence.
    """

    section = "token variance"

    tokens: int
    energy_share: Estimate
    cosines: tuple[Estimate, ...]
    effective_ranks: tuple[float, ...]
    given_query: float
    mean_share: Estimate
    predicted_share: Estimate
    divergence: Estimate
    probe: float
    probe_chance: float
    probe_p_value: float
    similarity: tuple[tuple[float, ...], ...]
    outcome: Outcome
    reason: str


@dataclasses.dataclass(frozen=True)
class Rung(Config):
    """A step of the prompt-tuning ladder.

    Args:
        name: ``"prompt-tuning"``, ``"reparameterised"``, ``"constant"``, ``"query-only"`` or ``"full"``.
        what: The method and what it may look at, in words.
        parameters: Trained parameters.
        learning_rate: The best of its sweep, by validation loss.
        sweep: Pairs of learning rate and validation loss, one seed.
        loss: Mean loss on the queries.
        gain: Mean loss of the model alone minus ``loss``.
        share: ``gain`` as a share of the full pipeline's.
    """

    section = "rung"

    name: str
    what: str
    parameters: int
    learning_rate: float
    sweep: tuple[tuple[float, float], ...]
    loss: Estimate
    gain: Estimate
    share: Estimate


@dataclasses.dataclass(frozen=True)
class Control(Config):
    """A control without a language model on the same rows: mean loss (NaN without probabilities) and accuracy."""

    section = "control"

    name: str
    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Ladder(Config):
    """Diagnostic 3: how far a static prompt gets, and a prompt from the query alone, at the same budget.

    Args:
        rungs: From the static prompt to the full pipeline.
        gap: Gain of the full pipeline minus that of the best rung below it.
        retrieval: ``(G_full - G_query-only) / G_full``.
        controls: Without a language model.
        seeds: Training seeds.
        outcome: Of this diagnostic on its own.
        reason: Why, in a sentence.
    """

    section = "ladder"

    rungs: tuple[Rung, ...]
    gap: Estimate
    retrieval: Estimate
    controls: tuple[Control, ...]
    seeds: int
    outcome: Outcome
    reason: str


@dataclasses.dataclass(frozen=True)
class StoreHealth(Config):
    """The state of the store and of what is retrieved from it.

    Args:
        entries: In the store.
        queries: Their number.
        k: Retrieved per query.
        hubness: Skewness of how often each entry is retrieved.
        never: Share of entries that no query retrieves.
        gini: Inequality of the counts, 0 (all alike) to 1.
        entropy: Of the retrieval distribution, as a share of its largest value.
        overlap: Mean Jaccard overlap of the sets of two queries.
        overlap_chance: What random sets of that size would have.
        contrast: ``(d_mean - d_min) / d_min`` of distances from query to store, median over queries.
        score_gap: Similarity of the nearest minus that of the k-th, median.
        anisotropy: Mean cosine of random pairs of entries.
        anisotropy_centred: The same after subtracting the mean entry.
        duplicates: Entries that have the same key as another.
        leaks: Queries that stand in the store.
        curve: Retrieval counts, most retrieved first, at most 200 points: rank and count.
        warnings: What is suspicious, in sentences.
    """

    section = "store health"

    entries: int
    queries: int
    k: int
    hubness: float
    never: float
    gini: float
    entropy: float
    overlap: Estimate
    overlap_chance: float
    contrast: float
    score_gap: float
    anisotropy: float
    anisotropy_centred: float
    duplicates: int
    leaks: int
    curve: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]

    @property
    def hubness_chance(self) -> float:
        """What ``hubness`` would be if entries were drawn at random: the skewness of a binomial distribution."""
        share = min(self.k / self.entries, 1.0)
        return (1 - 2 * share) / math.sqrt(self.queries * share * (1 - share)) if share < 1 else 0.0

    @property
    def never_chance(self) -> float:
        """What ``never`` would be if entries were drawn at random."""
        return float((1 - min(self.k / self.entries, 1.0)) ** self.queries)


@dataclasses.dataclass(frozen=True)
class Verdict(Config):
    """The outcome of all diagnostics together.

    Args:
        outcome: One of five.
        headline: The first sentence of the report.
        reasons: One sentence per diagnostic.
        advice: What to change and what it would save, in sentences.
        queries_needed: How many queries would tell, where these cannot; 0 otherwise.
    """

    section = "verdict"

    outcome: Outcome
    headline: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    queries_needed: int = 0


@dataclasses.dataclass(frozen=True)
class Diagnosis(Config):
    """The whole result.

    Args:
        subject: The pipeline's name.
        task: Name of the task.
        model: Its language model.
        unit: Of a loss.
        n: Queries.
        seeds: Training seeds behind the numbers.
        verdict: Read this first.
        store_ablation: Diagnostic 1.
        token_variance: Diagnostic 2, for soft tokens.
        ladder: Diagnostic 3, if it was trained.
        store_health: If the store is known.
        notes: What a reader should know besides, in sentences.
        command: What makes this again.
        seconds: What it took.
    """

    section = "diagnosis"

    subject: str
    task: str
    model: str
    unit: str
    n: int
    seeds: int
    verdict: Verdict
    store_ablation: StoreAblation
    token_variance: TokenVariance | None = None
    ladder: Ladder | None = None
    store_health: StoreHealth | None = None
    notes: tuple[str, ...] = ()
    command: str = ""
    seconds: float = 0.0
