"""How to train: one set of words for every method."""

from __future__ import annotations

import dataclasses
from typing import Literal

from coldframe.config import Config, check


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Config):
    """Settings of the training loop.

    Args:
        epochs: Passes over the training rows, at least 1; early stopping may end before.
        batch_size: Rows per optimiser step (before accumulation), at least 1.
        accumulation: Batches per optimiser step, at least 1.
        learning_rate: Of the method's main parameters; left out, the method's own.
        weight_decay: Of AdamW, at least 0.
        schedule: ``"cosine"`` or ``"linear"`` to zero over all steps, or ``"constant"``.
        warmup: Share of the steps that ramp up, in [0, 1).
        clip: Largest gradient norm; 0 does not clip.
        class_weights: Weigh rows so that all classes count the same in sum; left out, that is done where the task's
            metric counts all classes the same (effective and balanced accuracy) and not elsewhere.
        objective: ``"labels"`` is cross-entropy over the label words, ``"answer"`` is the papers'
            negative log-likelihood of the answer tokens over the whole vocabulary. Generation tasks always
            use ``"answer"``.
        select: What the best epoch is chosen by on the validation rows: ``"loss"`` or ``"metric"``; or ``"last"``,
            which chooses nothing.
        patience: Epochs without improvement before stopping, at least 1; 0 never stops early.
        seed: Of initialisation, order and dropout.
        checkpoint_every: Optimiser steps between checkpoints; 0 writes one each epoch.
        report_to: Experiment tracker.
    """

    section = "training settings"
    at_least = {"epochs": 1, "batch_size": 1, "accumulation": 1}
    at_least |= dict.fromkeys(("weight_decay", "warmup", "clip", "patience", "seed", "checkpoint_every"), 0)
    above = {"learning_rate": 0}

    epochs: int = 8
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float | None = None
    weight_decay: float = 0.01
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    clip: float = 1.0
    class_weights: bool | None = None
    objective: Literal["labels", "answer"] = "labels"
    select: Literal["loss", "metric", "last"] = "metric"
    patience: int = 3
    seed: int = 0
    checkpoint_every: int = 0
    report_to: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.warmup < 1, "warmup is a share of the steps", got=self.warmup, expected="below 1")
