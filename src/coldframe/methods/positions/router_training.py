"""Training of MoICE's routers on plain text, through a frozen model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from coldframe.config import Config, check
from coldframe.errors import DataError, TrainingError
from coldframe.methods.positions.moice import MoICE, balance_loss

Report = Callable[[str, int, int, dict[str, float]], None]  # stage, units done, units in all, values beside it


@dataclasses.dataclass(frozen=True)
class RouterTrainingConfig(Config):
    """How routers are trained.

    Args:
        steps: Optimiser steps, at least 1.
        batch_size: Texts per step, at least 1; read one at a time, so that none is padded.
        learning_rate: Of AdamW without weight decay, the same at every step, above 0.
        balance: Weight of the load-balancing loss, at least 0.
        length: Tokens of a text that are read, at least 2, and never more than the model's context.
        seed: Of the order of the texts.
    """

    section = "router training settings"

    steps: int = 7
    batch_size: int = 128
    learning_rate: float = 1e-4
    balance: float = 0.3
    length: int = 4608
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1", got=getattr(self, name))
        for name in ("balance", "seed"):
            check(getattr(self, name) >= 0, f"{name} cannot be negative", got=getattr(self, name))
        check(self.learning_rate > 0, "A learning rate must be positive", got=self.learning_rate)
        check(self.length >= 2, "A text needs two tokens", got=self.length, expected="length >= 2")


def train_router(
    moice: MoICE, texts: Sequence[str], config: RouterTrainingConfig | None = None, report: Report | None = None
) -> list[dict[str, float]]:
    """Train the routers of a :class:`~coldframe.methods.positions.moice.MoICE`, in place; the model stays frozen.

        L = mean over the text of -log p(x_{t+1} | x_{<=t})  +  balance E sum_e f_e P_e

    Paper: Lin et al. 2024 (MoICE), arXiv 2406.19598; settings of its training script, which uses OpenHermes.

    Args:
        moice: What to train.
        texts: Any texts; taken in an order drawn by the seed, again from the start when they are used up.
        config: How.
        report: Told of the progress: stage, step, steps in all, losses.

    Returns:
        One record for each step, ``step``, ``loss`` (next token, in nats) and ``balance``; also in ``moice.history``
        and in what ``moice.save`` writes.

    Raises:
        DataError: If no text has two tokens.
        TrainingError: If a loss is not finite.
    """
    config = config or RouterTrainingConfig()
    rows = _token_rows(moice, texts, config.length)
    stream = _endless(rows, config.seed)
    optimizer = torch.optim.AdamW(moice.router.parameters(), lr=config.learning_rate, weight_decay=0.0)
    moice.history = []
    for step in range(1, config.steps + 1):
        optimizer.zero_grad()
        total = torch.zeros(2)
        for _ in range(config.batch_size):
            losses = _losses(moice, next(stream))
            (torch.stack(losses) @ losses[0].new_tensor([1.0, config.balance]) / config.batch_size).backward()
            total += torch.stack(losses).detach().cpu() / config.batch_size
        record = {"step": float(step), "loss": float(total[0]), "balance": float(total[1])}
        if not math.isfinite(record["loss"]):
            fix = "Lower the learning rate, or load the model as float32 or bfloat16."
            raise TrainingError(f"The loss at step {step} is not finite", got=record["loss"], fix=fix)
        optimizer.step()
        moice.history.append(record)
        if report is not None:
            report("train", step, config.steps, record)
    return moice.history


def _losses(moice: MoICE, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token loss of one text, and the balance of its routing."""
    moice.seen = []
    try:
        logits = moice.logits(ids[None, :-1])[0]
        balance = balance_loss(moice.seen, moice.config.top_k)
    finally:
        moice.seen = None
    return nn.functional.cross_entropy(logits, ids[1:]), balance


def _token_rows(moice: MoICE, texts: Sequence[str], length: int) -> list[Tensor]:
    lm = moice.lm
    length = min(length, lm.anatomy.max_positions)
    rows = [(*lm.bos, *lm.tokenize(text))[:length] for text in texts]
    rows = [row for row in rows if len(row) >= 2]
    if not rows:
        raise DataError("There is no text to train on", got=f"{len(texts)} texts", expected="one of two tokens or more")
    return [torch.tensor(row, device=lm.device) for row in rows]


def _endless(rows: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for i in torch.randperm(len(rows), generator=generator).tolist():
            yield rows[i]
