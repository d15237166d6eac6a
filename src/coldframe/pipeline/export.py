"""What was learned, for other libraries and servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coldframe import __version__
from coldframe.config import local_path
from coldframe.errors import ConfigError, nearest
from coldframe.frozen.base_name import base_of
from coldframe.methods.export import ExportRequest, prompt_facts, why_no_form
from coldframe.methods.forms import Form
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.store import Retrieved
from coldframe.storage.files import atomic_path, write_json
from coldframe.storage.folders import exclusive

ABOUT = "coldframe_export.json"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        form: ``peft``, ``gguf``, ``sglang``, ``safetensors``, ``checkpoint`` or ``prompts``.
        notes: What a server needs to know: the base model, the rank, its flags.
    """

    folder: Path
    form: Form
    notes: tuple[str, ...]


def export(
    pipeline: Pipeline,
    out: str | Path,
    *,
    queries: Sequence[str] = (),
    entries: Sequence[str] = (),
    form: Form | None = None,
    share_rows: bool = False,
) -> Exported:
    """Write what a pipeline learned in a form that other libraries and servers load.

    Low-rank updates leave as PEFT folders, GGUF files with scales, or tensors with their config; soft tokens as
    safetensors, and a prompt that stands before the text also as PEFT's; head gains in an ordinary checkpoint; methods
    that only write prompts as these. What depends on the query is written for the queries that are named.

    Args:
        pipeline: Fitted.
        out: A folder that does not exist.
        queries: Inputs whose adapters, soft tokens or prompts are wanted; several adapters get a folder each.
        entries: Ids of store entries in their place: the adapter of one passage, or of several combined.
        form: One of the method's; its usual one if None.
        share_rows: Yes, rows of the store may leave this machine as text. Only prompts hold any.

    Raises:
        ConfigError: The method has no such form, or none; rows would leave the machine and nobody said that they may;
            or the folder exists.
        DataError: A query or an entry cannot be used.

    Example:
        >>> import coldframe as cf
        >>> cf.load("runs/facts").export("runs/its-lora", entries=["page-3"]).notes     # doctest: +SKIP
    """
    method, folder = pipeline.method, local_path(out)
    if not method.forms:
        raise ConfigError(why_no_form(method), fix="Take the artifact itself: save_pretrained, push_to_hub.")
    if form is not None and form not in method.forms:
        raise ConfigError(f"{method.name} has no form {form!r}", fix=nearest(form, method.forms))
    if queries and entries:
        raise ConfigError("An export is of queries or of entries", got="both", expected="one of them")
    if entries and "gguf" not in method.forms:
        raise ConfigError(f"{method.name} learns nothing for single entries", fix="Name queries.")
    examples = pipeline.queries(queries)
    retrieved = pipeline.retrieve(examples) if examples else Retrieved.nothing(pipeline.store, 1)
    texts = tuple(example.text for example in examples)
    request = ExportRequest(form or method.forms[0], folder, texts, retrieved, tuple(entries), share_rows)
    with exclusive(folder):
        if folder.exists():
            raise ConfigError(f"{folder} exists already", fix="Choose another folder: an export overwrites nothing.")
        was_training = method.training
        method.eval()
        try:
            with atomic_path(folder) as temporary:
                notes = tuple(method.export(temporary, request))
                write_json(temporary / ABOUT, _about(pipeline, request, notes), indent=2)
        finally:
            method.train(was_training)
    return Exported(folder, request.form, notes)


def _about(pipeline: Pipeline, request: ExportRequest, notes: Sequence[str]) -> dict[str, Any]:
    """What another program needs: the base model, how a query becomes a prompt, which file is whose."""
    return {
        "coldframe_version": __version__,
        "method": pipeline.method.name,
        "form": request.form,
        "base_model": {**base_of(pipeline.lm), "weight_hash": pipeline.lm.weight_hash},
        "prompt": prompt_facts(pipeline.method),
        "queries": dict(zip(request.names, request.queries, strict=True)),
        "entries": list(request.entries),
        "notes": list(notes),
    }
