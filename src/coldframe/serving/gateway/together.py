"""Requests that arrive together, answered together: of one adapter in one call, of many in one forward pass.

Methods that change weights, heads or positions, those that write, and those that need no model are run one adapter
after another; :mod:`coldframe.serving.gateway.stacking` has the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from coldframe.frozen.ports import Conditioning
from coldframe.inference.run import run
from coldframe.methods.base import prompts
from coldframe.serving.gateway.batcher import Job
from coldframe.serving.gateway.jobs import Answers, Query, Share, Work
from coldframe.serving.gateway.stacking import Rows, scored, stacks, tokens_read
from coldframe.serving.gateway.store_edits import retrieve

T = TypeVar("T")


@torch.no_grad()
def answer(jobs: Sequence[Job]) -> None:
    """Answer jobs: every one gets its answer or its own error, whatever becomes of those beside it."""
    shares = list(_shares(job for job in jobs if isinstance(job, Query)))
    rows = [rows for share in shares if stacks(share.adapter) for rows in _ready(share)]
    for group in _grouped(rows, lambda rows: (id(rows.share.adapter.pipeline.lm), rows.group)):
        _deliver(group)
    for share in shares:
        if not stacks(share.adapter):
            _run(share)
    for job in jobs:
        if isinstance(job, Work):
            try:
                job.future.set_result(job.call())
            except Exception as error:
                job.future.set_exception(error)
    for lm in {id(share.adapter.pipeline.lm): share.adapter.pipeline.lm for share in shares}.values():
        if lm.states.full:  # it takes no more, and what comes next is as likely to come again
            lm.states.clear()


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _shares(jobs: Iterable[Query]) -> Iterator[Share]:
    """Requests whose inputs can be read, by adapter; the others get their errors."""
    pairs = []
    for job in jobs:
        try:
            pairs.append((job, job.adapter.pipeline.queries(job.texts)))
        except Exception as error:
            job.future.set_exception(error)
    for group in _grouped(pairs, lambda pair: id(pair[0] if pair[0].stands_alone else pair[0].adapter)):
        yield Share([job for job, _ in group], [examples for _, examples in group])


def _ready(share: Share) -> list[Rows]:
    """The rows of a share; where that fails, those of each of its requests for which it does not."""
    try:
        return [Rows.of(share)]
    except Exception as error:
        if len(share.jobs) > 1:
            return [rows for part in share.split() for rows in _ready(part)]
        share.fail(error)
        return []


def _deliver(group: Sequence[Rows]) -> None:
    """Answer a group; where that fails, each of its requests alone."""
    try:
        answers = scored(group)
    except Exception as error:
        if sum(len(rows.share.jobs) for rows in group) == 1:
            group[0].share.fail(error)
            return
        for part in [part for rows in group for part in rows.share.split()]:
            for rows in _ready(part):
                _deliver([rows])
        return
    for rows, part_answers in zip(group, answers, strict=True):
        rows.share.deliver(part_answers)


def _run(share: Share) -> None:
    """Answer a share in a call of its own; where that fails, each of its requests."""
    try:
        answers = _outcome(share)
    except Exception as error:
        if len(share.jobs) == 1:
            share.fail(error)
            return
        for part in share.split():
            _run(part)
        return
    share.deliver(answers)


def _outcome(share: Share) -> Answers:
    pipeline, job = share.adapter.pipeline, share.jobs[0]
    method, schema = pipeline.method, pipeline.schema
    texts = [example.text for example in share.queries]
    retrieved = retrieve(pipeline, share.queries, job.overrides)
    outcome = run(method, pipeline.lm, schema, texts, retrieved, max_new_tokens=job.max_new_tokens)
    tokens: tuple[int, ...] = (0,) * len(texts)
    if method.reads_model:
        read = tokens_read(
            share.adapter, prompts(schema, texts), Conditioning(contexts=method.contexts(texts, retrieved))
        )
        tokens = tuple(count + method.soft_token_count for count in read)
    return Answers(share.adapter, outcome.probabilities, outcome.attention, outcome.generated, retrieved, tokens)
