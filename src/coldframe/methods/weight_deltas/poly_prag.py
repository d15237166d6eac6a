"""Poly-PRAG: all passages share a few latent adapters, and each has a row that says how to mix them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.pair_trainer import PairTrainer, optimizer_state, restore_optimizer
from coldframe.methods.weight_deltas.row_adam import RowAdam
from coldframe.storage.checkpoints import CheckpointStore

Routing: TypeAlias = Literal["learned", "uniform", "random"]
EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class PolyPRAGConfig(AdapterConfig):
    """Settings of Poly-PRAG, beside those of all :class:`AdapterConfig`; learning rate and weight decay are the bank's.

    The paper's code has a learning rate of 3e-4 for everything, one epoch, and the ``alpha`` of peft's Poly, 1; ours is
    PRAG's.

    Args:
        adapters: S, latent adapters in the bank, at least 1; the paper's best are about 20, its code's 8.
        router_learning_rate: Of the rows, at least 0. With 0 they stay as they started: a control. They have no
            weight decay.
        router_start: Logits start uniform in plus and minus this, at least 0; 1e-3 in peft. With 0 and a
            router learning rate of 0 all passages share one adapter: the control with uniform routing.
        relaxed: Draw the weights from a relaxed Bernoulli (temperature 1) in training, as the paper; else
            sigmoid, as when asked.
        batch_size: Sequences in a step, at least 1; the paper's code has 1.
    """

    section = "Poly-PRAG settings"

    learning_rate: float = 3e-3
    epochs: int = 6
    adapters: int = 8
    router_learning_rate: float = 0.1
    router_start: float = 3.0
    relaxed: bool = False
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adapters", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be positive", got=getattr(self, name), expected="at least 1")
        for name in ("router_learning_rate", "router_start"):
            check(getattr(self, name) >= 0, f"{name} cannot be negative", got=getattr(self, name))


def routing_weights(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """``w_s = z_s / (sum_s z_s + 1e-12)`` with ``z = sigmoid(logits)``: no softmax, and no top few.

    Args:
        logits: Rows of the routing table.
        noise: Uniform in (0, 1), for training: ``z = sigmoid(logits + log(u / (1 - u)))``, the relaxed
            Bernoulli at temperature 1.

    Shapes:
        ``[..., S]`` -> ``[..., S]``.
    """
    z = torch.sigmoid(logits if noise is None else logits + torch.logit(noise, eps=1e-6))
    return z / (z.sum(-1, keepdim=True) + EPSILON)


def compose(layout: Layout, bank: Tensor, weights: Tensor) -> Tensor:
    """Adapters mixed from a bank: ``A = sum_s w_s A_s`` and ``B = sum_s w_s B_s`` at every target, before they meet.

    Shapes:
        bank: ``[S, N]``; weights: ``[..., targets, S]`` -> ``[..., N]``.
    """
    pieces = layout.pieces
    chunks = bank.split([a + b for a, b in zip(pieces[::2], pieces[1::2], strict=True)], dim=1)
    return torch.cat([weights[..., m, :] @ chunk for m, chunk in enumerate(chunks)], dim=-1)


def routed(table: Tensor, rows: Sequence[int | None], routing: Routing = "learned", seed: int = 0) -> Tensor:
    """Weights of some passages, as trained or as a control.

    - ``learned``: the passage's own row.
    - ``uniform``: ``1 / S`` everywhere. A passage without a row has this too.
    - ``random``: the row of another passage, chosen by the seed; no passage keeps its own.

    Shapes:
        table: ``[T, targets, S]``; rows: n positions, None for a passage that is not in the table.
        Returns ``[n, targets, S]``, float32.
    """
    if routing not in get_args(Routing):
        raise ConfigError(f"{routing!r} is not a routing", fix=nearest(str(routing), get_args(Routing)))
    count, targets, adapters = table.shape
    weights = torch.full((len(rows), targets, adapters), 1 / adapters)
    if routing == "uniform":
        return weights
    whose = {row: row for row in range(count)}
    if routing == "random":
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        whose = dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))
    for place, row in enumerate(rows):
        if row is not None:
            weights[place] = routing_weights(table[whose[row]].float())
    return weights


@dataclasses.dataclass(frozen=True)
class PolyBank:
    """What Poly-PRAG trains.

    Shapes:
        bank: ``[S, N]``, the latent adapters; table: ``[T, targets, S]``, routing logits, a row for each passage.
    """

    bank: Tensor
    table: Tensor
    losses: tuple[float, ...] = ()


class PolyTrainer(PairTrainer):
    r"""Trains a bank and a routing table on the sequences of all passages, or the rows of new passages alone.

    For passage t at every target ``W``, with latent adapters ``A_s`` in ``R^{r x in}``, ``B_s`` in ``R^{out x r}``::

        y = W x + (alpha / r) B_t A_t x,   A_t = sum_s w_ts A_s,   B_t = sum_s w_ts B_s
        w_ts = z_ts / sum_s z_ts,          z_ts = sigmoid(Theta_ts)

    Every target has a table Theta of its own, which the passages' ids index. Bank and rows have learning rates of their
    own: with one for both the weights hardly leave ``1 / S``. The order is shuffled in every epoch, by the seed. A row
    moves only in steps that saw its passage.

    Paper: arXiv 2511.17044; Ponti et al. 2022, arXiv 2202.13914 (Polytropon). Deviates: the paper's code indexes
    Theta by the number of the test question, which no system knows; here it is the passage that was retrieved.

    Args:
        lm: The model.
        layout: Of the adapters.
        config: How.
        passages: The sequences of every passage.
        bank: ``[S, N]`` that stays as it is, so that only rows are trained (for new passages); None trains both.
        first: Rows that are there already, so that each new one starts as no other does.
        parts: Where an interrupted training goes on; its folder's name says what the training depends on.
        report: Told after each step: steps done, and the loss.
    """

    name = "Poly-PRAG"

    def __init__(
        self,
        lm: FrozenLM,
        layout: Layout,
        config: PolyPRAGConfig,
        passages: Sequence[Sequence[TokenSequence]],
        *,
        bank: Tensor | None = None,
        first: int = 0,
        parts: CheckpointStore | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> None:
        order = {"seed": config.seed, "epochs": config.epochs, "batch_size": config.batch_size}
        super().__init__(lm, passages, **order, parts=parts, report=report)
        self.layout, self.config = layout, config
        shape = (first + len(passages), len(layout.names) * config.adapters)
        start = torch.Generator().manual_seed(config.seed)
        table = (2 * torch.rand(shape, generator=start)[first:] - 1) * config.router_start
        self.rows = RowAdam(table.to(lm.device), config.router_learning_rate)
        self.trains_bank = bank is None
        if bank is None:
            bank = torch.stack([layout.start(config.seed + s) for s in range(config.adapters)])
        check(tuple(bank.shape) == (config.adapters, layout.numbers), "The bank is another size", got=tuple(bank.shape))
        self.bank = bank.float().to(lm.device).requires_grad_(self.trains_bank)
        self.optimizer = torch.optim.AdamW(
            [self.bank], lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def train(self) -> PolyBank:
        """Run to the end, or on to the end."""
        losses = self.run()
        table = self.rows.values.view(-1, len(self.layout.names), self.config.adapters)
        return PolyBank(self.bank.detach().cpu(), table.cpu(), losses)

    def _step(self, step: int) -> float:
        some = [self.pairs[i] for i in self.chosen(step)]
        rows, which = self.rows_of(some)
        logits = self.rows.values[rows].requires_grad_(self.rows.learning_rate > 0)
        per_row = logits[which].view(len(some), len(self.layout.names), self.config.adapters)
        noise = None
        if self.config.relaxed:
            epoch, place = divmod(step, self.per_epoch)
            noise = torch.rand(per_row.shape, generator=self.generator(epoch, place + 1)).to(per_row)
        adapters = compose(self.layout, self.bank, routing_weights(per_row, noise))
        deltas = self.layout.deltas(self.layout.factors(adapters), self.config.scale)
        each = mean_nll(self.lm, [sequence for _, sequence in some], Conditioning(deltas=deltas))
        loss = self.finite(each.mean(), step)
        self.optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        if self.trains_bank:
            self.optimizer.step()
        if logits.grad is not None:
            self.rows.step(rows, logits.grad)
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Rows, and the bank where it is trained."""
        tensors = self.rows.state()
        return tensors | {"bank": self.bank} | optimizer_state(self.optimizer) if self.trains_bank else tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`."""
        self.rows.restore(state)
        if self.trains_bank:
            with torch.no_grad():
                self.bank.copy_(state["bank"])
            restore_optimizer(self.optimizer, state)
