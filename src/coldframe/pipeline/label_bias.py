"""What a pipeline says whatever it reads: the priors of its labels, and a correction of them on validation rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.errors import ConfigError
from coldframe.tasks.task import Schema

PRIOR_ROWS = 64
"""Rows that priors are averaged over where an artifact is written: they are told to a hundredth or two."""

_RIDGE = 0.001


def label_priors(labels: Sequence[str], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """The mean probability of every label over inputs: ``p(y) = 1/n sum_i p(y | x_i)``.

    A label whose prior is far from its share among the rows wins or loses whatever is read. Paper: Zhou et al. 2024
    (batch calibration), who divide by it.

    Args:
        labels: Their names.
        probabilities: ``[n, labels]``; what was right does not matter.

    Example:
        >>> label_priors(["No", "Yes"], np.array([[0.9, 0.1], [0.5, 0.5]]))
        {'No': 0.7, 'Yes': 0.3}
    """
    means = probabilities.mean(axis=0)
    return {label: round(float(mean), 6) for label, mean in zip(labels, means, strict=True)}


def fit_label_bias(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], weights: Sequence[float] = ()
) -> list[float]:
    """One number for each label, added to its score, that makes labelled rows likeliest.

    min_b  mean_i w_i ( -log softmax(log p_i + b)[y_i] ) + 0.0005 |b|^2

    The ridge keeps b finite where rows never disagree. It is convex, so that there is one answer.

    Args:
        probabilities: ``[n, labels]``, of validation rows.
        targets: ``[n]``, positions of the right labels.
        weights: ``[n]``, of the rows; all count alike if empty.

    Returns:
        The biases in nats, mean 0.

    Example:
        >>> bias = fit_label_bias(np.array([[0.6, 0.4]] * 4), np.array([0, 1, 0, 1]))
        >>> [round(value, 1) for value in bias]
        [-0.2, 0.2]
    """
    scores = torch.tensor(probabilities).clamp_min(1e-12).log()
    right = torch.tensor(targets)
    shares = torch.tensor(list(weights) or [1.0] * len(scores), dtype=scores.dtype)
    bias = torch.zeros(scores.shape[1], dtype=scores.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([bias], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def objective() -> float:
        solver.zero_grad()
        losses = torch.nn.functional.cross_entropy(scores + bias, right, reduction="none")
        loss = (shares * losses).mean() + _RIDGE / 2 * (bias**2).sum()
        torch.autograd.backward(loss)
        return loss.item()

    with torch.enable_grad():
        solver.step(objective)
    return [float(value) for value in (bias - bias.mean()).detach()]


def check_has_labels(schema: Schema, rows: int) -> None:
    """Raise where there is nothing to correct, or nothing to correct it by.

    Raises:
        ConfigError: The task is a generation task, or has no validation rows.
    """
    if schema.kind != "classification":
        raise ConfigError("A generation task has no labels whose scores could be corrected", fix="Leave out calibrate.")
    if not rows:
        raise ConfigError(
            "There are no validation rows to correct the labels' scores by",
            fix="Hold some out: validation_size=0.15 (--validation-size).",
        )
