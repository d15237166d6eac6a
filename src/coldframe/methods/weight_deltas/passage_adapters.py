"""What all methods share that turn passages into weights."""

from __future__ import annotations

import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch

from coldframe.errors import DataError, NotFittedError, nearest
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.export import ExportRequest
from coldframe.methods.forms import Form
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.methods.training_set import TrainingData
from coldframe.methods.weight_deltas.adapter import Adapter, adapters_of
from coldframe.methods.weight_deltas.adapter_config import AdapterConfig
from coldframe.methods.weight_deltas.adapter_export import Part, write_adapters, write_parts
from coldframe.methods.weight_deltas.adapters import Factors, Layout
from coldframe.methods.weight_deltas.banks import Bank
from coldframe.methods.weight_deltas.passage_sequences import PassageSequences, lesson_hash, questions_by_passage
from coldframe.progress import say
from coldframe.retrieval.store import Retrieved
from coldframe.storage.files import link_or_copy
from coldframe.tasks.task import Example, Passage, content_hash

T = TypeVar("T")
Lesson: TypeAlias = tuple[Passage, list[TokenSequence], str]
"""A passage, what is trained for it, and a hash of what that is made of."""


class PassageAdapters(Method):
    """A method that puts the adapters of the retrieved passages into the model: ``y = W x + (alpha / r) B A x``.

    A subclass trains a :class:`coldframe.methods.weight_deltas.banks.Bank`, which gives the adapter of a passage by its
    id and reads it from a file when it is needed. Files of an artifact change when it is saved, and not before.
    """

    config_class = AdapterConfig
    config: AdapterConfig
    uses_retrieval = True
    needs_passages = True
    query_settings: ClassVar[tuple[str, ...]] = ("k", "combine", "source")
    ablations: ClassVar[tuple[str, ...]] = ("swapped-store",)
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "schedule": "constant",
        "warmup": 0.0,
        "clip": 0.0,
        "select": "last",
        "patience": 0,
    }
    search_space: ClassVar[SearchSpace] = {"training.epochs": Choices((3, 6, 12)), "rank": Choices((2, 4, 8))}

    layout: Layout
    bank: Bank | None = None
    scratch: Scratch | None = None

    def build(self, context: MethodContext) -> None:
        """The layout of the adapters; there are none before they are trained or loaded."""
        self.layout = Layout.of(context.lm.anatomy, self.config.rank, self.config.targets)
        self.left_out: dict[str, str] = {}
        self.bank = self.scratch = None

    def scratch_folder(self) -> Path:
        """A new folder, which goes when this method and its copies are gone."""
        if self.scratch is None:
            self.scratch = Scratch()
        return Path(tempfile.mkdtemp(dir=self.scratch.folder))

    @property
    def adapters(self) -> Bank:
        """Where the adapters of passages come from."""
        if self.bank is None:
            raise NotFittedError(f"{self.name} has not been fitted", fix="Call coldframe.fit or coldframe.load.")
        return self.bank

    def _swapped(self, text: str, retrieved: Sequence[str]) -> list[str]:
        """As many passages that were not retrieved, drawn by the query's text."""
        pool = [id for id in self.adapters.ids if id not in retrieved]
        if not pool:
            raise DataError("Adapters cannot be swapped: every passage is retrieved for a query", fix="Lower k.")
        return random.Random(content_hash(text)).sample(pool, min(len(retrieved), len(pool)))

    def factors(self, queries: Sequence[Sequence[str]]) -> Factors:
        """One update for the passages of each query, as the settings combine them."""
        return self.adapters.factors(queries, self.config.combine)

    @property
    def ports(self) -> frozenset[str]:
        """The weights that adapters are for."""
        return frozenset() if self.context is None else frozenset(self.layout.names)

    @property
    def trained_parameters(self) -> int:
        """Of all that is stored for the passages."""
        return 0 if self.bank is None else self.bank.parameters

    @property
    def entry_bytes(self) -> float | None:
        """Bytes on the disk for each passage."""
        return None if self.bank is None else self.bank.nbytes / max(1, len(self.bank.ids))

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The adapters of each query's k nearest passages, combined into one."""
        return self._conditioning(self.passages_for(texts, retrieved))

    def passages_for(self, texts: Sequence[str], retrieved: Retrieved) -> list[list[str]]:
        """Ids of the passages whose adapters each query gets."""
        nearest = retrieved.ranked().top(self.config.k).canonical()
        ids = [[entry.id for entry in nearest.examples(row)] for row in range(len(nearest))]
        return list(map(self._swapped, texts, ids)) if self.config.source == "others" else ids

    def _conditioning(self, queries: Sequence[Sequence[str]]) -> Conditioning:
        device = self.ready.lm.device
        factors = [(a.to(device), b.to(device)) for a, b in self.factors(queries)]
        return Conditioning(deltas=self.layout.deltas(factors, self.adapters.scale))

    # ---- training ---------------------------------------------------------------------------------------

    def lessons(self, data: TrainingData) -> list[Lesson]:
        """The passages to learn; an error if there is none."""
        questions = questions_by_passage(data.task)

        def lesson(passage: Passage) -> Lesson:
            about: Sequence[Example] = questions.get(passage.id, ())
            return passage, self.sequences_of(passage, about), lesson_hash(passage, about)

        lessons = self.usable(data, passages_of(data), lesson)
        if self.left_out and not data.quiet:
            say(f"{len(self.left_out)} passages are left out; the first: {next(iter(self.left_out.values()))}")
        if not lessons:
            raise DataError("No passage can be learned", got=f"{len(self.left_out)} unusable", fix="See the first one.")
        return lessons

    def usable(self, data: TrainingData, passages: Sequence[Passage], use: Callable[[Passage], T]) -> list[T]:
        """The results of ``use`` on passages; those that it refuses are an error, or left out."""
        skip = self.config.skip_unusable or data.task.options.get("on_error") == "skip"
        results = []
        for passage in passages:
            try:
                results.append(use(passage))
            except DataError as error:
                if not skip:
                    raise
                self.left_out[passage.id] = error.problem
        return results

    def sequences_of(self, passage: Passage, questions: Sequence[Example]) -> list[TokenSequence]:
        """What is trained on for a passage."""
        config = self.config
        sequences = PassageSequences(self.ready.schema, config.form, config.loss, config.full_answers)
        return sequences.of(self.ready.lm, passage, questions)

    def fingerprint(self, training: Mapping[str, Any]) -> str:
        """Names what an adapter depends on beside its passage."""
        lm, settings = self.ready.lm, self.config.to_dict()
        for name in (*self.query_settings, "skip_unusable", "at_once"):
            settings.pop(name, None)
        values = repr(sorted(settings.items())), repr(sorted(training.items())), repr(self.ready.schema.template)
        return content_hash(self.name, lm.weight_hash, str(lm.dtype), *values)

    # ---- files ------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> list[str]:
        """The bank's files."""
        for name, path in self.adapters.files.items():
            link_or_copy(path, folder / name)
        return list(self.adapters.files)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Those of an adapter."""
        return "peft", "gguf", "sglang"

    def export(self, folder: Path, request: ExportRequest) -> list[str]:
        """Write the adapter of each query, or the one of some entries combined."""
        if unknown := [entry for entry in request.entries if entry not in self.adapters.ids]:
            raise DataError(f"There is no passage {unknown[0]!r}", fix=nearest(unknown[0], self.adapters.ids))
        if not (request.entries or request.queries):
            raise DataError("There is no passage to export", fix="Name entries of the store, or queries.")
        if request.entries:
            passages, names = [list(request.entries)], ["entries"]
        else:
            passages, names = self.passages_for(request.queries, request.retrieved), request.names
        if request.form == "gguf":
            return write_parts(
                folder, [self.parts(ids, name) for ids, name in zip(passages, names, strict=True)], names
            )
        adapters = adapters_of(self.ready.lm, self._conditioning(passages), len(passages))
        return write_adapters(folder, adapters, names, request)

    def parts(self, ids: Sequence[str], name: str) -> list[Part]:
        """The adapters whose sum is that of some passages: one of each where they are added up, else one of all."""
        combine = self.config.combine
        rule = self.adapters.default if combine == "auto" else combine

        def adapter_of(passages: Sequence[str]) -> Adapter:
            return adapters_of(self.ready.lm, self._conditioning([passages]), 1)[0]

        if rule not in ("sum", "mean"):
            return [Part(name, adapter_of(ids))]
        scale = 1.0 if rule == "sum" else 1 / max(1, len(ids))
        return [Part(id, adapter_of([id]), scale) for id in ids]

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of what is kept."""
        return torch.bfloat16 if self.config.stored == "bfloat16" else torch.float32


class Scratch:
    """A folder that goes when nobody holds it any more."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="coldframe-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def passages_of(data: TrainingData) -> list[Passage]:
    """The passages of a task's store, in its order."""
    return [entry for entry in data.task.store or () if isinstance(entry, Passage)]
