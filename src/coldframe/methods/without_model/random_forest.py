"""A random forest on the encoder's vectors."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from coldframe.methods.search_space import Choices, Integers, SearchSpace
from coldframe.methods.without_model.base import compact, log_scores, scikit_learn
from coldframe.methods.without_model.grown import Grown
from coldframe.methods.without_model.learner import LearnerConfig, Rows
from coldframe.methods.without_model.trees import Trees


@dataclasses.dataclass(frozen=True)
class RandomForestConfig(LearnerConfig):
    """Settings of the random forest.

    Args:
        trees: How many, at least 1.
        leaf: Rows that a leaf has at least, 1 or more; left out, 1, 2 or 5, whichever does best on the validation rows.
    """

    section = "random forest settings"
    at_least = {"trees": 1, "leaf": 1}
    at_most = {"trees": 10_000}

    trees: int = 300
    leaf: int | None = None


class RandomForest(Grown):
    """Random forest: ``p(y | x)`` is the mean, over trees, of the label shares in the leaf that x falls into.

    Each tree is grown on a bootstrap sample, every split on the best of ``sqrt(width)`` features drawn anew.

    Paper: Breiman 2001.

    Cost:
        Fitted in seconds to a minute (3,000 fingerprints); some megabytes of nodes. Needs scikit-learn (extra
        ``train``) to be fitted only: the trees are saved as tensors.

    Example:
        >>> RandomForest(leaf=2)
        RandomForest(leaf=2)
    """

    name: ClassVar[str] = "random-forest"
    paper: ClassVar[str] = "Breiman 2001"
    config_class = RandomForestConfig
    config: RandomForestConfig
    open_setting: ClassVar[str] = "leaf"
    tried: ClassVar[tuple[Any, ...]] = (1, 2, 5)
    usual: ClassVar[Any] = 1
    search_space: ClassVar[SearchSpace] = {"leaf": Integers(1, 20, log=True), "trees": Choices((100, 300, 1000))}

    def learn(self, rows: Rows) -> None:
        """Grow the trees."""
        with scikit_learn():
            from sklearn.ensemble import RandomForestClassifier
        forest = RandomForestClassifier(
            self.config.trees,
            min_samples_leaf=self.config.leaf,
            class_weight="balanced" if rows.balanced else None,
            random_state=rows.seed,
            n_jobs=-1,
        )
        forest.fit(compact(rows.features), rows.targets)
        self.trees = Trees.of_forest(forest, len(self.ready.schema.labels))

    def scores_of(self, features: Any) -> Tensor:
        """Logarithms of the mean shares."""
        return log_scores(self.trees(features) / len(self.trees.roots))
