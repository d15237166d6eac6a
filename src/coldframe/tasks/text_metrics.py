"""Scores of written answers. Each is a sum over rows, then a formula; so resamples are one matrix product.

Units: percent, 0 to 100.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coldframe.errors import DataError, MissingExtraError
from coldframe.tasks.molecule_metrics import same_molecule, similarity, valid

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TextMetric:
    """A score of generated text against accepted answers.

    Args:
        name: As on the command line and in ``TEXT_METRICS``.
        title: As printed.
        statistics: (predictions, references) to ``[n, s]``, what each row adds.
        combine: Sums ``[resamples, s]`` and numbers of rows ``[resamples]`` to scores ``[resamples]``.
    """

    name: str
    title: str
    statistics: Callable[[Sequence[str], Sequence[Sequence[str]]], Floats]
    combine: Callable[[Floats, Floats], Floats]
    range: tuple[float, float] = (0.0, 100.0)
    greater_is_better: bool = True

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The score on all rows.

        Args:
            predictions: One per row.
            references: The accepted answers of each row, at least one.

        Example:
            >>> TEXT_METRICS["exact_match"].score(["The Beatles.", "Queen"], [["beatles"], ["abba"]])
            50.0
        """
        return float(self.score_many(predictions, references, np.ones((1, len(predictions))))[0])

    def score_many(self, predictions: Sequence[str], references: Sequence[Sequence[str]], weights: ArrayLike) -> Floats:
        """The score under each row of ``weights`` ``[resamples, n]``, as for classification metrics."""
        w = np.asarray(weights, dtype=np.float64)
        if not len(predictions) == len(references) == w.shape[-1] or w.ndim != 2 or not len(predictions):
            got = f"{len(predictions)} predictions, {len(references)} references, weights {w.shape}"
            raise DataError("Scores need matching lengths", got=got)
        if empty := [row for row, accepted in enumerate(references) if not accepted]:
            raise DataError(f"Row {empty[0]} has no reference")
        return self.combine(w @ self.statistics(predictions, references), w.sum(axis=1))


_PUNCTUATION = str.maketrans("", "", string.punctuation + "。，、；：？！「」『』（）《》“”‘’…")
#: Scripts that put no blanks between words: Thai to Khmer, kana, Han.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: the usual form of open-domain answers.

    >>> normalise("The  Beatles!")
    'beatles'
    """
    bare = text.casefold().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def published_answer(text: str) -> str:
    """An answer as the code of PRAG, DyPRAG and Poly-PRAG takes it out of what a model wrote, for comparison only.

    What follows the first "the answer is", up to the first full stop, line break or comma. Their bug is that accepted
    answers are not cut likewise: "J. K. Rowling" becomes "J", and "Paris, France" "Paris".

    >>> published_answer("So the answer is J. K. Rowling."), published_answer("Paris, France")
    ('J', 'Paris')
    """
    _, marker, rest = text.partition("the answer is")
    return re.split(r"[.\n,]", (rest if marker else text).strip(), maxsplit=1)[0].strip()


def _best(score: Callable[[str, str], float]) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Floats]:
    """By row, the best score over its references, as a column."""

    def statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        rows = zip(predictions, references, strict=True)
        return np.array([[max(score(prediction, answer) for answer in accepted)] for prediction, accepted in rows])

    return statistics


def _mean(sums: Floats, n: Floats) -> Floats:
    return 100 * sums[:, 0] / np.maximum(n, 1)


def _exact(prediction: str, answer: str) -> float:
    text, short = _comparable(prediction, answer)
    return float(text == short)


def _contains(prediction: str, answer: str) -> float:
    text, short = _comparable(prediction, answer)
    if not short:
        return float(not text)
    blank = "" if _UNSPACED.search(short) else " "
    return float(f"{blank}{short}{blank}" in f"{blank}{text}{blank}")


def _comparable(prediction: str, answer: str) -> tuple[str, str]:
    """Both in the usual form; with their articles where the answer is one, for "A" is a choice."""
    if short := normalise(answer):
        return normalise(prediction), short
    text, short = (" ".join(part.casefold().translate(_PUNCTUATION).split()) for part in (prediction, answer))
    return text, short


def _token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall; 1 if both are empty."""
    ours, theirs = normalise(prediction).split(), normalise(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


class _NoSynonyms:
    """In the place of WordNet, whose data no package brings: METEOR then matches words and their stems."""

    @staticmethod
    def synsets(word: str) -> list[str]:
        """None of any word."""
        return []


def _meteor(prediction: str, answer: str) -> float:
    try:
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError as error:
        raise MissingExtraError("nltk", "captions", "METEOR") from error
    return float(single_meteor_score(answer.split(), prediction.split(), wordnet=_NoSynonyms))


def _rouge(kind: str) -> Callable[[str, str], float]:
    """F1 of a kind of ROUGE, words stemmed."""

    def score(prediction: str, answer: str) -> float:
        return float(_rouge_scorer().score(answer, prediction)[kind].fmeasure)

    return score


@functools.cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("rouge-score", "captions", "ROUGE") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def _bleu_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """Hypothesis and reference length, then n-grams matched and proposed for n = 1 to 4."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "captions", "BLEU") from error
    scorer = BLEU(effective_order=True)  # only its counts are used; the order matters for single sentences alone
    scores = [scorer.sentence_score(p, list(r)) for p, r in zip(predictions, references, strict=True)]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores], dtype=np.float64)


def _bleu(order: int) -> Callable[[Floats, Floats], Floats]:
    """Corpus BLEU of summed counts: brevity penalty times the geometric mean of the precisions of 1 to ``order``."""

    def combine(sums: Floats, n: Floats) -> Floats:
        ours, theirs, matches, proposed = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + order], sums[:, 6 : 6 + order]
        with np.errstate(divide="ignore"):
            logs = np.log(matches / np.maximum(proposed, 1)).mean(axis=1)
            brevity = np.minimum(0.0, 1 - theirs / np.maximum(ours, 1e-9))
        return np.asarray(100 * np.exp(logs + brevity))

    return combine


TEXT_METRICS: dict[str, TextMetric] = {
    metric.name: metric
    for metric in (
        TextMetric("exact_match", "Exact match", _best(_exact), _mean),
        TextMetric("token_f1", "Token F1", _best(_token_f1), _mean),
        TextMetric("contains", "Answer contained", _best(_contains), _mean),
        TextMetric("bleu2", "BLEU-2", _bleu_statistics, _bleu(2)),
        TextMetric("bleu4", "BLEU-4", _bleu_statistics, _bleu(4)),
        TextMetric("meteor", "METEOR", _best(_meteor), _mean),
        TextMetric("rouge1", "ROUGE-1", _best(_rouge("rouge1")), _mean),
        TextMetric("rouge2", "ROUGE-2", _best(_rouge("rouge2")), _mean),
        TextMetric("rouge_l", "ROUGE-L", _best(_rouge("rougeL")), _mean),
        TextMetric("valid", "Valid molecules", _best(valid), _mean),
        TextMetric("same_molecule", "Same molecule", _best(same_molecule), _mean),
        TextMetric("maccs", "MACCS similarity", _best(similarity("maccs")), _mean),
        TextMetric("rdk", "RDK similarity", _best(similarity("rdk")), _mean),
        TextMetric("morgan", "Morgan similarity", _best(similarity("morgan")), _mean),
    )
}
"""All generation metrics by name.

- ``exact_match``, ``token_f1``, ``contains`` (sub-span match at word boundaries): on normalised text, the best
  over the accepted answers.
- ``bleu2``, ``bleu4``: corpus BLEU (Papineni et al., 2002) on sacrebleu's counts, not smoothed: 0 if no n-gram matches.
- ``meteor``: METEOR (Banerjee and Lavie, 2005) of nltk, words and stems; published figures count synonyms too.
- ``rouge1``, ``rouge2``, ``rouge_l``: F1 of ROUGE (Lin, 2004) of rouge-score, words stemmed.
- ``valid``, ``same_molecule``, ``maccs``, ``rdk``, ``morgan``: see :mod:`coldframe.tasks.molecule_metrics`. A text
  that is no molecule counts 0, where published similarities often leave it out.
"""
