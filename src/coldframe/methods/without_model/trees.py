"""Decision trees as tensors: scikit-learn grows them, and what it grew is answered and saved without a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

#: Of tensors: how they are called and what they hold.
_TENSORS = {
    "roots": torch.int64,
    "left": torch.int64,
    "right": torch.int64,
    "feature": torch.int64,
    "threshold": torch.float64,
    "columns": torch.int64,
    "values": torch.float64,
    "baseline": torch.float64,
}


class Trees(nn.Module):
    """Sums over trees: ``f(x) = baseline + sum_t value(leaf_t(x))``, float64, trees in their order.

    At an inner node a row goes left where ``x[feature] <= threshold``. The sums are those of scikit-learn to the bit.

    Shapes:
        roots ``[trees]``; left, right, feature, threshold ``[nodes]``, left is -1 at a leaf; columns, values
        ``[nodes, w]``: what a leaf adds to which outputs, padded with column ``outputs``; baseline ``[outputs]``.
    """

    roots: Tensor
    left: Tensor
    right: Tensor
    feature: Tensor
    threshold: Tensor
    columns: Tensor
    values: Tensor
    baseline: Tensor

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, dtype in _TENSORS.items():
            self.register_buffer(name, tensors[name].to(dtype) if tensors else torch.zeros(0, dtype=dtype))

    def forward(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sums ``[n, outputs]`` for rows ``[n, width]``."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in _TENSORS}
        left, right, feature, threshold = (arrays[name] for name in ("left", "right", "feature", "threshold"))
        rows, outputs = np.arange(len(features)), len(arrays["baseline"])
        node = np.tile(arrays["roots"], (len(features), 1))
        while (inner := left[node] >= 0).any():
            goes_left = features[rows[:, None], feature[node]] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        sums = np.zeros((len(features), outputs + 1))
        sums[:, :outputs] = arrays["baseline"]
        for leaves in node.T:  # one tree after another, as scikit-learn adds
            sums[rows[:, None], arrays["columns"][leaves]] += arrays["values"][leaves]
        result: NDArray[np.float64] = sums[:, :outputs]
        return result

    def is_sound(self, width: int, outputs: int) -> bool:
        """Whether every way through the trees ends at a leaf, and reads and adds what there is."""
        nodes = torch.arange(len(self.left))
        inner = self.left >= 0
        below = torch.stack((self.left, self.right))[:, inner]  # children come after their parent: no way is a circle
        sound = (
            (self.roots >= 0) & (self.roots < len(nodes)),
            (below > nodes[inner]) & (below < len(nodes)),
            (self.feature >= 0) & (self.feature < width),
            (self.columns >= 0) & (self.columns <= outputs),
        )
        return len(self.roots) > 0 and len(self.baseline) == outputs and all(bool(part.all()) for part in sound)

    @classmethod
    def of_forest(cls, forest: Any, labels: int) -> Self:
        """Those of a fitted random forest of classifiers: the sums are its probabilities times its trees."""
        trees = [tree.tree_ for tree in forest.estimators_]
        shares = np.concatenate([tree.value[:, 0] for tree in trees])
        leaf = np.concatenate([tree.children_left for tree in trees]) < 0
        present = (shares > 0) & leaf[:, None]
        width = int(present.sum(axis=1).max())
        first = np.argsort(~present, axis=1, kind="stable")[:, :width]  # the labels that a leaf has, in their order
        used = np.take_along_axis(present, first, axis=1)
        return cls._joined(
            [(tree.children_left, tree.children_right, tree.feature, tree.threshold) for tree in trees],
            np.where(used, np.asarray(forest.classes_)[first], labels),
            np.where(used, np.take_along_axis(shares, first, axis=1), 0.0),
            np.zeros(labels),
        )

    @classmethod
    def of_boosting(cls, boosting: Any, labels: int, absent: float) -> Self:
        """Those of a fitted ``HistGradientBoostingClassifier``: the sums are log-scores of the labels."""
        stages = boosting._predictors  # a private name; a test holds us to its sums
        columns = boosting.classes_[1:] if len(stages[0]) == 1 else boosting.classes_
        baseline = np.full(labels, absent)
        baseline[boosting.classes_] = 0.0
        baseline[columns] = boosting._baseline_prediction.reshape(-1)
        nodes = [tree.nodes for stage in stages for tree in stage]
        outputs = np.concatenate([np.full(len(at), columns[t % len(columns)]) for t, at in enumerate(nodes)])
        left = [np.where(at["is_leaf"], -1, at["left"].astype(np.int64)) for at in nodes]
        splits = [
            (below, at["right"], at["feature_idx"], at["num_threshold"]) for below, at in zip(left, nodes, strict=True)
        ]
        return cls._joined(splits, outputs[:, None], np.concatenate([at["value"] for at in nodes])[:, None], baseline)

    @classmethod
    def _joined(
        cls,
        splits: Sequence[tuple[NDArray[Any], ...]],
        columns: NDArray[Any],
        values: NDArray[np.float64],
        baseline: NDArray[np.float64],
    ) -> Self:
        """Trees with nodes of their own (left, right, feature, threshold) in one table."""
        sizes = [len(left) for left, *_ in splits]
        roots = np.cumsum([0, *sizes[:-1]])
        offset = np.repeat(roots, sizes)
        left, right, feature, threshold = (np.concatenate(parts) for parts in zip(*splits, strict=True))
        leaf = left < 0
        arrays = {
            "roots": roots,
            "left": np.where(leaf, -1, left + offset),
            "right": np.where(leaf, -1, right.astype(np.int64) + offset),
            "feature": np.where(leaf, 0, feature),
            "threshold": np.where(leaf, 0.0, threshold),
            "columns": columns,
            "values": np.where(leaf[:, None], values, 0.0),
            "baseline": baseline,
        }
        return cls(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
