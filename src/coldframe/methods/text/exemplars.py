"""Exemplars as text: how they are rendered for the text port."""

from __future__ import annotations

from collections.abc import Iterable

from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Schema


def rendered(schema: Schema, examples: Iterable[Example]) -> tuple[str, ...]:
    """Entries as prompt text, one block each."""
    return tuple(map(schema.rendered, examples))


def contexts(schema: Schema, retrieved: Retrieved, k: int) -> tuple[tuple[str, ...], ...]:
    """For each query its first ``k`` exemplars, farthest first: the nearest stands next to the query."""
    return tuple(rendered(schema, reversed(retrieved.examples(row)[:k])) for row in range(len(retrieved)))
