"""Adapters of passages as they lie on the disk, read one row at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from coldframe.errors import ArtifactError, ConfigError, DataError, NotFiniteError, nearest
from coldframe.methods.weight_deltas.adapter_config import Combination
from coldframe.methods.weight_deltas.adapters import Combine, Factors, Layout, combined, mean_cosine, stacked
from coldframe.methods.weight_deltas.bank_files import BANK, EMBEDDINGS, HYPERNETWORK, SHARDS, shard_places
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.methods.weight_deltas.routing import Routing, compose, routed
from coldframe.storage.tensors import check_numbers, open_tensors, read_tensors, reading


class Bank(ABC):
    """Where the adapters of passages come from.

    Attributes:
        layout: How an adapter's parameters lie.
        scale: Of the update: ``scale B A``.
        ids: Passages that it knows, in its order.
        files: What it reads, by the names that the files have in an artifact.
        parameters: How many were trained.
        default: How the adapters of several passages are combined where nothing else is asked for.
    """

    default: Combination = "sum"

    def __init__(
        self, layout: Layout, scale: float, ids: Sequence[str], files: Mapping[str, Path], parameters: int
    ) -> None:
        self.layout, self.scale, self.ids = layout, scale, tuple(ids)
        self.files, self.parameters = dict(files), parameters

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.files.values())

    @abstractmethod
    def adapters(self, ids: Sequence[str]) -> Tensor:
        """Adapters of some passages, float32 ``[n, N]``."""

    def factors(self, queries: Sequence[Sequence[str]], combine: Combination, **options: Any) -> Factors:
        """One update for every query.

        Args:
            queries: Ids of each query's passages.
            combine: ``rows`` mixes routing rows before anything is composed; ``auto`` is the bank's default; for the
                others see :func:`coldframe.methods.weight_deltas.adapters.combined`.
            **options: Of :meth:`adapters`: a bank with a routing table takes ``routing``.
        """
        rule = self.default if combine == "auto" else combine
        if rule not in get_args(Combine):
            rules = [name for name in get_args(Combination) if name != "rows" or self.default == "rows"]
            raise ConfigError(f"These adapters cannot be combined by {rule!r}", fix=nearest(rule, rules))
        passages = list(dict.fromkeys(id for ids in queries for id in ids))  # several queries may share a passage
        adapters = dict(zip(passages, self.adapters(passages, **options), strict=True))
        flat, present = stacked([[adapters[id] for id in ids] for ids in queries], self.layout.parameters)
        return combined(self.layout, flat, present, rule)  # type: ignore[arg-type]


class AdapterShards(Bank):
    """PRAG's: an adapter for every passage, in files ``[passages, N]`` that are memory-mapped."""

    def __init__(self, shards: Iterable[Path], layout: Layout, scale: float, lessons: Mapping[str, str]) -> None:
        places = shard_places(shards)
        if missing := [id for id, lesson in lessons.items() if (id, lesson) not in places]:
            raise ArtifactError(f"The adapters of {len(missing)} passages are absent", got=missing[0], fix="Fit again.")
        self.lessons = dict(lessons)
        self._places = {id: places[id, lesson][:2] for id, lesson in lessons.items()}
        self._rows: dict[Path, Any] = {}
        for path in sorted({path for path, _ in self._places.values()}):
            with reading(path):
                self._rows[path] = open_tensors(path)[0].get_slice("adapters")
        files = {f"{SHARDS}/{path.name}": path for path in self._rows}
        super().__init__(layout, scale, tuple(lessons), files, len(lessons) * layout.parameters)

    def adapters(self, ids: Sequence[str]) -> Tensor:
        """Read them."""
        if unknown := [id for id in ids if id not in self._places]:
            raise DataError(f"There is no adapter for passage {unknown[0]!r}", fix="Fit the corpus that it is in.")
        rows = [self._rows[path][row].float() for path, row in (self._places[id] for id in ids)]
        adapters = torch.stack(rows) if rows else torch.zeros(0, self.layout.parameters)
        _check_rows(adapters, ids, "adapter")
        return adapters


class RoutedBank(Bank):
    """Poly-PRAG's: a bank of latent adapters in memory, and a routing table that is memory-mapped.

    A passage that the table does not know gets the uniform mixture; :attr:`unknown` counts them.
    """

    default: Combination = "rows"

    def __init__(self, path: Path, layout: Layout, scale: float) -> None:
        self.unknown = 0
        with reading(path):
            self._file, values = open_tensors(path)
            self._row_of = {str(id): row for row, id in enumerate(values["ids"])}
            self.bank: Tensor = self._file.get_tensor("bank").float()
            check_numbers(path, {"bank": self.bank}, fix="Fit again.")
            self._table = self._file.get_slice("table")
        shape, expected = tuple(self._table.get_shape()), (len(self._row_of), len(layout.names), len(self.bank))
        if shape != expected or self.bank.shape[1] != layout.parameters:
            raise ArtifactError(f"{path} does not fit the model or the settings", got=shape, expected=expected)
        parameters = self.bank.numel() + math.prod(shape)
        super().__init__(layout, scale, tuple(self._row_of), {BANK: path}, parameters)

    @property
    def table(self) -> Tensor:
        """All routing logits in memory, ``[passages, targets, S]``."""
        table: Tensor = self._file.get_tensor("table").float()
        return table

    def weights(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Mixing weights of some passages, ``[n, targets, S]``."""
        rows = [self._row_of.get(id) for id in ids]
        self.unknown += rows.count(None)
        if routing == "random":  # which takes the whole table
            return routed(self.table, rows, routing)
        logits = [self._table[row] for row in rows if row is not None]
        table = torch.stack(logits) if logits else torch.zeros(0, len(self.layout.names), len(self.bank))
        _check_rows(table, [id for id, row in zip(ids, rows, strict=True) if row is not None], "routing row")
        order = iter(range(len(logits)))
        return routed(table, [None if row is None else next(order) for row in rows], routing)

    def adapters(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Composed from the bank."""
        return compose(self.layout, self.bank, self.weights(ids, routing))

    def factors(self, queries: Sequence[Sequence[str]], combine: Combination, **options: Any) -> Factors:
        """With ``rows`` the weights of a query's passages are averaged, and one adapter is composed for it."""
        if combine not in ("auto", "rows"):
            return super().factors(queries, combine, **options)
        mixed = torch.zeros(len(queries), len(self.layout.names), len(self.bank))
        for query, ids in enumerate(queries):
            if ids:
                mixed[query] = self.weights(ids, **options).mean(0)
        return self.layout.factors(compose(self.layout, self.bank, mixed))


class GeneratedAdapters(Bank):
    """DyPRAG's: a hypernetwork in memory, and the passages' embeddings, which are memory-mapped."""

    default: Combination = "average-factors"

    def __init__(self, network: Path, embeddings: Path, layout: Layout, scale: float) -> None:
        with reading(network, fix="Fit again."):
            self.network = Hypernetwork.from_state(layout, read_tensors(network, fix="Fit again.")[0])
        with reading(embeddings):
            file, values = open_tensors(embeddings)
            self._row_of = {str(id): row for row, id in enumerate(values["ids"])}
            self._embeddings = file.get_slice("embeddings")
        shape, expected = tuple(self._embeddings.get_shape()), (len(self._row_of), self.network.d_model)
        if shape != expected:
            raise ArtifactError(f"{embeddings} does not fit the model or the settings", got=shape, expected=expected)
        trained = sum(parameter.numel() for parameter in self.network.parameters())
        files = {HYPERNETWORK: network, EMBEDDINGS: embeddings}
        super().__init__(layout, scale, tuple(self._row_of), files, trained)

    def embeddings(self, ids: Sequence[str]) -> Tensor:
        """Embeddings of some passages, float32 ``[n, d_model]``."""
        if unknown := [id for id in ids if id not in self._row_of]:
            raise DataError(f"There is no embedding of passage {unknown[0]!r}", fix="Add it: coldframe fit --add.")
        rows = [self._embeddings[self._row_of[id]] for id in ids]
        embeddings = torch.stack(rows) if rows else torch.zeros(0, self.network.d_model)
        _check_rows(embeddings, ids, "embedding")
        return embeddings

    @torch.no_grad()
    def adapters(self, ids: Sequence[str]) -> Tensor:
        """Generated now."""
        generated: Tensor = self.network(self.embeddings(ids))
        return generated


def _check_rows(rows: Tensor, ids: Sequence[str], what: str) -> None:
    """An error that names the first passage whose numbers are none."""
    finite = rows.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        bad = ids[int((~finite).nonzero()[0])]
        raise NotFiniteError(f"The {what} of passage {bad!r} is not finite", fix="Its file is damaged: fit again.")


def adapter_cosine(bank: Bank, passages: int = 50) -> float | None:
    """How alike the adapters of different passages are; see :func:`mean_cosine` of the adapters."""
    count = min(passages, len(bank.ids))
    if count < 2:
        return None
    sample = [bank.ids[i * len(bank.ids) // count] for i in range(count)]
    return mean_cosine(bank.layout, bank.adapters(sample))
