"""What a method costs on a task, measured on some of its queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch

from coldframe.errors import ModelError
from coldframe.evaluation.cost import Cost, counted_flops, latency, prefill_flops
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.states import Row, StateCache
from coldframe.inference.run import run
from coldframe.methods.base import Method, prompts
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Schema

ROWS = 64  # queries that token counts and operations are averaged over
COUNTED = 8  # queries whose encoding is counted: counting runs without fused kernels
TOGETHER = 8  # queries answered at once while memory is watched


@torch.no_grad()
def measure(
    method: Method,
    lm: FrozenLM,
    schema: Schema,
    examples: Sequence[Example],
    retrieve: Callable[[Sequence[Example]], Retrieved],
    *,
    repeats: int = 20,
    seconds: float = 1.0,
) -> Cost:
    """Cost of answering new queries one at a time, as a server would.

    Text that all queries share (the instruction, fixed exemplars) is read once and not counted per query.
    Trained and untrained weights cost the same.

    The first ``ROWS`` examples are the queries; latency is the median of ``repeats`` predictions, or of fewer where
    these take longer than ``seconds``.
    """
    examples = examples[:ROWS]
    was_training, states = method.training, lm.states
    method.eval()
    lm.states = StateCache(device=lm.device)
    try:
        retrieved = retrieve(examples)
        conditioning = method.condition([e.text for e in examples], retrieved)
        tokens, per_query, shared = 0.0, None, None
        if method.reads_model:
            rows = lm.rows(prompts(schema, [e.text for e in examples]), conditioning)
            tokens, per_query, shared = _prefill(lm, rows, conditioning)
        fresh = _unseen(examples)
        counted = [next(fresh) for _ in range(min(COUNTED, len(examples)))]
        encoder = counted_flops(lambda: method.condition([e.text for e in counted], retrieve(counted)))

        def predict() -> None:
            query = next(fresh)
            run(method, lm, schema, [query.text], retrieve([query]))

        reset_peak_memory()
        run(method, lm, schema, [e.text for e in examples[:TOGETHER]], retrieved.rows(slice(TOGETHER)))
        peak = peak_memory_mb(str(lm.device))
        median, p90 = latency(predict, repeats=repeats, warm_up=1, seconds=seconds)  # all is warm from what was before
    finally:
        lm.states = states
        method.train(was_training)
    return Cost(
        trainable_parameters=method.trained_parameters,
        context_tokens=tokens,
        prefill_flops=per_query,
        shared_flops=shared,
        encoder_flops=encoder / len(counted),
        latency_ms=median,
        latency_p90_ms=p90,
        peak_memory_mb=peak,
    )


def _prefill(lm: FrozenLM, rows: Sequence[Row], conditioning: Conditioning) -> tuple[float, float | None, float | None]:
    """Mean context tokens, mean prefill operations per query, and those spent once on shared text."""
    soft = 0 if conditioning.soft_tokens is None else conditioning.soft_tokens.shape[-2]
    tokens = sum(len(row) + soft for row in rows) / len(rows)
    # States of text that follows a soft token, or passes changed weights, are not the base model's: nothing is shared.
    whole = conditioning.changes_backbone or (soft > 0 and conditioning.placement == "prefix")
    shared = 0 if whole or len({row.shared for row in rows}) > 1 else len(rows[0].shared)
    config = lm.config
    try:
        queries = [prefill_flops(config, len(row) + soft - shared, cached=shared) for row in rows]
        return tokens, sum(queries) / len(rows), float(prefill_flops(config, shared, positions=0))
    except ModelError:  # an architecture without a formula
        return tokens, None, None


def _unseen(examples: Sequence[Example]) -> Iterator[Example]:
    """The queries without end, each with further trailing spaces: the same work, but no memo knows the text."""
    for i in count():
        example = examples[i % len(examples)]
        yield dataclasses.replace(example, text=example.text + " " * (1 + i // len(examples)))
