"""How the learning rate changes over a run."""

from __future__ import annotations

import math

from coldframe.training.config import TrainingConfig


def factor(config: TrainingConfig, steps_per_epoch: int, step: int) -> float:
    """The factor of the learning rate at a step, from 0.

    >>> config = TrainingConfig(epochs=1, schedule="linear", warmup=0.5)
    >>> [round(factor(config, 4, step), 2) for step in range(4)]
    [0.33, 0.67, 1.0, 0.5]
    """
    steps = config.epochs * steps_per_epoch
    warm = int(config.warmup * config.epochs * steps_per_epoch)
    if step < warm:
        return (step + 1) / (warm + 1)
    share = (step - warm) / max(1, steps - warm)
    if config.schedule == "constant":
        return 1.0
    return 1 - share if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
