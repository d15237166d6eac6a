"""Random adapters for the entries of a store, and fitted classifiers, for checks of methods without training."""

from __future__ import annotations

import numpy as np
import torch

from coldframe.methods.base import Method
from coldframe.methods.compose import Compose
from coldframe.methods.weight_deltas import bank_files
from coldframe.methods.weight_deltas.banks import AdapterShards
from coldframe.methods.weight_deltas.dyprag import DyPRAG
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.methods.weight_deltas.poly_prag import PolyPRAG
from coldframe.methods.weight_deltas.prag import PRAG
from coldframe.methods.without_model.learner import Learner
from coldframe.methods.without_model.setfit import SetFit
from coldframe.retrieval.store import Store


def fill(method: Method, store: Store) -> None:
    """Give a method that is set up an adapter for every entry of a store."""
    if isinstance(method, Compose):
        for part in method.methods:
            fill(part, store)
    if not isinstance(method, PassageAdapters):
        return
    generator = torch.Generator().manual_seed(5)
    ids, numbers = [entry.id for entry in store.examples], method.layout.parameters

    def drawn(*shape: int, std: float = 0.04) -> torch.Tensor:
        return std * torch.randn(shape, generator=generator)

    folder = method.scratch_folder()
    if isinstance(method, PRAG):
        lessons = dict.fromkeys(ids, "lesson")
        bank_files.write_shard(folder, lessons, drawn(len(ids), numbers), "fingerprint")
        method.bank = AdapterShards(bank_files.written_shards(folder), method.layout, method.config.scale, lessons)
        return
    if isinstance(method, PolyPRAG):
        count = method.config.adapters
        table = drawn(len(ids), len(method.layout.names), count, std=2.0)
        bank_files.write_bank(folder, ids, drawn(count, numbers), table, torch.float32)
    elif isinstance(method, DyPRAG):
        width = method.ready.lm.d_model
        network = Hypernetwork(method.layout, width, method.config.width, init_std=0.3)
        bank_files.write_hypernetwork(folder, network, torch.float32)
        bank_files.write_embeddings(folder, ids, drawn(len(ids), width, std=1.0))
    method.load(folder)


def learn(method: Method, store: Store) -> None:
    """Fit a classifier that is fitted at once to the entries of a store."""
    if isinstance(method, Learner):
        if getattr(method.config, method.open_setting) is None:
            method.config = method._with(method.usual)
        method.learn(method._rows(store.examples, balanced=False, seed=0, fresh=True))
    elif isinstance(method, SetFit):
        targets = np.array([method.ready.schema.index(entry.target) for entry in store.examples])
        method.layer.fit(method._vectors(store.texts), targets, 1.0, False, scaled=True)
