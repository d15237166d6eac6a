"""What a pipeline spends that a simpler method would not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from coldframe.diagnosis.advice import Savings
from coldframe.diagnosis.ladder_plan import Step, plan
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.soft_token_subject import SoftTokenSubject
from coldframe.errors import ModelError
from coldframe.evaluation.cost import counted_flops, prefill_flops
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.methods.base import prompts
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example

#: Queries that operations are averaged over.
COUNTED = 8


def savings_of(subject: PipelineSubject) -> Savings:
    """Parameters, operations and bytes that a pipeline spends on retrieval, and parameters of what could replace it.

    Operations are those of the conditioning, and of the model on entries in the prompt, with what is retrieved minus
    without it. Storage is the entries' texts, their vectors where the method takes vectors, and what the method stores.
    Cost: the conditioning of eight queries, twice.
    """
    pipeline = subject.pipeline
    method, savings = pipeline.method, Savings(parameters=pipeline.method.trained_parameters)
    if isinstance(subject, SoftTokenSubject) and method.trainable:
        steps = {step.name: step for step in plan(method, subject.tokens().shape[1], pipeline.training, {})}
        savings = savings.replace(static_parameters=_size(steps["prompt-tuning"], pipeline))
        if method.uses_encoder:  # which is there already
            savings = savings.replace(query_parameters=_size(steps["query-only"], pipeline))
    if not method.uses_retrieval:
        return savings
    encoder, entries = method.ready.encoder, len(pipeline.store)
    texts = sum(len(text.encode()) for text in pipeline.store.texts)
    vectors = 0 if encoder is None else 4 * encoder.dim * entries
    storage = texts + vectors + round((method.entry_bytes or 0) * entries)
    return savings.replace(storage=storage, flops=_operations(pipeline, subject.examples[:COUNTED]))


def _size(step: Step, pipeline: Pipeline) -> int:
    method = step.job(step.rates[0], 0).build()
    return method.setup(context_of(method, pipeline.lm, pipeline.schema)).trained_parameters


@torch.no_grad()
def _operations(pipeline: Pipeline, examples: Sequence[Example]) -> float | None:
    """Operations per query that retrieval adds; None for an architecture whose operations cannot be counted."""
    method, lm = pipeline.method.eval(), pipeline.lm
    # Trailing spaces: the same work, but no encoder remembers the text.
    fresh = [dataclasses.replace(example, text=example.text + " ") for example in examples]
    texts, nothing = [example.text for example in fresh], Retrieved.nothing(pipeline.store, len(fresh))

    def condition(entries: bool) -> Conditioning:
        if not entries and method.needs_passages:
            return EMPTY
        return method.condition(texts, pipeline.retrieve(fresh) if entries else nothing)

    def spent(entries: bool) -> int:
        conditioning = counted_flops(lambda: condition(entries))  # first: later an encoder remembers the texts
        rows = lm.rows(prompts(pipeline.schema, texts), condition(entries))
        return conditioning + sum(prefill_flops(lm.config, len(row)) for row in rows)

    try:
        return max(0.0, (spent(True) - spent(False)) / len(fresh))
    except ModelError:
        return None
