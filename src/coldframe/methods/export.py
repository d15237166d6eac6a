"""What leaves this machine for other libraries and servers: the forms, what is asked for, and what is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coldframe.errors import ConfigError
from coldframe.methods.forms import Form
from coldframe.retrieval.store import Retrieved
from coldframe.storage.files import write_json, write_text
from coldframe.storage.tensors import write_tensors

if TYPE_CHECKING:
    from coldframe.methods.base import Method

WEIGHTS, SOFT_TOKENS, PROMPTS, README = "weights.safetensors", "soft_tokens.safetensors", "prompts.json", "README.md"


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        form: One of the method's forms.
        out: The folder's name once all is written, for what is said about it.
        queries: Inputs as the method reads them, for what depends on the query.
        retrieved: What was retrieved for each.
        entries: Ids of entries of the store whose adapter is wanted, in the place of queries.
        share_rows: Whether exemplars or passages may leave the machine as text.
    """

    form: Form
    out: Path
    queries: tuple[str, ...]
    retrieved: Retrieved
    entries: tuple[str, ...] = ()
    share_rows: bool = False

    @property
    def names(self) -> list[str]:
        """A name for each query: of its tensor, or of its folder."""
        return [f"query-{number}" for number in range(1, len(self.queries) + 1)]


def forms_of(method: Method) -> tuple[Form, ...]:
    """The forms of a method by its port, the usual one first; none where only coldframe can run it."""
    if not method.reads_model:
        return ()
    if method.port == "soft tokens":
        return ("safetensors",)
    asks_only = not method.trainable and method.port in (None, "text")
    return ("prompts",) if asks_only else ()


def why_no_form(method: Method) -> str:
    """Why only coldframe can run a method."""
    if not method.reads_model:
        return f"{method.name} scores the labels itself, without a language model: a server has nothing to load"
    if method.port == "positions":
        return f"{method.name} changes how positions are read, which no file of weights can say"
    return f"{method.name} has no form that other libraries load"


def write_export(method: Method, folder: Path, request: ExportRequest) -> list[str]:
    """Write prompts or soft tokens into a new folder; returns what to know of them."""
    folder.mkdir(parents=True)
    if request.form == "prompts":
        return _write_prompts(method, folder, request)
    return _write_soft_tokens(method, folder, request)


def _write_prompts(method: Method, folder: Path, request: ExportRequest) -> list[str]:
    if method.uses_retrieval and not request.queries:
        raise ConfigError(f"A prompt of {method.name} depends on the query", fix="Name queries (--query).")
    prompts = rendered_prompts(method, request)
    write_json(folder / PROMPTS, prompts)
    return [f"{len(prompts)} prompts in {PROMPTS}, as text for any server; an answer begins with a blank."]


def rendered_prompts(method: Method, request: ExportRequest) -> list[dict[str, str]]:
    """The queries with the text that the model reads for each, without BOS and without soft tokens.

    Raises:
        ConfigError: Rows of the store stand in them, and nobody said that they may leave the machine.
    """
    template = method.ready.schema.template
    contexts = method.contexts(request.queries, request.retrieved) or ((),) * len(request.queries)
    if any(contexts) and not request.share_rows:
        raise ConfigError(
            f"Rows of the store would leave this machine in the prompts of {method.name}",
            fix="If they may, pass share_rows=True (--share-rows).",
        )
    return [
        {"name": name, "query": text, "prompt": template.header + "".join(blocks) + template.query(text)}
        for name, text, blocks in zip(request.names, request.queries, contexts, strict=True)
    ]


@torch.no_grad()
def _write_soft_tokens(method: Method, folder: Path, request: ExportRequest) -> list[str]:
    weights = method.state_dict()
    write_tensors(folder / WEIGHTS, weights)
    fixed = not (method.uses_query or method.uses_retrieval)
    tensors: dict[str, Tensor] = {}
    if request.queries:
        conditioning = method.condition(request.queries, request.retrieved)
        assert conditioning.soft_tokens is not None  # the port that the method says it fills
        rows = conditioning.soft_tokens.expand(len(request.queries), -1, -1)
        tensors = dict(zip(request.names, rows, strict=True))
        write_json(folder / PROMPTS, rendered_prompts(method, request))
    elif fixed:
        conditioning = method.condition([""], request.retrieved)
        assert conditioning.soft_tokens is not None
        tensors = {"every-query": conditioning.soft_tokens.reshape(-1, conditioning.soft_tokens.shape[-1])}
    if tensors:
        write_tensors(folder / SOFT_TOKENS, tensors)
    placement = str(method.config.to_dict()["placement"])
    write_text(folder / README, _page(method, placement, weights, tensors))
    note = (
        f"{len(tensors)} soft prompts in {SOFT_TOKENS}." if tensors else "No query was named: weights only (--query)."
    )
    place = "after BOS and before the text" if placement == "prefix" else "after the text and before the answer"
    return [note, f"They stand {place}, as rows of inputs_embeds (vLLM: prompt_embeds)."]


def _page(method: Method, placement: str, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """The README of soft tokens: what stands where, and in which shape."""
    order = "[BOS] [soft tokens] [text]" if placement == "prefix" else "[BOS] [text] [soft tokens]"
    blank = "" if method.ready.lm.bos else " This tokenizer puts no BOS."
    encoder = method.ready.encoder
    lines = [
        f"# Soft tokens of {method.name}",
        "",
        f"The model reads `{order}`, then the answer, which begins with a blank.{blank} Soft tokens are rows of",
        "`inputs_embeds`: the text's rows are what the model's embedding layer gives for its tokens, scale included.",
        f"`{PROMPTS}`, where it is there, has the text of each query.",
        "",
    ]
    if tensors:
        lines += [f"`{SOFT_TOKENS}`, one tensor for each query:", "", *_shapes(tensors), ""]
    lines += [f"`{WEIGHTS}`, what the method learned (see the method's page for its equation):", "", *_shapes(weights)]
    if encoder is not None:
        lines += ["", f"Soft tokens of new queries take the encoder `{encoder.spec}`, which is not here."]
    if method.uses_retrieval:
        lines += ["", "They take the store as well, which is not here: no row of it leaves with these weights."]
    return "\n".join(lines) + "\n"


def _shapes(tensors: Mapping[str, Tensor]) -> list[str]:
    head = ["| tensor | shape | dtype |", "|---|---|---|"]
    rows = (
        f"| `{name}` | {list(tensor.shape)} | {str(tensor.dtype).removeprefix('torch.')} |"
        for name, tensor in tensors.items()
    )
    return [*head, *rows]


def prompt_facts(method: Method) -> dict[str, Any]:
    """How a query becomes a prompt and an answer, without any row."""
    schema = method.ready.schema
    return {
        "header": schema.template.header,
        "query": schema.template.body,
        "answers": [schema.template.answer(word) for word in schema.words],
        "labels": list(schema.labels),
        "end": schema.template.end,
        "label_bias": list(method.label_bias),
    }
