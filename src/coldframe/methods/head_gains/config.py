"""Settings of a reweighting: how heads are found and how their gains are trained."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from coldframe.config import Config, check

Bos: TypeAlias = Literal["auto", "always", "never"]


@dataclasses.dataclass(frozen=True)
class ReweightConfig(Config):
    """How heads are found and weighed.

    Args:
        heads: K, the heads that get a gain; left out, those whose effect lies above the effects' median by more
            than three robust standard deviations.
        choose: Which heads: those of the ``highest`` effect; or, as controls, of the ``lowest``, at ``random``,
            or ``all`` heads of the model.
        fixed: Every chosen head gets this gain and nothing is trained (0 cuts the heads out); left out, they are
            trained.
        repetitions: Pairs of N sequences and n tokens (repeated once); effects are averaged over the pairs.
        discovery: Effect by ``path`` patching (through later feed-forward blocks only), by ``plain`` ablation
            (through everything), or by ``attribution`` (its first-order estimate, one backward pass).
        effect: ``difference`` of the centred logits, or ``ratio`` minus one.
        mean_over: A head is replaced by its mean over the ``batch`` at that position, or over the ``sequence``.
        bos: Whether sequences begin with the tokenizer's BOS; ``auto`` if it puts one before every text. A model that
            was trained so may be lost without (Gemma 3 270M copies at 7.6 nats a token, and at 1.1 with it).
        length: n of the sequences that gains are trained on, at least 2.
        batch_size: Sequences per optimiser step, at least 1.
        steps: Optimiser steps, at least 1.
        decay_steps: The learning rate falls in a line to 0 at this step, at or after ``steps``.
        warmup: Steps that ramp up to the learning rate.
        learning_rate: Of AdamW (without weight decay), above 0.
        held_out: Sequences on which the loss is watched, at least 1; the gains of the lowest loss are kept.
        evaluate_every: Steps between two looks at them, at least 1.
        patience: Looks without improvement before training stops; 0 never stops early.
        seed: Of all sequences, and of random heads.
    """

    section = "reweighting settings"
    at_least = {"warmup": 0, "patience": 0, "seed": 0, "length": 2}
    at_least |= dict.fromkeys(("heads", "batch_size", "steps", "held_out", "evaluate_every"), 1)
    above = {"learning_rate": 0}

    heads: int | None = None
    choose: Literal["highest", "lowest", "random", "all"] = "highest"
    fixed: float | None = None
    repetitions: tuple[tuple[int, int], ...] = ((20, 50), (40, 25), (80, 15), (100, 10))
    discovery: Literal["path", "plain", "attribution"] = "path"
    effect: Literal["difference", "ratio"] = "difference"
    mean_over: Literal["batch", "sequence"] = "batch"
    bos: Bos = "auto"
    length: int = 50
    batch_size: int = 20
    steps: int = 60
    decay_steps: int = 2500
    warmup: int = 2
    learning_rate: float = 5e-3
    held_out: int = 40
    evaluate_every: int = 10
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.decay_steps >= self.steps, "decay_steps is before the end", got=self.decay_steps)
        check(bool(self.repetitions), "There must be a pair of N sequences and n tokens", got=self.repetitions)
        for pair in self.repetitions:
            valid = len(pair) == 2 and min(pair) >= 2
            check(valid, "A repetition is a pair of N and n", got=pair, expected="two integers, each at least 2")
