"""Trees as tensors answer as scikit-learn does, to the bit, and come back from a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from tests.methods.without_model.support import corners

from coldframe.methods.without_model.trees import Trees


@pytest.mark.parametrize("leaf", [1, 4])
def test_a_forest_is_that_of_scikit_learn(leaf: int) -> None:
    features, targets = corners(60, 3)
    forest = RandomForestClassifier(7, min_samples_leaf=leaf, class_weight="balanced", random_state=0, n_jobs=1)
    forest.fit(features, targets)
    new = corners(40, 3, seed=1)[0]
    np.testing.assert_array_equal(Trees.of_forest(forest, 3)(new) / 7, forest.predict_proba(new))


def test_a_label_that_training_lacks_has_no_share() -> None:
    features, targets = corners(40, 2)
    forest = RandomForestClassifier(3, random_state=0).fit(features, 2 * targets)  # labels 0 and 2 of three
    sums = Trees.of_forest(forest, 3)(features)
    np.testing.assert_array_equal(sums[:, [0, 2]] / 3, forest.predict_proba(features))
    assert not sums[:, 1].any()


@pytest.mark.parametrize("labels", [2, 3])
def test_boosting_is_that_of_scikit_learn(labels: int) -> None:
    features, targets = corners(80, labels)
    boosting = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3, early_stopping=False).fit(
        features, targets
    )
    new = corners(30, labels, seed=1)[0]
    sums = Trees.of_boosting(boosting, labels + 1, absent=-1e4)(new)
    raw = boosting._raw_predict(new)
    expected = np.concatenate((0 * raw, raw), axis=1) if labels == 2 else raw
    np.testing.assert_array_equal(sums[:, :labels], expected)
    probabilities = torch.from_numpy(sums).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities[:, :labels], boosting.predict_proba(new), atol=1e-12)
    assert not probabilities[:, labels].any()


def test_trees_that_run_in_circles_or_read_what_is_not_there_are_seen() -> None:
    features, targets = corners(60, 3)
    trees = Trees.of_forest(RandomForestClassifier(2, random_state=0).fit(features, targets), 3)
    assert trees.is_sound(3, 3) and not trees.is_sound(2, 3) and not trees.is_sound(3, 2)
    inner = int((trees.left >= 0).nonzero()[0])
    for name, value in (("left", 0), ("right", 10_000), ("feature", -1), ("columns", 9)):
        changed = Trees(**{key: tensor.clone() for key, tensor in trees.state_dict().items()})
        getattr(changed, name)[inner] = value
        assert not changed.is_sound(3, 3), name
    assert not Trees().is_sound(3, 0)
