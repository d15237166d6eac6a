"""What a pipeline says whatever it reads: the priors of its labels, and ways to correct them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.errors import ConfigError
from coldframe.inference.run import Outcome, run
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.setup import class_weights, weighs_classes
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.corpora import spread
from coldframe.tasks.task import Domain, Example, Schema

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline

CONTENT_FREE: dict[Domain, tuple[str, ...]] = {"text": ("N/A", "[MASK]", ""), "molecules": ("*",)}
"""Inputs that say nothing: the paper's for texts, any atom for molecules."""

CONTEXT_ROWS = 16
"""Rows whose exemplars the inputs that say nothing are read with, where exemplars are retrieved."""

PRIOR_ROWS = 64
"""Rows that priors are averaged over where an artifact is written: they are told to a hundredth or two."""

_RIDGE = 0.001


def label_bias(pipeline: Pipeline, rows: Sequence[Example], way: Calibration) -> list[float]:
    """What is to be added to the score of each label, in nats, mean 0; see :meth:`Pipeline.calibrate`.

    Args:
        pipeline: Without a correction.
        rows: Validation rows, which may stand in the store: none retrieves itself.
        way: Not ``"none"``.

    Cost:
        Every row is read once. ``"contextual"`` reads up to three inputs that say nothing, with the exemplars of up to
        16 rows where exemplars are retrieved.
    """
    if way == "contextual":
        return even_bias(_content_free(pipeline, rows))
    schema, config = pipeline.schema, pipeline.training
    targets, weights = np.array(schema.targets(rows)), class_weights(schema, rows, rows, config)
    return bias_by(way, outcome_of(pipeline, rows).probabilities, targets, weights, weighs_classes(schema, config))


def bias_by(
    way: Calibration,
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    weights: Sequence[float] = (),
    alike: bool = False,
) -> list[float]:
    """The biases of a way that reads rows: ``"batch"``, ``"prior"`` or ``"validation"``.

    Args:
        way: Which.
        probabilities: ``[n, labels]``, of the rows.
        targets: ``[n]``, positions of the right labels; ``"batch"`` does not look at them.
        weights: Of the rows, see :func:`fit_label_bias`.
        alike: Whether the metric counts all classes alike, see :func:`prior_bias`.
    """
    if way == "batch":
        return even_bias(probabilities)
    if way == "prior":
        return prior_bias(probabilities, targets, alike)
    return fit_label_bias(probabilities, targets, weights)


def outcome_of(pipeline: Pipeline, rows: Sequence[Example]) -> Outcome:
    """Raw results of rows that may stand in the store: none retrieves itself."""
    retrieved = pipeline.retrieve(rows, exclude_same_key=True)
    return run(pipeline.method, pipeline.lm, pipeline.schema, [row.text for row in rows], retrieved)


def _content_free(pipeline: Pipeline, rows: Sequence[Example]) -> NDArray[np.float64]:
    """Probabilities of the labels for inputs that say nothing, with what is retrieved for some rows."""
    texts = CONTENT_FREE[pipeline.schema.domain]
    retrieved = Retrieved.nothing(pipeline.store, 1)
    if pipeline.method.uses_retrieval:
        retrieved = pipeline.retrieve(spread(rows, CONTEXT_ROWS), exclude_same_key=True)
    places = np.repeat(np.arange(len(retrieved)), len(texts))
    queries = list(texts) * len(retrieved)
    return run(pipeline.method, pipeline.lm, pipeline.schema, queries, retrieved.rows(places)).probabilities


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


def even_bias(probabilities: NDArray[np.float64]) -> list[float]:
    """Divides by mean probabilities: ``b_y = -log 1/n sum_i p(y | x_i)``, so that no label is ahead of the others.

    Papers: Zhao et al. 2021, arXiv 2102.09690 (contextual calibration), where the inputs say nothing; Zhou et al. 2024,
    arXiv 2309.17249 (batch calibration), where they are rows whose labels are not looked at. Both take for granted that
    the labels are equally frequent, or should be chosen as if they were.

    Args:
        probabilities: ``[n, labels]``.

    Returns:
        The biases in nats, mean 0.

    Example:
        >>> [round(value, 3) for value in even_bias(np.array([[0.9, 0.1], [0.7, 0.3]]))]  # log(0.8 / 0.2) / 2
        [-0.693, 0.693]
    """
    bias = -np.log(probabilities.mean(axis=0).clip(1e-12))
    return [float(value) for value in bias - bias.mean()]


def prior_bias(probabilities: NDArray[np.float64], targets: NDArray[np.int64], alike: bool = False) -> list[float]:
    """Makes the labels' mean probabilities their shares among the rows.

    1/n sum_i softmax(log p_i + b)_y = (n_y + 1) / (n + labels)

    Paper: Liusie et al. 2023, arXiv 2309.04992 (prior matching), who take shares for even where they are not known;
    ours are counted, with one more row of each label, so that one that never occurs keeps a finite bias. Where the
    metric counts all classes alike, the shares are taken out again: ``b_y - log share_y``, for equally frequent labels.

    Args:
        probabilities: ``[n, labels]``, of validation rows.
        targets: ``[n]``, positions of the right labels; only how many there are of each counts.
        alike: Whether the metric counts all classes alike.

    Returns:
        The biases in nats, mean 0.

    Example:
        >>> bias = prior_bias(np.array([[0.5, 0.5]] * 2), np.array([0, 0]))  # shares 3/4 and 1/4: log(3) / 2
        >>> [round(value, 3) for value in bias]
        [0.549, -0.549]
    """
    labels = probabilities.shape[1]
    shares = (np.bincount(targets, minlength=labels) + 1) / (len(targets) + labels)
    scores, goal = torch.tensor(probabilities).clamp_min(1e-12).log(), torch.tensor(shares)

    def objective(bias: torch.Tensor) -> torch.Tensor:
        return (scores + bias).logsumexp(1).mean() - (goal * bias).sum()  # convex; its gradient is the equation above

    bias = _minimum(objective, labels)
    if alike:
        bias = bias - goal.log()
    return [float(value) for value in bias - bias.mean()]


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

    def objective(bias: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(scores + bias, right, reduction="none")
        return (shares * losses).mean() + _RIDGE / 2 * (bias**2).sum()

    bias = _minimum(objective, scores.shape[1])
    return [float(value) for value in bias - bias.mean()]


def _minimum(objective: Callable[[torch.Tensor], torch.Tensor], labels: int) -> torch.Tensor:
    """Where a smooth convex function of one number a label is smallest."""
    bias = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([bias], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        loss = objective(bias)
        torch.autograd.backward(loss)
        return loss.item()

    with torch.enable_grad():
        solver.step(closure)
    return bias.detach()


def check_has_labels(schema: Schema, rows: int) -> None:
    """Raise where there is nothing to correct, or nothing to correct it by.

    Raises:
        ConfigError: The task is a generation task, or has no rows.
    """
    if schema.kind != "classification":
        raise ConfigError("A generation task has no labels whose scores could be corrected", fix="Leave out calibrate.")
    if not rows:
        raise ConfigError(
            "There are no validation rows to correct the labels' scores by",
            fix="Hold some out: validation_size=0.15 (--validation-size), or correct by 'contextual'.",
        )
