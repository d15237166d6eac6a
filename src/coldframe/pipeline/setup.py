"""What a method is set up with, and what it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.no_model import NoModel
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.training_set import RetrievedRows, TrainingData
from coldframe.retrieval.encoders import Encoder, encoder_spec, load_encoder
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.cells import check_unicode
from coldframe.tasks.long_rows import drop_long
from coldframe.tasks.molecules import canonical_smiles, molecule_key
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Passage, Schema, Task, text_key
from coldframe.training.config import TrainingConfig

#: Encoders in use, by what loaded them: they remember what they have encoded, and change nothing else.
_ENCODERS: WeakValueDictionary[tuple[Callable[[str], Encoder], str], Encoder] = WeakValueDictionary()


def encoder_of(spec: str, schema: Schema) -> Encoder:
    """The encoder of a spec; the same one as long as something holds it, so that no text is encoded twice."""
    name = encoder_spec(spec, schema.domain)
    encoder = _ENCODERS.get((load_encoder, name))
    if encoder is None:
        encoder = _ENCODERS[load_encoder, name] = load_encoder(name)
    return encoder


def model_for(method: Method, lm: FrozenLM | None) -> FrozenLM:
    """The model that a method is fitted to: one that needs none gets none.

    Raises:
        ConfigError: It needs one, and there is none.
    """
    if not method.needs_model:
        return NoModel()
    if lm is None:
        raise ConfigError(f"{method.name} adapts a language model, and none was given", fix="Pass coldframe.load_lm().")
    if method.trainable and method.reads_model and method.needs_gradient and not lm.has_weights:
        raise ConfigError(
            f"{method.name} is trained through the model's weights, and a server keeps them to itself",
            fix="Fit with coldframe.load_lm(), then load the artifact with lm=RemoteLM(...); or fit black-box-tuning.",
        )
    return lm


def context_of(method: Method, lm: FrozenLM, schema: Schema) -> MethodContext:
    """What a method is set up with: the model, the schema and its encoder."""
    if not method.uses_encoder:
        return MethodContext(lm, schema)
    return MethodContext(lm, schema, encoder_of(getattr(method.config, "encoder", "auto"), schema))


def retriever_of(method: Method, schema: Schema, store: Store, config: RetrievalConfig) -> Retriever | None:
    """The retriever a method wants, or None if it looks at no entries."""
    if not method.uses_retrieval:
        return None
    if config.strategy == "auto":
        config = config.replace(strategy=method.strategy)
    # One encoder for both where it is the same one: it remembers what it has encoded.
    encoder = method.ready.encoder
    spec = encoder_spec(config.encoder, schema.domain)
    shared = encoder if encoder is not None and encoder.spec == spec else None
    return Retriever(store, schema.domain, method.config.k, config, encoder=shared)


def training_settings(
    method: Method, training: TrainingConfig | Mapping[str, Any] | None, changes: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """How a method is trained.

    Args:
        method: Whose own defaults count where nothing is given.
        training: A whole config, or single settings over the defaults.
        changes: Single settings over both.
    """
    if isinstance(training, TrainingConfig):
        return training.replace(**(changes or {}))
    return TrainingConfig.from_dict({**method.training_defaults, **(training or {}), **(changes or {})})


def positions_needed(lm: FrozenLM, schema: Schema, soft_tokens: int = 0) -> Callable[[Example], int]:
    """Counts the positions of the model's context that a row takes with its prompt and answer, without entries.

    Args:
        lm: The model, whose tokens are counted.
        schema: The task's template and labels.
        soft_tokens: How many a method puts beside the row.
    """
    template = schema.template
    around = len(lm.bos) + soft_tokens
    if schema.kind == "classification":
        around += max(len(lm.answer_tokens(word, template.end)) for word in schema.words)

    def positions(row: Example) -> int:
        prompt = len(lm.tokenize(template.header + template.query(row.text)))
        if schema.kind == "classification":
            return around + prompt
        answer = len(lm.answer_tokens(row.target, template.end)) if row.target else 0
        return around + prompt + max(answer, schema.max_new_tokens)

    return positions


def query_of(text: str, row: int, schema: Schema) -> Example:
    """A new input as an example without an answer: a molecule as those of training are spelt."""
    check_unicode(text, "The text")
    if schema.domain == "molecules":
        key, shown = molecule_key(text), text if schema.raw_smiles else canonical_smiles(text)
    else:
        key, shown = text_key(text), text
    return Example(shown, "", f"query-{row:07d}", key, row)


def readable_task(lm: FrozenLM, task: Task, soft_tokens: int = 0) -> Task:
    """The task without rows that are longer than the model's context, if it was loaded with ``on_error="skip"``.

    Raises:
        DataError: There is such a row, and nothing says to skip it; names it.
    """
    problems = Problems("skip" if task.options.get("on_error") == "skip" else "raise")
    return drop_long(task, positions_needed(lm, task.schema, soft_tokens), lm.max_positions, problems)


def training_data(
    method: Method, lm: FrozenLM, task: Task, store: Store, retrieval: RetrievalConfig, training: TrainingConfig,
    workspace: Path | None = None, quiet: bool = False,
) -> TrainingData:  # fmt: skip
    """Rows of a task, and what is retrieved for them.

    Args:
        method: Set up.
        lm: The model, whose tokens are counted.
        task: Rows and schema.
        store: What may be retrieved while nothing is chosen yet: without validation rows.
        retrieval: How.
        training: Objective and class weights count here.
        workspace: Folder for what is finished before all is trained.
        quiet: No progress bars.
    """
    template = task.schema.template
    around = len(lm.tokenize(template.header + template.query("")))

    @cache
    def retriever() -> Retriever | None:
        return retriever_of(method, task.schema, store, retrieval)

    def rows(examples: Sequence[Example]) -> RetrievedRows:
        retrieved = Retrieved.nothing(store, len(examples))
        if examples and (search := retriever()) is not None:
            retrieved = search.retrieve(examples, exclude_same_key=task.store is None)
        lengths = [len(lm.tokenize(example.text)) + around for example in examples]
        weights = class_weights(task.schema, task.train, examples, training)
        return RetrievedRows(examples, lengths, weights, retrieved=retrieved, objective=training.objective)

    settings = training.replace(report_to="none", checkpoint_every=0).to_dict()
    return TrainingData(task, rows, workspace, training.seed, settings, quiet)


def weighs_classes(schema: Schema, config: TrainingConfig) -> bool:
    """Whether all classes count alike, however many rows they have: as the settings say, else as the metric does."""
    if schema.kind != "classification":
        return False
    balanced = config.class_weights
    return schema.metric in ("effective_accuracy", "balanced_accuracy") if balanced is None else balanced


def class_weights(
    schema: Schema, counted: Sequence[Example], examples: Sequence[Example], config: TrainingConfig
) -> list[float]:
    """Weight of each row: ``n / (classes * n_class)``; none where all count alike.

    Args:
        schema: Labels and metric.
        counted: The rows that ``n`` and ``n_class`` are counted on.
        examples: The rows to weigh.
        config: Says whether classes are weighed; by default the metric does.
    """
    if not weighs_classes(schema, config):
        return []
    targets = schema.targets(counted)
    counts = np.bincount(targets, minlength=len(schema.labels))
    present = int((counts > 0).sum())
    return [len(targets) / (present * max(1, int(counts[place]))) for place in schema.targets(examples)]


def check_fits(method: Method, task: Task, store: Store) -> None:
    """Raise for a method and a task that make no sense together.

    Raises:
        ConfigError: Says why, and what would.
    """
    passages = [entry for entry in store.examples if isinstance(entry, Passage)]
    if method.needs_passages and not passages:
        raise ConfigError(
            f"{method.name} turns passages into weights, and the store of {task.schema.name} holds solved exemplars",
            fix="Load a corpus (coldframe fit CORPUS --questions FILE), or passages beside the rows (--store FILE).",
        )
    if method.needs_labels and passages:
        raise ConfigError(
            f"{method.name} goes by the labels of what is retrieved, and the passages of {task.schema.name} have none",
            fix="Leave out the passages (--store), or choose another method: coldframe methods.",
        )
    if method.learns_from_task and method.trainable and not method.needs_passages and not task.train:
        raise ConfigError(
            f"{task.schema.name} has no training rows for {method.name}",
            fix="Bring questions with the corpus (field qa), or have some written: --augment.",
        )
