"""Training on the sequences of many passages, shuffled, that goes on where it was interrupted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from coldframe.errors import TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.storage.checkpoints import CheckpointStore


class PairTrainer(ABC):
    """Steps over batches of pairs of a passage and one of its sequences, in another order every epoch.

    Batches are drawn without regard to length. Like lengths in one batch save a sixth of the time that goes into pads,
    but sequences of one length ask alike ("Where was X born?"), and batches of one kind of question train badly: on
    the fact corpus Poly-PRAG lost 7 to 18 points of F1.

    Everything random is a function of seed and place, so that an interrupted training goes on as it would have.

    Args:
        lm: The model.
        passages: The sequences of every passage.
        seed: Of the order.
        epochs: Passes over all pairs.
        batch_size: Pairs in a step.
        parts: Where an interrupted training goes on; its folder's name says what the training depends on.
        report: Told after each step: steps done, and the loss.
    """

    CHECKPOINT_EVERY = 50  # steps
    name: ClassVar[str]  # of the method, as it is written

    def __init__(
        self,
        lm: FrozenLM,
        passages: Sequence[Sequence[TokenSequence]],
        *,
        seed: int,
        epochs: int,
        batch_size: int,
        parts: CheckpointStore | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> None:
        self.lm, self.seed, self.batch_size, self.parts, self.report = lm, seed, batch_size, parts, report
        self.pairs = [(row, sequence) for row, some in enumerate(passages) for sequence in some]
        self.per_epoch = math.ceil(len(self.pairs) / batch_size)
        self.steps = epochs * self.per_epoch
        self.losses: list[float] = []

    def run(self) -> tuple[float, ...]:
        """Train to the end, or on to the end; the mean loss of every epoch."""
        first = self._restore()
        for step in range(first, self.steps):
            self.losses.append(self._step(step))
            if self.report is not None:
                self.report(step + 1, self.losses[-1])
            if self.parts is not None and (step + 1) % self.CHECKPOINT_EVERY == 0 and step + 1 < self.steps:
                self.parts.save(self._part, self.state(), step=step + 1, losses=self.losses)
        return tuple(self._mean_loss(epoch) for epoch in range(len(self.losses) // self.per_epoch))

    def _mean_loss(self, epoch: int) -> float:
        """Mean over an epoch's pairs; its last batch may be smaller."""
        sizes = [min(self.batch_size, len(self.pairs) - at) for at in range(0, len(self.pairs), self.batch_size)]
        losses = self.losses[epoch * self.per_epoch : (epoch + 1) * self.per_epoch]
        return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / len(self.pairs)

    @abstractmethod
    def _step(self, step: int) -> float:
        """One step; its loss."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`."""

    def chosen(self, step: int) -> list[int]:
        """Places of a step's pairs in :attr:`pairs`."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.pairs), generator=self.generator(epoch, 0)).tolist()
        return [int(i) for i in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def rows_of(self, pairs: Sequence[tuple[int, TokenSequence]]) -> tuple[Tensor, Tensor]:
        """The passages of some pairs, each once, and which of them each pair has."""
        rows = torch.tensor([row for row, _ in pairs], device=self.lm.device)
        unique, which = rows.unique(return_inverse=True)
        return unique, which

    def generator(self, epoch: int, place: int) -> torch.Generator:
        """Random numbers for a place of an epoch; place 0 is its order."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) * 1_000_003 + place)

    def finite(self, loss: Tensor, step: int) -> Tensor:
        """The loss, if it is a number.

        Raises:
            TrainingError: It is not.
        """
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"The loss of {self.name} is not finite (step {step + 1})",
                fix="Lower the learning rates. The last checkpoint is intact.",
            )
        return loss

    @property
    def _part(self) -> str:
        return self.name.lower()

    def _restore(self) -> int:
        tensors, values = self.parts.load(self._part) if self.parts is not None else ({}, {})
        if not tensors:
            return 0
        self.restore(tensors)
        self.losses = list(values["losses"])
        return int(values["step"])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser knows of its parameters, by name."""
    slots = optimizer.state_dict()["state"]
    return {f"optimizer/{i}/{name}": slot for i, values in slots.items() for name, slot in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """From :func:`optimizer_state`; other names are left alone."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, slot in state.items():
        if key.startswith("optimizer/"):
            _, i, name = key.split("/")
            slots.setdefault(int(i), {})[name] = slot
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
