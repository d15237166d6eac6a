"""Exemplars added, relabelled and taken away, for all queries or for one; nothing is trained."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coldframe.errors import ConfigError, DataError
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.store import Retrieved, Store
from coldframe.serving.gateway.adapters import Adapter
from coldframe.serving.gateway.problems import HttpProblem
from coldframe.tasks.task import Example, Passage, content_hash


@dataclasses.dataclass(frozen=True)
class NewExemplar:
    """An exemplar to add: a text with its label (its answer, in a generation task), or a passage without one.

    Attributes:
        text: The input.
        label: What is right; empty for a passage.
        id: Its name in the store; the content gives it one if empty.
    """

    text: str
    label: str = ""
    id: str = ""


@dataclasses.dataclass(frozen=True)
class Overrides:
    """Changes of the store for one query.

    Attributes:
        drop: Ids that are not retrieved.
        relabel: Other labels, by id.
    """

    drop: tuple[str, ...] = ()
    relabel: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.drop or self.relabel)


def added(adapter: Adapter, exemplars: Sequence[NewExemplar]) -> Pipeline:
    """The pipeline with further exemplars.

    Raises:
        HttpProblem: 409: the method keeps something learned for each entry, or an id is in use.
        DataError: A text or a label cannot be used.
    """
    pipeline = _editable(adapter)
    if adapter.learns_entries:
        raise HttpProblem(
            409,
            f"{pipeline.method.name} learns something for each entry of its store, so none can be added here",
            fix="Add it with coldframe fit --add, then put the adapter in again.",
        )
    entries = {entry.id: entry for entry in pipeline.store.examples}
    for exemplar in exemplars:
        entry = _entry(pipeline, exemplar)
        if entry.id in entries:
            raise HttpProblem(409, "An exemplar of this id is there already", got=repr(entry.id), fix="Relabel it.")
        entries[entry.id] = entry
    return dataclasses.replace(pipeline, store=Store.of([*entries.values()]))


def relabelled(adapter: Adapter, labels: Mapping[str, str]) -> Pipeline:
    """The pipeline with other labels of some exemplars."""
    return dataclasses.replace(_editable(adapter), store=_relabelled(adapter.pipeline, labels))


def removed(adapter: Adapter, ids: Sequence[str]) -> Pipeline:
    """The pipeline without some exemplars.

    Raises:
        ConfigError: Fewer would be left than are retrieved.
    """
    pipeline = _editable(adapter)
    _check_known(pipeline.store, ids)
    gone = {*ids}
    entries = [entry for entry in pipeline.store.examples if entry.id not in gone]
    return dataclasses.replace(pipeline, store=Store.of(entries))


def retrieve(pipeline: Pipeline, queries: Sequence[Example], overrides: Overrides) -> Retrieved:
    """What is retrieved, with the changes for these queries; the store stays as it is."""
    if not overrides:
        return pipeline.retrieve(queries)
    if pipeline.retriever is None:
        raise ConfigError(f"{pipeline.method.name} looks at no exemplars, so none can be dropped or relabelled")
    _check_known(pipeline.store, overrides.drop)
    k, gone = pipeline.retriever.k, {*overrides.drop}
    more = copy.copy(pipeline.retriever)  # the same index
    more.k = min(k + len(gone), len(pipeline.store))
    retrieved = more.retrieve(queries, exclude_same_key=False)
    examples = retrieved.store.examples
    places, scores = np.full((len(queries), k), -1), np.zeros((len(queries), k), np.float32)
    for row in range(len(queries)):
        stay = [j for j, i in enumerate(retrieved.indices[row]) if i >= 0 and examples[i].id not in gone][:k]
        places[row, : len(stay)], scores[row, : len(stay)] = retrieved.indices[row, stay], retrieved.scores[row, stay]
    store = _relabelled(pipeline, overrides.relabel) if overrides.relabel else pipeline.store
    return Retrieved(store, places, scores)


def _editable(adapter: Adapter) -> Pipeline:
    pipeline = adapter.pipeline
    if not pipeline.method.uses_retrieval:
        raise HttpProblem(409, f"{pipeline.method.name} looks at no exemplars: its answers do not depend on a store")
    return pipeline


def _relabelled(pipeline: Pipeline, labels: Mapping[str, str]) -> Store:
    _check_known(pipeline.store, labels)
    schema = pipeline.schema
    entries = list(pipeline.store.examples)
    for place, entry in enumerate(entries):
        if entry.id in labels:
            if isinstance(entry, Passage):
                raise ConfigError("A passage has no label", got=repr(entry.id))
            label = labels[entry.id]
            if schema.kind == "classification":
                schema.index(label)
            elif not label.strip():
                raise DataError("An answer is empty", got=repr(entry.id))
            entries[place] = dataclasses.replace(entry, target=label)
    return Store(tuple(entries))


def _check_known(store: Store, ids: Sequence[str] | Mapping[str, str]) -> None:
    known = {entry.id for entry in store.examples}
    if missing := [id for id in ids if id not in known]:
        raise HttpProblem(404, "The store has no such exemplar", got=repr(missing[0])[:200])


def _entry(pipeline: Pipeline, exemplar: NewExemplar) -> Example:
    """An exemplar as the store has them: a molecule canonicalised, a text as it is."""
    schema = pipeline.schema
    if any(isinstance(entry, Passage) for entry in pipeline.store.examples[:1]):
        if not exemplar.text.strip():
            raise DataError("A passage is empty")
        return Passage.of(exemplar.text, id=exemplar.id)
    if not exemplar.label.strip():
        raise DataError("An exemplar needs its label", fix="Send text and label.")
    if schema.kind == "classification":
        schema.index(exemplar.label)
    (query,) = pipeline.queries([exemplar.text])
    name = exemplar.id or f"added-{content_hash(query.text, exemplar.label)}"
    return dataclasses.replace(query, target=exemplar.label, id=name, row=0)
