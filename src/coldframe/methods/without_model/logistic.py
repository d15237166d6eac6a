"""Logistic regression on any features: a linear layer that scikit-learn fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coldframe.methods.without_model.base import NEVER, compact, scikit_learn

#: Inverse strengths of the penalty that are tried where none is set, weakest last.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
USUAL_STRENGTH = 1.0


class LogisticLayer(nn.Module):
    """``s = W x + b`` in float64, with the weights of a regularised logistic regression.

    ``min_W  sum_i w_i -log softmax(W x_i + b)_{y_i} + |W|^2 / (2 c)``. Features may be scaled by their largest absolute
    value for it; the scale is part of W afterwards. A label that was not among the targets is never the answer.

    Args:
        labels: How many there are.
        width: Of the features.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(labels, width, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(labels, dtype=torch.float64))

    def forward(self, features: Any) -> Tensor:
        """Scores ``[n, labels]`` of features ``[n, width]``, dense or sparse."""
        return torch.from_numpy(np.asarray(features @ self.weight.cpu().numpy().T + self.bias.cpu().numpy()))

    def fit(self, features: Any, targets: NDArray[np.int64], c: float, balanced: bool, *, scaled: bool) -> None:
        """Fit the weights.

        Args:
            features: ``[n, width]``, dense or sparse.
            targets: Label positions, ``[n]``, at least two different ones.
            c: Inverse strength of the penalty.
            balanced: Weigh rows so that all labels count the same in sum.
            scaled: Scale every feature to a largest absolute value of 1.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        with scikit_learn():
            from sklearn.linear_model import LogisticRegression
            from sklearn.preprocessing import MaxAbsScaler

            features = compact(features)
        scale = np.ones(features.shape[1])
        if scaled:
            scaler = MaxAbsScaler().fit(features)
            features, scale = scaler.transform(features), scaler.scale_
        model = LogisticRegression(C=c, class_weight="balanced" if balanced else None, max_iter=2000)
        model.fit(features, targets)
        weight, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
        if len(weight) == 1:  # of two labels scikit-learn keeps the difference
            weight, bias = np.concatenate((0 * weight, weight)), np.concatenate((0 * bias, bias))
        self.weight.zero_()
        self.bias.fill_(NEVER)
        self.weight[model.classes_] = torch.from_numpy(weight / scale)
        self.bias[model.classes_] = torch.from_numpy(bias)
