"""Small made-up predictions."""

from __future__ import annotations

import numpy as np

from coldframe.inference.predictions import Predictions


def make_predictions(targets, probabilities, *, method="method", seed=0, labels=None, k=0, m=0, texts=None):
    targets, probabilities = np.asarray(targets, np.int64), np.asarray(probabilities, np.float64)
    n, rng = len(targets), np.random.default_rng(seed)
    return Predictions(
        method=method,
        seed=seed,
        task="made-up",
        ids=tuple(f"q{i}" for i in range(n)),
        texts=tuple(texts or (f"query {i}" for i in range(n))),
        labels=tuple(labels or (f"label {i}" for i in range(probabilities.shape[1]))),
        targets=targets,
        probabilities=probabilities,
        neighbours=np.array([[f"e{(i + j) % 7}" for j in range(k)] for i in range(n)], np.str_).reshape(n, k),
        similarities=-np.sort(-rng.random((n, k)).astype(np.float32), axis=1),
        attention=rng.dirichlet(np.ones(k), (n, m)).astype(np.float32) if m else None,
        seconds=0.5,
    )


def noisy_run(rng, *, n=100, accuracy=0.8, targets=None, method="method", seed=0, **options):
    """Two classes, right on about ``accuracy`` of the rows."""
    if targets is None:
        targets = np.arange(n) % 2
    right = rng.random(len(targets)) < accuracy
    confidence = rng.uniform(0.5, 1.0, len(targets))
    positive = np.where(right == (targets == 1), confidence, 1 - confidence)
    return make_predictions(targets, np.stack([1 - positive, positive], axis=1), method=method, seed=seed, **options)
