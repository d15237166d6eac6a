"""Adapters of passages as they lie on the disk, read one row at a time."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coldframe.errors import ArtifactError, ConfigError, DataError, nearest
from coldframe.methods.weight_deltas.adapters import Combine, Factors, Layout, combined, stacked
from coldframe.methods.weight_deltas.dyprag import Hypernetwork
from coldframe.methods.weight_deltas.poly_prag import PolyBank, Routing, compose, routed
from coldframe.parametric.settings import Combination
from coldframe.storage.files import atomic_path
from coldframe.tasks.task import content_hash

SHARDS, HYPERNETWORK = "adapters", "hypernetwork.safetensors"


class Bank(ABC):
    """Where the adapters of passages come from.

    Attributes:
        layout: How an adapter's numbers lie.
        scale: Of the update: ``scale B A``.
        ids: Passages that it knows, in its order.
        default: How the adapters of several passages are combined where nothing else is asked for.
    """

    default: Combination = "sum"

    def __init__(self, layout: Layout, scale: float, ids: Sequence[str]) -> None:
        self.layout, self.scale, self.ids = layout, scale, tuple(ids)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes on the disk."""

    @abstractmethod
    def adapters(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Adapters of some passages, float32 ``[n, N]``."""

    def factors(self, queries: Sequence[Sequence[str]], combine: Combination, routing: Routing = "learned") -> Factors:
        """One update for every query.

        Args:
            queries: Ids of each query's passages.
            combine: ``rows`` mixes routing rows before anything is composed; ``auto`` is the bank's default; for the
                others see :func:`coldframe.methods.weight_deltas.adapters.combined`.
            routing: As learned, or a control; only a bank with a routing table has controls.
        """
        how = self.default if combine == "auto" else combine
        if how not in get_args(Combine):
            known = [one for one in get_args(Combination) if one != "rows" or self.default == "rows"]
            raise ConfigError(f"These adapters cannot be combined by {how!r}", fix=nearest(how, known))
        wanted = list(dict.fromkeys(one for ids in queries for one in ids))  # several queries may share a passage
        each = dict(zip(wanted, self.adapters(wanted, routing), strict=True))
        flat, present = stacked([[each[one] for one in ids] for ids in queries], self.layout.numbers)
        return combined(self.layout, flat, present, how)  # type: ignore[arg-type]


class AdapterShards(Bank):
    """PRAG's: an adapter for every passage, in files ``[passages, N]`` that are memory-mapped.

    Args:
        folder: Where they are.
        layout: How they lie.
        scale: Of the update.
        ids: The passages wanted, all of them there.
        augmentations: What each was trained on, by hash.

    Raises:
        ArtifactError: A file is damaged, or an adapter is missing.
    """

    def __init__(
        self, folder: Path, layout: Layout, scale: float, ids: Sequence[str], augmentations: Sequence[str]
    ) -> None:
        super().__init__(layout, scale, ids)
        places = shard_places(folder)
        wanted = list(zip(ids, augmentations, strict=True))
        if missing := [one for one in wanted if one not in places]:
            raise ArtifactError(f"{folder} lacks {len(missing)} adapters", got=missing[0][0], fix="Encode again.")
        self._places = {one[0]: places[one][:2] for one in wanted}
        self._files = {path: _open(path) for path in {path for path, _ in self._places.values()}}
        self._rows = {path: file.get_slice("adapters") for path, file in self._files.items()}

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self._files)

    def adapters(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Read them.

        Raises:
            DataError: A passage has no adapter.
        """
        if routing != "learned":
            raise _no_routing("PRAG", routing)
        rows = []
        for one in ids:
            if one not in self._places:
                raise DataError(f"There is no adapter for passage {one!r}", fix="Encode the corpus that it is in.")
            path, row = self._places[one]
            rows.append(self._rows[path][row].float())
        return torch.stack(rows) if rows else torch.zeros(0, self.layout.numbers)


class RoutedBank(Bank):
    """Poly-PRAG's: a bank of latent adapters in memory, and a routing table that is memory-mapped.

    A passage that the table does not know gets the uniform mixture; :attr:`unknown` counts them.

    Args:
        path: The file with both.
        layout: How adapters lie.
        scale: Of the update.
        ids: The passages, in the order of the table's rows.
    """

    default: Combination = "rows"

    def __init__(self, path: Path, layout: Layout, scale: float, ids: Sequence[str]) -> None:
        super().__init__(layout, scale, ids)
        self.path, self.unknown, self._file = path, 0, _open(path)
        self._place = {one: row for row, one in enumerate(self.ids)}
        try:
            self._bank: Tensor = self._file.get_tensor("bank").float()
            self._table = self._file.get_slice("table")
        except SafetensorError as error:
            raise ArtifactError(f"{path} is damaged: {error}", fix="Encode again.") from error
        shape = tuple(self._table.get_shape())
        expected = (len(self.ids), len(layout.names), len(self._bank))
        if shape != expected or self._bank.shape[1] != layout.numbers:
            raise ArtifactError(f"{path} does not fit its description", got=shape, expected=expected)

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return self.path.stat().st_size

    @property
    def trained(self) -> PolyBank:
        """All of it in memory."""
        return PolyBank(self._bank, self._file.get_tensor("table").float())

    def weights(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Mixing weights of some passages, ``[n, targets, S]``."""
        places = [self._place.get(one) for one in ids]
        self.unknown += sum(place is None for place in places)
        if routing == "random":  # which takes all rows
            return routed(self._file.get_tensor("table"), places, routing)
        rows = [self._table[place] for place in places if place is not None]
        table = torch.stack(rows) if rows else torch.zeros(0, len(self.layout.names), len(self._bank))
        order = iter(range(len(rows)))
        return routed(table, [None if place is None else next(order) for place in places], routing)

    def adapters(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Composed from the bank."""
        return compose(self.layout, self._bank, self.weights(ids, routing))

    def factors(self, queries: Sequence[Sequence[str]], combine: Combination, routing: Routing = "learned") -> Factors:
        """With ``rows`` the weights of a query's passages are averaged, and one adapter is composed for it."""
        if combine not in ("auto", "rows"):
            return super().factors(queries, combine, routing)
        mixed = torch.zeros(len(queries), len(self.layout.names), len(self._bank))
        for query, ids in enumerate(queries):
            if ids:
                mixed[query] = self.weights(ids, routing).mean(0)
        return self.layout.factors(compose(self.layout, self._bank, mixed))


class GeneratedAdapters(Bank):
    """DyPRAG's: a hypernetwork in memory, and the passages' embeddings, which are memory-mapped.

    Args:
        network: The file with the hypernetwork.
        embeddings: The file with the embeddings.
        layout: How adapters lie.
        scale: Of the update.
        ids: The passages, in the order of the embeddings.

    Raises:
        ArtifactError: A file is damaged or does not fit.
    """

    default: Combination = "average-factors"

    def __init__(self, network: Path, embeddings: Path, layout: Layout, scale: float, ids: Sequence[str]) -> None:
        super().__init__(layout, scale, ids)
        self.paths = (network, embeddings)
        weights, self._file = _open(network), _open(embeddings)
        self._place = {one: row for row, one in enumerate(self.ids)}
        try:
            state = {name: weights.get_tensor(name) for name in ("first", "second")}
            self._embeddings = self._file.get_slice("embeddings")
            self.network = Hypernetwork.from_state(layout, state)
        except (SafetensorError, ConfigError) as error:
            raise ArtifactError(f"{network} is damaged: {error}", fix="Encode again.") from error
        shape, expected = tuple(self._embeddings.get_shape()), (len(self.ids), self.network.d_model)
        if shape != expected:
            raise ArtifactError(f"{embeddings} does not fit its description", got=shape, expected=expected)

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, of the hypernetwork and of the embeddings."""
        return sum(path.stat().st_size for path in self.paths)

    def embeddings(self, ids: Sequence[str]) -> Tensor:
        """Embeddings of some passages, float32 ``[n, d_model]``.

        Raises:
            DataError: A passage has none.
        """
        if unknown := [one for one in ids if one not in self._place]:
            raise DataError(f"There is no embedding of passage {unknown[0]!r}", fix="Add it: coldframe encode --add.")
        rows = [self._embeddings[self._place[one]] for one in ids]
        return torch.stack(rows) if rows else torch.zeros(0, self.network.d_model)

    @torch.no_grad()
    def adapters(self, ids: Sequence[str], routing: Routing = "learned") -> Tensor:
        """Generated now."""
        if routing != "learned":
            raise _no_routing("DyPRAG", routing)
        generated: Tensor = self.network(self.embeddings(ids))
        return generated


def write_shard(folder: Path, ids: Sequence[str], adapters: Tensor, described: Mapping[str, Any]) -> Path:
    """Write one file of adapters; its name is that of what is in it, so that files of several runs do not meet.

    Args:
        folder: Of all shards.
        ids: The passages.
        adapters: ``[passages, N]``, in the number format to keep.
        described: Kept in the file's head: ``fingerprint``, and ``augmentations``, the hash of each.
    """
    path = folder / f"{content_hash(*ids, *described['augmentations'])}.safetensors"
    head = {"described": json.dumps({**described, "ids": list(ids)})}
    with atomic_path(path) as temporary:
        save_file({"adapters": adapters.contiguous()}, temporary, metadata=head)
    return path


def shard_places(folder: Path) -> dict[tuple[str, str], tuple[Path, int, str]]:
    """Where the adapter of a passage and its augmentation is: file, row, and the fingerprint it was trained under.

    Raises:
        ArtifactError: A file is damaged.
    """
    found = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):  # a dot: what a killed run left half-written
        try:
            described = json.loads(_open(path).metadata()["described"])
            for row, key in enumerate(zip(described["ids"], described["augmentations"], strict=True)):
                found[key] = (path, row, str(described["fingerprint"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is damaged: {error}", fix="Delete it and encode again.") from error
    return found


def write_bank(path: Path, bank: PolyBank, dtype: torch.dtype) -> None:
    """Write bank and table into one file."""
    with atomic_path(path) as temporary:
        save_file({"bank": bank.bank.to(dtype).contiguous(), "table": bank.table.to(dtype).contiguous()}, temporary)


def write_hypernetwork(path: Path, network: Hypernetwork, dtype: torch.dtype) -> None:
    """Write its weights: ``first``, ``[2 targets, p, d_model + 1]``, and ``second``, ``[N, p]``."""
    with atomic_path(path) as temporary:
        save_file({name: one.detach().to(dtype).contiguous() for name, one in network.state_dict().items()}, temporary)


def write_embeddings(path: Path, embeddings: Tensor) -> None:
    """Write embeddings, float32."""
    with atomic_path(path) as temporary:
        save_file({"embeddings": embeddings.float().contiguous()}, temporary)


def _no_routing(method: str, routing: str) -> ConfigError:
    return ConfigError(f"{method} has no routing", got=routing, fix="Leave it out, or encode with poly-prag.")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Delete it and encode again.") from error
