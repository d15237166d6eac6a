"""Losses whose retrieval share is known, because it was planted: what the diagnosis itself is tested on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config, check
from coldframe.diagnosis.advice import STATIC_RUNGS
from coldframe.diagnosis.evidence import Ablation, Outcome, Rung
from coldframe.diagnosis.outcomes import (
    MOST,
    NEGLIGIBLE,
    joint_outcome,
    ladder_outcome,
    store_ablation_outcome,
    token_outcome,
)
from coldframe.diagnosis.shares import UNDEFINED, Resampled, Resampling, remainder, share_of
from coldframe.diagnosis.subject import Condition

#: Shape of the log-normal noise: skewness 3.3.
SHAPE = 0.75
#: Data sets that share their bootstrap weights.
BATCH = 25


@dataclasses.dataclass(frozen=True)
class Planted(Config):
    """A pipeline that exists only as losses, with a known source of its gain.

    For query i and training seed s, with the skewed, heavy-tailed noise Z (log-normal, standardised)::

        full      l_F  = b_i + f_s + e_si
        alone     l_0  = b_i + G + sigma_0 Z_0i
        changed   l_A  = l_F + r_A G + sigma (c Z_0i + sqrt(1 - c^2) Z_Ai) + h_As + e_Asi

    The share lost is r = ``share`` without what was retrieved, r + (1 - r) q with another query's whole
    conditioning (and with the mean token, and at every static rung of the ladder) and r again with tokens
    predicted from the query and at the query-only rung. Rungs have seeds f_s of their own. So the truth is

    - retrieval-driven where r > 0.50,
    - mixed where 0.50 >= r > 0.10,
    - query-driven (q = 1) or prompt-tuning-like (q = 0) where r < 0.10.

    Args:
        share: r, 0 to 1.
        query: q, which part of the rest follows the query: 0 or 1.
        n: Queries.
        seeds: Training seeds S.
        gain: G, nats.
        gain_spread: sigma_0, nats; in trained pipelines about as large as G.
        spread: sigma, nats; with ``noise``, a paired standard deviation of 0.3 nats.
        noise: Standard deviation of e, nats: what one training does to one query.
        training: Standard deviation of f, as a share of G; of h it is half.
        correlation: c: a query that gains much loses much.
    """

    section = "planted pipeline"

    share: float = 0.0
    query: int = 0
    n: int = 779
    seeds: int = 3
    gain: float = 0.4
    gain_spread: float = 0.45
    spread: float = 0.25
    noise: float = 0.12
    training: float = 0.03
    correlation: float = 0.5

    def __post_init__(self) -> None:
        check(0 <= self.share <= 1, "A share must be between 0 and 1", got=self.share)
        check(self.query in (0, 1), "The rest is static (0) or follows the query (1)", got=self.query)

    def false(self, outcome: Outcome) -> bool:
        """Whether an outcome says what is not so; "cannot tell" never does.

        At a boundary itself both sides of it are false. "Mixed" where retrieval gives most is not false: it
        says more than a tenth.
        """
        if outcome == "cannot-tell":
            return False
        if self.gain <= 0:
            return True
        if outcome == "retrieval-driven":
            return self.share <= MOST
        if outcome == "mixed":
            return self.share <= NEGLIGIBLE
        return self.share >= NEGLIGIBLE or (outcome == "query-driven") != bool(self.query)

    def right(self, outcome: Outcome) -> bool:
        """Whether an outcome says all there is to say."""
        return outcome == self.truth

    @property
    def truth(self) -> Outcome:
        """The outcome that says all; at a boundary the one below it."""
        if self.gain <= 0:
            return "cannot-tell"
        if self.share > MOST:
            return "retrieval-driven"
        if self.share > NEGLIGIBLE:
            return "mixed"
        return "query-driven" if self.query else "prompt-tuning-like"


def simulate(planted: Planted, count: int, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Losses of ``count`` such pipelines.

    Shapes: ``[count, S, n]`` per condition and rung, ``[count, 1, n]`` for ``"empty"``, the model alone.
    """
    r, rest = planted.share, planted.share + (1 - planted.share) * planted.query
    lost = {"swapped": r, "swapped-conditioning": rest, "mean token": rest, "predicted token": r}
    unreached = dict.fromkeys(STATIC_RUNGS, rest) | {"query-only": r}
    c, rows = planted.correlation, (count, 1, planted.n)
    base, gained = rng.lognormal(-0.5, 0.6, rows), _skewed(rng, rows)

    def change(share: float) -> NDArray[np.float64]:
        own = c * gained + np.sqrt(1 - c**2) * _skewed(rng, rows)
        return np.asarray(share * planted.gain + planted.spread * own)

    def trained(part: float) -> NDArray[np.float64]:
        """What training adds: a number for each seed, and one for each of its queries."""
        shift = rng.normal(0, part * planted.training * planted.gain, (count, planted.seeds, 1))
        return np.asarray(shift + rng.normal(0, planted.noise, (count, planted.seeds, planted.n)))

    full = base + trained(1)
    losses = {"empty": base + planted.gain + planted.gain_spread * gained, "full": full}
    losses |= {name: full + change(share) + trained(0.5) for name, share in lost.items()}
    return losses | {name: base + change(share) + trained(1) for name, share in unreached.items()}


def judge(planted: Planted, count: int, *, resamples: int = 2000, seed: int = 0) -> Iterator[tuple[Outcome, Outcome]]:
    """Diagnose such pipelines: outcome of the store ablation alone, and of all three diagnostics.

    All but the losses is what a diagnosis runs: shares, intervals, outcomes, verdict. Data sets share their
    bootstrap weights in batches of 25, which saves most of the time and leaves them independent.

    Args:
        planted: What is true.
        count: Pipelines.
        resamples: Bootstrap resamples.
        seed: Of losses and resampling.

    Example:
        >>> [outcome for outcome, _ in judge(Planted(share=0.9, n=100), 3, resamples=500)]
        ['retrieval-driven', 'retrieval-driven', 'retrieval-driven']
    """
    rng = np.random.default_rng([seed, 0])
    for start in range(0, count, BATCH):
        losses = simulate(planted, min(BATCH, count - start), rng)
        resampling = Resampling(planted.n, resamples=resamples, seed=int(rng.integers(2**31)))
        # The rungs are trainings of their own, so each draws its own seeds.
        training = {name: number for number, name in enumerate((*STATIC_RUNGS, "query-only"), start=1)}
        means = {name: resampling.means(rows, training=training.get(name, 0)) for name, rows in losses.items()}
        for i in range(len(losses["full"])):
            yield _outcomes({name: values[i] for name, values in means.items()})


def _outcomes(means: dict[str, Resampled]) -> tuple[Outcome, Outcome]:
    full, empty = means["full"], means["empty"]
    total = empty - full
    gain = total.estimate()
    share = {name: share_of(gain, m - full, total) for name, m in means.items() if name not in ("full", "empty")}
    conditions: tuple[Condition, ...] = ("swapped", "swapped-conditioning")
    store, _ = store_ablation_outcome(
        gain, [Ablation(name, False, UNDEFINED, UNDEFINED, share[name]) for name in conditions]
    )
    # Cosines and energy describe; they decide nothing.
    tokens, _ = token_outcome(UNDEFINED, (), share["mean token"], share["predicted token"])
    rungs = [
        Rung(name, "", 0, 0.0, (), UNDEFINED, UNDEFINED, remainder(share[name]))
        for name in (*STATIC_RUNGS, "query-only")
    ]
    ladder, _ = ladder_outcome(rungs, share["query-only"])
    return store, joint_outcome(store, tokens, ladder)[0]


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Log-normal noise with mean 0 and variance 1."""
    variance = np.exp(SHAPE**2)
    return np.asarray((rng.lognormal(0, SHAPE, shape) - np.sqrt(variance)) / np.sqrt(variance * (variance - 1)))
