"""Diagnostic 2: whether the soft tokens depend on the query, and whether the model cares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.diagnosis.evidence import Estimate, TokenVariance
from coldframe.diagnosis.outcomes import token_outcome
from coldframe.diagnosis.shares import UNDEFINED, Shares
from coldframe.diagnosis.soft_token_subject import SoftTokenSubject
from coldframe.diagnosis.subject import TokenSubject
from coldframe.diagnosis.token_statistics import (
    FOLDS,
    bootstrapped,
    effective_rank,
    energy_share,
    explained_variance,
    mean_cosine,
    predicted_tokens,
    probe,
    retrieved_clusters,
    slot_cosines,
    unit_rows,
)
from coldframe.errors import DataError
from coldframe.inference.intervals import RESAMPLES

SHOWN = 32  # queries in the heatmap


def token_variance(
    subjects: Sequence[TokenSubject], *, resamples: int = RESAMPLES, folds: int = FOLDS, seed: int = 0
) -> TokenVariance:
    """How much of the soft tokens depends on the query, and how much of the gain comes from that part.

    With the tokens ``C_ij`` of query i = 1..N in slot j, their mean ``C_j``, and unit vectors ``u_ij``::

        eta    = sum_j 1/(N-1) sum_i |C_ij - C_j|^2 / sum_j 1/N sum_i |C_ij|^2
        s_j    = (|sum_i u_ij|^2 - N) / (N (N - 1))
        rank_j = (sum lambda)^2 / sum lambda^2,  lambda the eigenvalues of the centred tokens' covariance
        Delta_mean / G,  Delta_mean = mean(l(C) - l(C_i)),   KL(p(. | C_i, x_i) || p(. | C, x_i))

    The conditional version puts ``f(e_x)`` in the place of ``C_i``: a ridge regression of the tokens on the query's
    vector alone, each query predicted by a fit without it. Its cost is what the tokens add to (a linear function of)
    the query.

    Args:
        subjects: One per training seed, on the same queries. Losses are averaged over them; the tokens
            described are those of the first.
        resamples: Of the intervals of loss shares.
        folds: Of the cross-validation, at least 2.
        seed: Of everything drawn.

    Raises:
        DataError: Fewer than ten queries.
        MissingExtraError: scikit-learn (extra ``train``) is absent, and the tokens are not all alike.

    Cost: four passes over the queries; about ten seconds beside them at N = 779, m = 8, d = 576.
    """
    check(folds >= 2, "Cross-validation needs two folds", got=folds, expected="at least 2")
    first = subjects[0]
    n, groups = len(first), first.groups
    if n < 10:
        raise DataError("Too few queries to say how their tokens vary", got=n, expected="at least 10")
    all_tokens = [subject.tokens() for subject in subjects]
    tokens = all_tokens[0]
    shares = Shares(
        np.stack([subject.losses("full") for subject in subjects]),
        np.stack([subject.losses("empty") for subject in subjects]),
        groups,
        resamples=resamples,
        seed=seed,
    )
    static = [bool((own == own[:1]).all()) for own in all_tokens]
    # The mean of equal floats need not be that float.
    means = [
        own[0] if alike else own.mean(axis=0, dtype=np.float64).astype(np.float32)
        for own, alike in zip(all_tokens, static, strict=True)
    ]
    mean_share = shares.of(_with(subjects, means)).share
    predicted = [
        own if alike else predicted_tokens(own, subject.query_vectors(), groups, folds=folds, seed=seed)
        for subject, own, alike in zip(subjects, all_tokens, static, strict=True)
    ]
    predicted_share = shares.of(_with(subjects, predicted)).share
    energy, cosines = energy_share(tokens, groups, seed=seed), slot_cosines(tokens, groups)
    accuracy, chance, p_value = float("nan"), float("nan"), float("nan")
    divergence = UNDEFINED
    if isinstance(first, SoftTokenSubject):
        divergence = _mean(first.divergence(means[0]), groups, seed)
        if not static[0] and first.retrieved_ids().shape[1]:
            labels = retrieved_clusters(first.retrieved_ids(), first.store_vectors(), seed=seed)
            accuracy, chance, p_value = probe(tokens, labels, seed=seed)
    outcome, reason = token_outcome(energy, cosines, mean_share, predicted_share)
    return TokenVariance(
        tokens=tokens.shape[1],
        energy_share=energy,
        cosines=tuple(cosines),
        effective_ranks=tuple(effective_rank(tokens[:, j]) for j in range(tokens.shape[1])),
        given_query=explained_variance(tokens, predicted[0]),
        mean_share=mean_share,
        predicted_share=predicted_share,
        divergence=divergence,
        probe=accuracy,
        probe_chance=chance,
        probe_p_value=p_value,
        similarity=_similarity(tokens),
        outcome=outcome,
        reason=reason,
    )


def reference_note(subject: SoftTokenSubject) -> str:
    """Energy share and cosine before training and of words, to compare the pipeline's with; empty if not trained."""
    method = subject.pipeline.method
    if not method.trainable or method.needs_passages:
        return ""
    at_start, words = subject.initial_tokens(), subject.word_embeddings()

    def described(tokens: NDArray[np.float32]) -> str:
        cosine = np.mean([mean_cosine(tokens[:, j]) for j in range(tokens.shape[1])])
        return f"{energy_share(tokens).value:.2%} and {cosine:.3f}"

    return (
        "Energy share and mean cosine of the tokens, to be compared with: "
        f"{described(at_start)} before training, {described(words)} for the mean word embedding of the queries."
    )


def _with(subjects: Sequence[TokenSubject], tokens: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.stack([subject.losses_with(own) for subject, own in zip(subjects, tokens, strict=True)])


def _mean(values: NDArray[np.float64], groups: NDArray[np.int64] | None, seed: int) -> Estimate:
    """A mean over queries; undefined where the values are."""
    if not np.isfinite(values).all():
        return UNDEFINED
    return bootstrapped(lambda weights: weights @ values / weights.sum(axis=1), len(values), groups, seed=seed)


def _similarity(tokens: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    """Cosines between all tokens of evenly chosen queries."""
    chosen = np.unique(np.linspace(0, len(tokens) - 1, min(SHOWN, len(tokens))).astype(np.int64))
    unit = unit_rows(tokens[chosen].reshape(len(chosen), -1))
    return tuple(tuple(round(float(x), 4) for x in row) for row in unit @ unit.T)
