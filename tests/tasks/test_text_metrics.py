"""Generation metrics: by hand, and BLEU against sacrebleu."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coldframe.errors import DataError, MissingExtraError
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


CAPTIONS = ["the molecule is a member of the class of alcohols", "a simple ketone with a ring", "it is an acid"]
RIGHT = ["the molecule is a primary alcohol , a member of alcohols", "a simple ketone with one ring", "it is a base"]


@pytest.mark.parametrize("order", [2, 4])
def test_bleu_is_sacrebleus(order: int) -> None:
    bleu = pytest.importorskip("sacrebleu.metrics.bleu")
    expected = bleu.BLEU(max_ngram_order=order, smooth_method="none").corpus_score(CAPTIONS, [RIGHT]).score
    assert expected > 0
    assert TEXT_METRICS[f"bleu{order}"].score(CAPTIONS, [[text] for text in RIGHT]) == pytest.approx(expected)


def test_rouge_by_hand() -> None:
    """Of 5 and 5 words 3 are shared, 1 pair of 4 and 4, and the 3 stand in the same order; stems count as words."""
    pytest.importorskip("rouge_score")
    scores = {
        name: TEXT_METRICS[name].score(["a b c d e"], [["x a b y d"]]) for name in ("rouge1", "rouge2", "rouge_l")
    }
    assert scores == pytest.approx({"rouge1": 60, "rouge2": 25, "rouge_l": 60})
    assert TEXT_METRICS["rouge1"].score(["alcohols"], [["alcohol"]]) == pytest.approx(100)


def test_meteor_by_hand() -> None:
    """Three words of four match in two chunks: F = 3/4, penalty 0.5 (2/3)^3. Stems match; no data is read."""
    pytest.importorskip("nltk")
    score = TEXT_METRICS["meteor"].score
    assert score(["the ring opens fast"], [["the ring closes fast"]]) == pytest.approx(75 * (1 - 0.5 * (2 / 3) ** 3))
    assert score(["rings"], [["ring"]]) == pytest.approx(50)  # one chunk of one word: penalty 0.5
    assert score([""], [["ring"]]) == 0


def test_written_molecules_by_hand() -> None:
    pytest.importorskip("rdkit")
    from rdkit import Chem, DataStructs
    from rdkit.Chem import AllChem

    ours, right = ["OCC", "not a molecule", "CCN", ""], [["CCO"], ["CCO"], ["CCO"], ["CCO"]]
    assert TEXT_METRICS["valid"].score(ours, right) == pytest.approx(50)
    assert TEXT_METRICS["same_molecule"].score(ours, right) == pytest.approx(25)
    amine, alcohol = Chem.MolFromSmiles("CCN"), Chem.MolFromSmiles("CCO")
    for name, of in {
        "maccs": AllChem.GetMACCSKeysFingerprint,
        "rdk": Chem.RDKFingerprint,
        "morgan": lambda molecule: AllChem.GetMorganFingerprint(molecule, 2),
    }.items():
        alike = DataStructs.TanimotoSimilarity(of(amine), of(alcohol))
        assert 0 < alike < 1
        assert TEXT_METRICS[name].score(ours, right) == pytest.approx(100 * (1 + alike) / 4)
    assert TEXT_METRICS["same_molecule"].score(["C[C@H](N)O"], [["C[C@@H](N)O"]]) == 0  # the mirror image
    for name in ("valid", "same_molecule", "maccs"):
        with pytest.raises(DataError, match="reference"):
            TEXT_METRICS[name].score(["CCO"], [["not a molecule"]])


@pytest.mark.parametrize(
    ("metric", "package"), [("bleu4", "sacrebleu.metrics.bleu"), ("meteor", "nltk.translate.meteor_score")]
)
def test_an_absent_scorer_names_its_extra(metric: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="captions"):
        TEXT_METRICS[metric].score(["a"], [["a"]])


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
