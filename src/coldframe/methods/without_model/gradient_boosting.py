"""Gradient boosting on the encoder's vectors."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from coldframe.methods.search_space import Choices, Floats, Integers, SearchSpace
from coldframe.methods.without_model.base import NEVER, scikit_learn
from coldframe.methods.without_model.grown import Grown
from coldframe.methods.without_model.learner import LearnerConfig, Rows
from coldframe.methods.without_model.trees import Trees


@dataclasses.dataclass(frozen=True)
class GradientBoostingConfig(LearnerConfig):
    """Settings of gradient boosting.

    Args:
        iterations: Trees for each label (of two labels, for both), at least 1; left out, 25, 50, 100 or 200, whichever
            does best on the validation rows.
        rate: What a tree's values are multiplied by, above 0.
        leaf: Rows that a leaf has at least, 1 or more.
        leaves: Leaves of a tree at most, at least 2.
        penalty: Of squared leaf values, at least 0.
    """

    section = "gradient boosting settings"
    at_least = {"iterations": 1, "leaf": 1, "leaves": 2, "penalty": 0}
    above = {"rate": 0}
    at_most = {"iterations": 10_000}

    iterations: int | None = None
    rate: float = 0.1
    leaf: int = 20
    leaves: int = 31
    penalty: float = 0.0


class GradientBoosting(Grown):
    """Gradient boosting over histograms: ``s(x) = s_0 + rate * sum_t tree_t(x)``, ``p = softmax(s)``.

    Every tree is grown on the gradient of the cross-entropy that the trees before it leave, on features in 255 bins.

    Paper: Friedman 2001, in the histogram form of LightGBM (Ke et al. 2017).

    Cost:
        ``iterations x labels`` trees: seconds for two labels, minutes for 77 (3,000 rows). Needs scikit-learn (extra
        ``train``) to be fitted only: the trees are saved as tensors.

    Example:
        >>> GradientBoosting(iterations=50)
        GradientBoosting(iterations=50)
    """

    name: ClassVar[str] = "gradient-boosting"
    paper: ClassVar[str] = "Friedman 2001"
    config_class = GradientBoostingConfig
    config: GradientBoostingConfig
    uses_seed: ClassVar[bool] = False
    open_setting: ClassVar[str] = "iterations"
    tried: ClassVar[tuple[Any, ...]] = (25, 50, 100, 200)
    usual: ClassVar[Any] = 100
    search_space: ClassVar[SearchSpace] = {
        "iterations": Choices((25, 50, 100, 200)),
        "rate": Floats(0.02, 0.3),
        "leaf": Integers(5, 50, log=True),
        "leaves": Choices((7, 15, 31)),
        "penalty": Floats(1e-3, 10.0),
    }

    def learn(self, rows: Rows) -> None:
        """Grow the trees."""
        with scikit_learn():
            from sklearn.ensemble import HistGradientBoostingClassifier
        config = self.config
        boosting = HistGradientBoostingClassifier(
            max_iter=config.iterations,
            learning_rate=config.rate,
            min_samples_leaf=config.leaf,
            max_leaf_nodes=config.leaves,
            l2_regularization=config.penalty,
            class_weight="balanced" if rows.balanced else None,
            early_stopping=False,
            random_state=rows.seed,
        )
        boosting.fit(rows.features, rows.targets)
        self.trees = Trees.of_boosting(boosting, len(self.ready.schema.labels), absent=NEVER)

    def scores_of(self, features: Any) -> Tensor:
        """The sums of the trees."""
        return torch.from_numpy(self.trees(features))
