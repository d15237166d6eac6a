"""Poly-PRAG: all passages share a few latent adapters, and each has a row that says how to mix them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import mean_nll
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.training_set import Problem, TrainingData, TrainingSet
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.adapters import Factors
from coldframe.methods.weight_deltas.bank_files import BANK, write_bank
from coldframe.methods.weight_deltas.banks import RoutedBank
from coldframe.methods.weight_deltas.passage_adapters import Lesson, PassageAdapters
from coldframe.methods.weight_deltas.passage_sequences import where
from coldframe.methods.weight_deltas.routing import Routing, compose, routing_weights
from coldframe.methods.weight_deltas.row_adam import RowAdamW
from coldframe.storage.artifact import Artifact


@dataclasses.dataclass(frozen=True)
class PolyPRAGConfig(AdapterConfig):
    """Settings of Poly-PRAG, beside those of all :class:`AdapterConfig`.

    The paper's code has a learning rate of 3e-4 for everything, one epoch, batch 1, and the ``alpha`` of peft's Poly,
    1; ours is PRAG's.

    Args:
        adapters: S, latent adapters in the bank, at least 1; the paper's best are about 20, its code's 8.
        router_learning_rate: Of the rows, at least 0. With 0 they stay as they started: a control. They have no
            weight decay.
        router_start: Logits start uniform in plus and minus this, at least 0; 1e-3 in peft. With 0 and a
            router learning rate of 0 all passages share one adapter: the control with uniform routing.
        relaxed: Draw the weights from a relaxed Bernoulli (temperature 1) in training, as the paper; else
            sigmoid, as for a query.
        routing: ``learned``, or a control: ``uniform`` or ``random``.
    """

    section = "Poly-PRAG settings"
    at_least = {"adapters": 1, "router_learning_rate": 0, "router_start": 0}

    adapters: int = 8
    router_learning_rate: float = 0.1
    router_start: float = 3.0
    relaxed: bool = False
    routing: Routing = "learned"


@dataclasses.dataclass(frozen=True)
class Pairs(TrainingSet):
    """Pairs of a passage and one of its sequences, in batches that are drawn without regard to length.

    Like lengths in one batch save a sixth of the time that goes into pads, but sequences of one length ask alike
    ("Where was X born?"), and batches of one kind of question train badly: on the fact corpus Poly-PRAG lost 7 to 18
    points of F1.
    """

    @classmethod
    def of(cls, lessons: Sequence[Lesson], first: int = 0) -> Pairs:
        """All sequences of all passages; passages are counted from ``first``."""
        items = [(row, sequence) for row, lesson in enumerate(lessons, start=first) for sequence in lesson[1]]
        names = [where(lessons[row - first][0]) for row, _ in items]
        return cls(items, [len(sequence) for _, sequence in items], names=names)

    def batches(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """Another order in every epoch, a function of seed and epoch."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003)
        order = torch.randperm(len(self.items), generator=generator).tolist()
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


class PolyPRAG(PassageAdapters):
    r"""A bank of latent adapters, and for each passage a row of a routing table that mixes them.

    For passage t at every target ``W``, with latent adapters ``A_s`` in ``R^{r x in}``, ``B_s`` in ``R^{out x r}``::

        y = W x + (alpha / r) B_t A_t x,   A_t = sum_s w_ts A_s,   B_t = sum_s w_ts B_s
        w_ts = z_ts / sum_s z_ts,          z_ts = sigmoid(Theta_ts)

    Every target has a table Theta of its own, which the passages' ids index. Bank and rows have learning rates of their
    own: with one for both the weights hardly leave ``1 / S``. A row moves only in steps that saw its passage.

    Paper: arXiv 2511.17044; Ponti et al. 2022, arXiv 2202.13914 (Polytropon). Deviates: the paper's code indexes
    Theta by the number of the test question, which no system knows; here it is the passage that was retrieved.

    Cost:
        ``S r (in + out)`` parameters for every target, and S for every target and passage; no tokens.

    Example:
        >>> PolyPRAG(adapters=20)
        PolyPRAG(adapters=20)
    """

    name: ClassVar[str] = "poly-prag"
    paper: ClassVar[str] = "arXiv 2511.17044"
    config_class = PolyPRAGConfig
    config: PolyPRAGConfig
    learning_rate: ClassVar[float] = 3e-3
    training_defaults: ClassVar[Mapping[str, Any]] = {**PassageAdapters.training_defaults, "epochs": 6}
    search_space: ClassVar[SearchSpace] = {
        **PassageAdapters.search_space,
        "training.learning_rate": Floats(1e-3, 1e-2),
        "router_learning_rate": Floats(1e-2, 3e-1),
        "adapters": Choices((6, 18, 36)),
    }
    query_settings: ClassVar[tuple[str, ...]] = ("k", "combine", "source", "routing")
    ablations: ClassVar[tuple[str, ...]] = ("swapped-store", "uniform-routing", "random-routing")

    latent: nn.Parameter
    table: nn.Parameter

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """Bank and table, on the sequences of all passages."""
        lessons = self.lessons(data)
        start = [self.layout.start(data.seed + s) for s in range(self.config.adapters)]
        self._begin(torch.stack(start), self._rows(data.seed, len(lessons)))
        yield self._problem(lessons)
        self._finish([passage.id for passage, _, _ in lessons], self.latent, self.table)

    def growth(self, data: TrainingData) -> Iterator[Problem]:
        """Rows for new passages; the bank stays as it is. Where rows do not learn, this is an error."""
        check(self.config.router_learning_rate > 0, "Rows of this bank do not learn", got="router_learning_rate=0")
        before, lessons = self.adapters, self.lessons(data)
        assert isinstance(before, RoutedBank)  # trained or loaded by this class
        table = before.table.flatten(1)
        rows = self._rows(data.seed, len(table) + len(lessons))[len(table) :]  # every new row has a start of its own
        self._begin(before.bank, torch.cat((table, rows)))
        self.latent.requires_grad_(False)
        yield self._problem(lessons, first=len(table))
        self._finish([*before.ids, *(passage.id for passage, _, _ in lessons)], before.bank, self.table)

    def _rows(self, seed: int, count: int) -> Tensor:
        """Routing logits as they start, ``[count, targets * S]``."""
        generator = torch.Generator().manual_seed(seed)
        shape = (count, len(self.layout.names) * self.config.adapters)
        return (2 * torch.rand(shape, generator=generator) - 1) * self.config.router_start

    def _begin(self, latent: Tensor, table: Tensor) -> None:
        device = self.ready.lm.device
        self.latent = nn.Parameter(latent.float().to(device))
        self.table = nn.Parameter(table.to(device), requires_grad=self.config.router_learning_rate > 0)

    def _problem(self, lessons: Sequence[Lesson], first: int = 0) -> Problem:
        groups: list[dict[str, Any]] = []
        if self.latent.requires_grad:
            groups.append({"params": [self.latent]})
        if self.table.requires_grad:
            groups.append({"params": [self.table], "rows": True, "lr": self.config.router_learning_rate})
        return Problem(self, Pairs.of(lessons, first), parameters=groups, name=self.name)

    def _finish(self, ids: Sequence[str], latent: Tensor, table: Tensor) -> None:
        """Store bank and table, and answer from there."""
        shape = (len(ids), len(self.layout.names), self.config.adapters)
        folder = self.scratch_folder()
        write_bank(folder, ids, latent, table.view(shape), self.stored_dtype)
        del self.latent, self.table
        self.bank = RoutedBank(folder / BANK, self.layout, self.config.scale)

    def load(self, artifact: Artifact) -> None:
        """Open what was stored."""
        self.bank = RoutedBank(artifact / BANK, self.layout, self.config.scale)

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """The loss of each sequence under the mixture of its passage, ``[n]``, nats a token."""
        rows = torch.tensor([row for row, _ in batch], device=lm.device)
        logits = nn.functional.embedding(rows, self.table, sparse=True)
        logits = logits.view(len(batch), len(self.layout.names), self.config.adapters)
        noise = torch.rand_like(logits) if self.config.relaxed and self.training else None
        adapters = compose(self.layout, self.latent, routing_weights(logits, noise))
        deltas = self.layout.deltas(self.layout.factors(adapters), self.config.scale)
        return mean_nll(lm, [sequence for _, sequence in batch], Conditioning(deltas=deltas))

    def optimizer(self, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
        """AdamW for the bank, and for the rows that a step saw."""
        return RowAdamW(groups, **settings)

    def factors(self, queries: Sequence[Sequence[str]]) -> Factors:
        """With the routing as learned, or a control."""
        return self.adapters.factors(queries, self.config.combine, routing=self.config.routing)
