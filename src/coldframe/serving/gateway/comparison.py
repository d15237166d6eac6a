"""One input answered in several ways, side by side; and what becomes of an answer without each passage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from coldframe.diagnosis.queries import in_prompt
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.inference.run import run
from coldframe.methods.base import Method, prompts
from coldframe.methods.registry import create
from coldframe.pipeline.setup import context_of
from coldframe.serving.gateway.adapters import Adapter
from coldframe.serving.gateway.jobs import record_of
from coldframe.serving.gateway.stacking import tokens_read
from coldframe.serving.gateway.store_edits import Overrides, retrieve
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example

Record = dict[str, Any]


def side_by_side(adapter: Adapter, text: str, overrides: Overrides) -> list[Record]:
    """The adapter's answer, the base model's, and that of retrieved in-context learning with the same exemplars.

    Every way is timed from nothing read; retrieval is not counted, for it is the same for all.
    """
    pipeline = adapter.pipeline
    (query,) = pipeline.queries([text])
    retrieved = retrieve(pipeline, [query], overrides)
    ways: list[tuple[str, Method]] = [("adapter", pipeline.method)]
    if pipeline.method.reads_model:
        others = ["zero-shot"] + ["icl"] * (pipeline.retriever is not None)
        for name in others:
            if name != pipeline.method.name:
                method = create(name, {"k": max(retrieved.k, 1)} if name == "icl" else {})
                ways.append((name, method.setup(context_of(method, pipeline.lm, pipeline.schema)).eval()))
    records = []
    for way, method in ways:
        pipeline.lm.states.clear()  # what one way has read does not serve the next
        started = time.perf_counter()
        outcome = run(method, pipeline.lm, pipeline.schema, [query.text], retrieved)
        milliseconds = 1000 * (time.perf_counter() - started)
        record = {"way": way, "method": method.name, **record_of(adapter, outcome, 0)}
        tokens = _tokens(adapter, method, query, retrieved)
        records.append({**record, "tokens": tokens, "milliseconds": round(milliseconds, 2)})
    return records


def _tokens(adapter: Adapter, method: Method, query: Example, retrieved: Any) -> int:
    if not method.reads_model:
        return 0
    schema, contexts = adapter.pipeline.schema, method.contexts([query.text], retrieved)
    (read,) = tokens_read(adapter, prompts(schema, [query.text]), Conditioning(contexts=contexts))
    return read + method.soft_token_count


@torch.no_grad()
def without_each(adapter: Adapter, question: str, passages: Sequence[str], max_tokens: int) -> list[Record]:
    """What the base model writes with all passages, with none, and without each; and how likely its first answer is.

    ``p = exp(1/T sum_t log p(a_t | a_<t, passages, question))`` of the T tokens of the answer that all passages give,
    with what ends it.

    Raises:
        ConfigError: The adapter has no language model.
    """
    lm = adapter.pipeline.lm
    if not adapter.pipeline.method.reads_model:
        raise ConfigError("This adapter has no language model that could answer", fix="Choose another adapter.")
    cases: list[tuple[int | None, list[str]]] = [(None, [*passages]), (None, [])]
    if len(passages) > 1:
        cases += [(i, [text for j, text in enumerate(passages) if j != i]) for i in range(len(passages))]
    contexts = tuple(in_prompt(QUESTION, texts) for _, texts in cases)
    questions = [Prompt(QUESTION.query(question), QUESTION.header, QUESTION.end)] * len(cases)
    conditioning = Conditioning(contexts=contexts)
    (full,) = lm.generate(questions[:1], Conditioning(contexts=contexts[:1]), max_new_tokens=max_tokens)
    shares: list[float | None] = [None] * len(cases)
    if full.strip():
        answer = QUESTION.answer(full.strip())
        losses, texts = lm.answer(questions, [[answer]] * len(cases), conditioning, max_new_tokens=max_tokens)
        length = len(lm.answer_tokens(answer, QUESTION.end))
        shares = np.exp(-losses[:, 0].double().cpu().numpy() / length).tolist()
    else:
        texts = lm.generate(questions, conditioning, max_new_tokens=max_tokens)
    return [
        {"left_out": left_out, "passages": len(own), "answer": text.strip(), "probability": share}
        for (left_out, own), text, share in zip(cases, texts, shares, strict=True)
    ]
