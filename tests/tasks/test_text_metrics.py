"""Generation metrics: by hand, and BLEU against sacrebleu."""

from __future__ import annotations

import numpy as np
import pytest

from coldframe.errors import DataError
from coldframe.tasks.text_metrics import TEXT_METRICS


def test_by_hand() -> None:
    ours = ["Paris, France", "the answer is 1972", "no idea"]
    accepted = [["Paris"], ["December 1972", "1972"], ["blue"]]
    assert TEXT_METRICS["exact_match"].score(ours, accepted) == 0
    assert TEXT_METRICS["contains"].score(ours, accepted) == pytest.approx(200 / 3)
    # F1: 2*1/(2+1); the best of 2*1/(3+2) and 2*1/(3+1), "the" being an article; 0.
    assert TEXT_METRICS["token_f1"].score(ours, accepted) == pytest.approx(100 * (2 / 3 + 0.5) / 3)


def test_contained_means_whole_words() -> None:
    assert TEXT_METRICS["contains"].score(["the cathedral"], [["cat"]]) == 0


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    ours = ["the molecule is a member of the class of alcohols", "a simple ketone with a ring", "it is an acid"]
    refs = ["the molecule is a primary alcohol , a member of alcohols", "a simple ketone with one ring", "it is a base"]
    expected = sacrebleu.corpus_bleu(ours, [refs], smooth_method="none").score
    assert expected > 0
    assert TEXT_METRICS["bleu4"].score(ours, [[r] for r in refs]) == pytest.approx(expected)


def test_maccs_counts_unreadable_molecules_as_0() -> None:
    pytest.importorskip("rdkit")
    assert TEXT_METRICS["maccs"].score(["OCC", "not a molecule"], [["CCO"], ["CCO"]]) == pytest.approx(50)
    with pytest.raises(DataError, match="reference"):
        TEXT_METRICS["maccs"].score(["CCO"], [["not a molecule"]])


@pytest.mark.parametrize("name", ["exact_match", "token_f1", "contains"])
def test_weights_are_copies(name: str) -> None:
    ours, accepted = ["a b", "c", "d e f"], [["a"], ["c"], ["f e"]]
    twice = TEXT_METRICS[name].score([*ours, ours[0]], [*accepted, accepted[0]])
    assert TEXT_METRICS[name].score_many(ours, accepted, np.array([[2, 1, 1]]))[0] == pytest.approx(twice)


def test_bad_input_is_told() -> None:
    with pytest.raises(DataError, match="reference"):
        TEXT_METRICS["exact_match"].score(["a"], [[]])
    with pytest.raises(DataError, match="lengths"):
        TEXT_METRICS["exact_match"].score(["a"], [["a"], ["b"]])
