"""What a pipeline spends that a simpler method would not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from coldframe.diagnosis.advice import Savings
from coldframe.diagnosis.ladder_plan import Step, plan
from coldframe.diagnosis.pipeline_subject import PipelineSubject, SoftTokenSubject
from coldframe.errors import ModelError
from coldframe.evaluation.cost import counted_flops, prefill_flops
from coldframe.methods.base import prompts
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example

#: Queries that operations are averaged over.
COUNTED = 8


def savings_of(subject: PipelineSubject) -> Savings:
    """Parameters, operations and bytes that a pipeline spends on retrieval, and parameters of what could replace it.

    Operations are those of the conditioning, and of the model on exemplars in the prompt, with what is retrieved
    minus without it. Storage is that of the entries' texts, and of their vectors where the method takes vectors.

    Args:
        subject: The pipeline and its queries.

    Cost: the conditioning of eight queries, twice; the simpler methods are built and not trained.
    """
    pipeline = subject.pipeline
    method, found = pipeline.method, Savings(parameters=_parameters(pipeline.method))
    if isinstance(subject, SoftTokenSubject) and method.trainable:
        steps = {step.name: step for step in plan(method, subject.tokens().shape[1], pipeline.training, {})}
        found = found.replace(static_parameters=_size(steps["prompt-tuning"], pipeline))
        if method.uses_encoder:  # which is there already
            found = found.replace(query_parameters=_size(steps["query-only"], pipeline))
    if not method.uses_retrieval:
        return found
    texts = sum(len(text.encode()) for text in pipeline.store.texts)
    encoder = method.ready.encoder
    vectors = 0 if encoder is None else 4 * encoder.dim * len(pipeline.store)
    flops = _operations(pipeline, subject.examples[:COUNTED])
    return dataclasses.replace(found, storage=texts + vectors, flops=flops)


def _size(step: Step, pipeline: Pipeline) -> int:
    method = step.job(step.rates[0], 0).build()
    return _parameters(method.setup(context_of(method, pipeline.lm, pipeline.schema)))


def _parameters(method: torch.nn.Module) -> int:
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


@torch.no_grad()
def _operations(pipeline: Pipeline, examples: Sequence[Example]) -> float | None:
    """Operations per query that retrieval adds; None for an architecture whose operations cannot be counted."""
    # Trailing spaces: the same work, but no encoder remembers the text.
    fresh = [dataclasses.replace(example, text=example.text + " ") for example in examples]
    texts, nothing = [example.text for example in fresh], Retrieved.nothing(pipeline.store, len(fresh))
    condition = pipeline.method.eval().condition
    made = counted_flops(lambda: condition(texts, pipeline.retrieve(fresh))) - counted_flops(
        lambda: condition(texts, nothing)
    )
    asked, config = prompts(pipeline.schema, texts), pipeline.lm.model.config
    with_them, without = (
        pipeline.lm.rows(asked, condition(texts, found)) for found in (pipeline.retrieve(fresh), nothing)
    )
    try:
        read = sum(
            prefill_flops(config, len(long)) - prefill_flops(config, len(short))
            for long, short in zip(with_them, without, strict=True)
        )
    except ModelError:
        return None
    return max(0.0, (made + read) / len(fresh))
