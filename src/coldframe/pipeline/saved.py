"""What a pipeline finds again in its artifact: the base model, and the method with what it learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coldframe.config import local_path
from coldframe.errors import ArtifactError, first_line
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.methods.base import Method
from coldframe.methods.registry import create
from coldframe.pipeline.setup import context_of
from coldframe.storage.artifact import Artifact
from coldframe.tasks.task import Schema

STORE = "exemplars.jsonl"
TRAINED = "trained_keys.json"
SECTIONS = ("base_model", "schema", "method_config", "retrieval", "training", "store")


def folder_of(path: str | Path) -> Path:
    """The folder of an artifact; one that is no folder here but may be on the hub is fetched."""
    folder = local_path(path)
    if not folder.exists() and str(path).count("/") == 1:
        from coldframe.storage.hub import download

        return download(str(path))
    return folder


def base_model(config: Mapping[str, Any], lm: FrozenLM | None) -> FrozenLM:
    """The model that an artifact was fitted to: the given one, or loaded by its name.

    Raises:
        ArtifactError: It is another one, or has no name to load it by.
    """
    base = config["base_model"]
    if lm is None and base.get("source") == "memory":
        raise ArtifactError(
            f"The artifact was fitted to a {base['name']} that was made in memory and has no name to load it by",
            fix="Pass the model: coldframe.load(path, lm).",
        )
    if lm is None:
        lm = load_lm(base["name"], dtype=base["dtype"].removeprefix("torch."), revision=base.get("revision"))
    if lm.weight_hash != base["weight_hash"]:
        raise ArtifactError(
            "The artifact was fitted to another base model",
            got=f"{lm.provenance.get('name', 'a model')} ({lm.weight_hash[:12]})",
            expected=f"{base['name']} ({base['weight_hash'][:12]}), loaded as {base['dtype']}",
        )
    return lm


def method_of(artifact: Artifact, lm: FrozenLM, schema: Schema) -> Method:
    """The method of an artifact, set up for the model, with what it learned.

    Raises:
        ArtifactError: Its encoder is another one, its settings claim more memory than there is, or its files do not
            fit.
    """
    config = artifact.manifest
    method = create(config["method"], config["method_config"])
    context = context_of(method, lm, schema)
    if context.encoder is not None and context.encoder.hash != config["encoder"]["hash"]:
        raise ArtifactError(
            f"The encoder {context.encoder.spec!r} is not the one the artifact was fitted with",
            got=context.encoder.hash,
            expected=config["encoder"]["hash"],
        )
    try:
        method.setup(context)
    except (MemoryError, RuntimeError) as error:
        raise ArtifactError(
            f"The settings of {method.name} in the artifact need more memory than there is: {first_line(error)}",
            got=config["method_config"],
        ) from error
    method.load(artifact)
    method.label_bias = config.get("label_bias", ())
    return method.eval()
