"""One gain for each chosen head, trained on the proxy task while everything else is frozen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from coldframe.errors import TrainingError
from coldframe.frozen.hooks import head_gains
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Report
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.storage.checkpoints import CheckpointStore

_LOGITS = 1 << 26  # at most so many logits at once: 256 MB in float32


@dataclasses.dataclass(frozen=True)
class Trained:
    """Gains of the whole model, and how they came about.

    Attributes:
        gains: ``[layers, query_heads]``, 1 for a head that was not chosen.
        history: One record for each look at the held-out sequences: ``step`` (0 is the base model),
            ``held_out_loss`` in nats a token, and the mean ``train_loss`` since the last look.
    """

    gains: Tensor
    history: list[dict[str, float]]

    @property
    def loss_before(self) -> float:
        """Held-out loss of the base model."""
        return self.history[0]["held_out_loss"]

    @property
    def loss_after(self) -> float:
        """Held-out loss with the gains."""
        return min(record["held_out_loss"] for record in self.history[1:])


class GainTrainer:
    """Trains ``tau_{l,h}``, one float32 number for each chosen head, from 1.

        attention output of layer l = sum_h g_h O_h z_h + bias,   g_h = tau_{l,h} if chosen, else 1

    A gain acts on a head's output after the values were mixed and before the heads are added up: the head-gain
    port. AdamW without weight decay; the rate rises over ``warmup`` steps and then falls in a line.

    Paper: Tan et al. 2025 (PEAR), arXiv 2409.19745. Deviates: gains are float32 (theirs are bf16, whose steps near
    1 are as large as the learning rate), the copy's first token is no target, and the gains of the lowest loss on
    held-out sequences are kept.

    Args:
        lm: The frozen model, run in the numbers it is loaded in.
        heads: The chosen heads, ``(layer, head)``.
        config: How to train.
        parts: Where the state is kept at every look, and found again.
        report: Told of the progress.

    Cost: ``steps batch_size`` sequences of ``2 length`` tokens forward and backward, without a gradient of any weight.
    """

    def __init__(
        self,
        lm: FrozenLM,
        heads: Sequence[tuple[int, int]],
        config: ReweightConfig,
        parts: CheckpointStore | None = None,
        report: Report | None = None,
    ) -> None:
        self.lm, self.heads, self.config, self.parts, self.report = lm, tuple(heads), config, parts, report
        self.task = ProxyTask(lm, config.bos, config.seed)
        self.held_out = self.task.sequences(config.held_out, config.length, 1)
        # Sequences at once. A fixed number of logits, so that the same run adds up in the same order everywhere.
        self.rows = max(1, _LOGITS // (config.length * lm.anatomy.vocab_size))
        self.values = torch.ones(len(self.heads), device=lm.device, requires_grad=True)
        self.best = self.values.detach().clone()
        self.optimizer = torch.optim.AdamW([self.values], lr=config.learning_rate, weight_decay=0.0)
        self.history: list[dict[str, float]] = []

    def train(self) -> Trained:
        """Run to the end and keep the best gains.

        Raises:
            TrainingError: If a loss is not finite, or no step lowered the loss on the held-out sequences.
        """
        if self.config.fixed is not None:
            fixed = torch.full_like(self.best, self.config.fixed)
            losses = [self._held_out_loss(values) for values in (self.best, fixed)]
            return Trained(self._spread(fixed).cpu(), [{"step": 0.0, "held_out_loss": loss} for loss in losses])
        step = self._resume()
        if not self.history:
            self._look(0, [])
        losses = []
        while step < self.config.steps and not self._stale():
            losses.append(self._step(step))
            step += 1
            if self.report is not None:
                self.report("train", step, self.config.steps, {"loss": losses[-1]})
            if step % self.config.evaluate_every == 0 or step == self.config.steps:
                self._look(step, losses)
                losses = []
        if self._best_look() == 0:
            first, last = (self.history[i]["held_out_loss"] for i in (0, -1))
            raise TrainingError(
                "No step lowered the loss on the held-out sequences",
                got=f"{first:.4f} before, {last:.4f} at the end",
                fix="Lower the learning rate, or choose other heads.",
            )
        return Trained(self._spread(self.best).cpu(), self.history)

    def _step(self, step: int) -> float:
        ids = self.task.sequences(self.config.batch_size, self.config.length, 2, step)
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * self._factor(step)
        self.optimizer.zero_grad()
        total = 0.0
        for part in ids.split(self.rows):
            loss = self._loss(part, self.values) * (len(part) / len(ids))
            loss.backward()
            total += float(loss.detach())
        _finite(total, step + 1)
        self.optimizer.step()
        return total

    def _look(self, step: int, losses: Sequence[float]) -> None:
        """Measure the held-out loss, remember the best gains, keep the state."""
        record = {"step": float(step), "held_out_loss": _finite(self._held_out_loss(self.values.detach()), step)}
        if losses:
            record["train_loss"] = sum(losses) / len(losses)
        self.history.append(record)
        if self._best_look() == len(self.history) - 1:
            self.best = self.values.detach().clone()
        if self.parts is not None and step:
            slots = {key: torch.as_tensor(value) for key, value in self.optimizer.state[self.values].items()}
            tensors = {"values": self.values, "best": self.best, **slots}
            self.parts.save("training", tensors, step=step, history=self.history)

    def _resume(self) -> int:
        """Take up the state that was kept; returns the steps that are done."""
        tensors, kept = self.parts.load("training") if self.parts is not None else ({}, {})
        if not tensors:
            return 0
        with torch.no_grad():
            self.values.copy_(tensors.pop("values"))
        self.best = tensors.pop("best").to(self.lm.device)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": {0: tensors}})
        self.history = kept["history"]
        return int(kept["step"])

    @torch.no_grad()
    def _held_out_loss(self, values: Tensor) -> float:
        parts = self.held_out.split(self.rows)
        return sum(float(self._loss(part, values)) * len(part) for part in parts) / len(self.held_out)

    def _loss(self, ids: Tensor, values: Tensor) -> Tensor:
        # Below the lowest chosen head nothing has a gradient: nothing is kept there, and nothing goes back through it.
        with head_gains(self.lm.anatomy, self._spread(values), {layer for layer, _ in self.heads}):
            return self.task.copy_loss(ids)

    def _spread(self, values: Tensor) -> Tensor:
        """``[len(heads)]`` -> ``[layers, query_heads]``, differentiable."""
        ones = torch.ones(self.lm.anatomy.n_layers, self.lm.anatomy.n_heads, device=values.device)
        layers, heads = torch.tensor(self.heads, device=values.device).T
        return ones.index_put((layers, heads), values)

    def _best_look(self) -> int:
        return min(range(len(self.history)), key=lambda i: self.history[i]["held_out_loss"])

    def _stale(self) -> bool:
        since = len(self.history) - 1 - self._best_look()
        return 0 < self.config.patience <= since

    def _factor(self, step: int) -> float:
        """The schedule's factor at a step, counted from 0."""
        warm, end = self.config.warmup, self.config.decay_steps
        return (step + 1) / (warm + 1) if step < warm else (end - step) / (end - warm)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(f"The loss at step {step} is not finite", got=loss, fix="Lower the learning rate.")
    return loss
