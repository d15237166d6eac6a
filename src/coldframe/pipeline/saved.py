"""What a pipeline keeps in the manifest of its artifact and finds again: base model, method, what it learned."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe.config import local_path
from coldframe.errors import ArtifactError, ColdframeError, first_line
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.no_model import SOURCE, NoModel
from coldframe.methods.base import Method
from coldframe.methods.registry import create
from coldframe.pipeline.conformal import Conformal
from coldframe.pipeline.setup import context_of
from coldframe.retrieval.encoder_objects import restore, spec_of, specs_in
from coldframe.retrieval.retriever import Retriever
from coldframe.retrieval.store import Store
from coldframe.storage.artifact import MANIFEST, Artifact, Kind
from coldframe.storage.tensors import reading
from coldframe.tasks.task import Schema

if TYPE_CHECKING:
    from coldframe.pipeline.pipeline import Pipeline

STORE = "exemplars.jsonl"
TRAINED = "trained_keys.json"
VECTORS = "exemplar_vectors.safetensors"
NONE = type(None)
NEEDS: Mapping[str, Kind] = {
    "method": str,
    "method_config": dict,
    "base_model.name": str,
    "base_model.weight_hash": str,
    "base_model.dtype": str,
    "base_model.revision": (str, NONE),
    "schema.name": str,
    "schema.kind": str,
    "schema.domain": str,
    "schema.metric": str,
    "schema.labels": list,
    "encoder": (dict, NONE),
    "encoder.spec": (str, NONE),
    "encoder.hash": (str, NONE),
    "store.hash": str,
    "store.size": int,
    "retrieval": dict,
    "training": dict,
    "task": dict,
    "history": list,
    "seconds": (float, int),
    "peak_memory_mb": (float, int, NONE),
    "coldframe_version": str,
    "label_priors": (dict, NONE),
    "label_bias": (list, NONE),
    "calibration_scores": (dict, NONE),
}
"""What the manifest of an artifact holds."""


def manifest_of(pipeline: Pipeline, store: Store) -> dict[str, Any]:
    """All that an artifact remembers of a pipeline beside its files, ready for JSON.

    Args:
        pipeline: Fitted.
        store: What the artifact holds of its store.
    """
    from coldframe import __version__

    method, lm, encoder = pipeline.method, pipeline.lm, pipeline.method.ready.encoder
    return {
        "coldframe_version": __version__,
        "method": method.name,
        "method_config": method.config.to_dict(),
        "schema": pipeline.schema.to_dict(),
        "task": pipeline.task,
        "retrieval": pipeline.retrieval.to_dict(),
        "training": pipeline.training.to_dict(),
        "base_model": {**lm.provenance, "weight_hash": lm.weight_hash, "dtype": str(lm.dtype)},
        "encoder": None if encoder is None else {"spec": encoder.spec, "hash": encoder.hash},
        "encoder_objects": specs_in([method.config.to_dict(), pipeline.retrieval.to_dict()]),
        "store": {"hash": store.hash, "size": len(store)},
        "label_priors": dict(pipeline.priors),
        "label_bias": list(method.label_bias),
        "calibration_scores": None if pipeline.conformal is None else dict(pipeline.conformal.scores),
        "history": pipeline.history,
        "seconds": round(pipeline.seconds, 2),
        "peak_memory_mb": round(pipeline.peak_memory_mb),
        "python": platform.python_version(),
    }


def folder_of(path: str | Path) -> Path:
    """The folder of an artifact; one that is no folder here but may be on the hub is fetched."""
    folder = local_path(path)
    if not folder.exists() and str(path).count("/") == 1:
        from coldframe.storage.hub import download

        return download(str(path))
    return folder


def write_store(home: Path, store: Store, retriever: Retriever | None) -> list[str]:
    """Write the entries, and their vectors where these are searched; the names of the files."""
    store.save(home / STORE)
    if retriever is None or not retriever.searches_vectors:
        return [STORE]
    store.save_vectors(home / VECTORS, retriever.encoder)
    return [STORE, VECTORS]


def read_store(artifact: Artifact) -> Store:
    """The entries, with their vectors where these are kept.

    Raises:
        ArtifactError: They are not those that the artifact was fitted with, or damaged.
    """
    store = Store.load(artifact / STORE)
    if store.hash != artifact.manifest["store"]["hash"]:
        raise ArtifactError("The exemplar store is not the one the artifact was fitted with")
    if VECTORS in artifact.manifest["files"]:
        store.load_vectors(artifact / VECTORS)
    return store


def base_model(config: Mapping[str, Any], lm: FrozenLM | None) -> FrozenLM:
    """The model that an artifact was fitted to: the given one, or loaded by its name; none, if it needs none.

    Raises:
        ArtifactError: It is another one, or has no name to load it by.
    """
    base = config["base_model"]
    if base.get("source") == SOURCE:
        return NoModel()
    if lm is None:
        lm = load_base(base)
    if (weight_hash := lm.hash_as(base["dtype"])) != base["weight_hash"]:
        raise ArtifactError(
            "The artifact was fitted to another base model",
            got=f"{lm.provenance.get('name', 'a model')} ({weight_hash[:12]})",
            expected=f"{base['name']} ({base['weight_hash'][:12]}), loaded as {base['dtype']}",
        )
    return lm


def load_base(base: Mapping[str, Any], **options: Any) -> FrozenLM:
    """The model that a manifest names, loaded as it was when the artifact was fitted.

    Args:
        base: ``base_model`` of the manifest.
        **options: Further ones of :func:`coldframe.load_lm`.

    Raises:
        ArtifactError: It has no name to load it by.
    """
    if base.get("source") == "memory":
        raise ArtifactError(
            f"The artifact was fitted to a {base['name']} that was made in memory and has no name to load it by",
            fix="Pass the model: coldframe.load(path, lm).",
        )
    return load_lm(base["name"], dtype=base["dtype"].removeprefix("torch."), revision=base.get("revision"), **options)


def find_encoders(config: Mapping[str, Any], encoder: object) -> None:
    """Find the encoders that were passed as objects when an artifact was fitted.

    Args:
        config: The manifest.
        encoder: An object in the place of one of them, a list of such objects, or None.

    Raises:
        ArtifactError: One is absent, or gives other vectors.
    """
    specs = config.get("encoder_objects", {})
    if not isinstance(specs, dict) or not all(isinstance(source, str | None) for source in specs.values()):
        raise ArtifactError("The artifact does not say which encoders it needs", got=repr(specs)[:80], fix="Fit again.")
    for item in encoder if isinstance(encoder, list | tuple) else [] if encoder is None else [encoder]:
        if (spec := spec_of(item)) not in specs:
            raise ArtifactError(
                f"The artifact was not fitted with this encoder ({type(item).__name__}), or it gives other vectors now",
                got=spec,
                expected=", ".join(specs) or "no object: the artifact loads its encoder by name",
            )
    try:
        restore(specs)
    except ColdframeError as error:
        raise ArtifactError(
            f"The artifact needs the encoder that it was fitted with ({error})",
            fix="Pass the object: coldframe.load(path, encoder=...).",
        ) from error


def method_of(artifact: Artifact, lm: FrozenLM, schema: Schema) -> Method:
    """The method of an artifact, set up for the model, with what it learned.

    Raises:
        ArtifactError: Its encoder is another one, its settings claim more memory than there is, or its files do not
            fit.
    """
    config = artifact.manifest
    method = create(config["method"], config["method_config"])
    context = context_of(method, lm, schema)
    fitted_with = (config["encoder"] or {}).get("hash")
    if context.encoder is not None and context.encoder.hash != fitted_with:
        raise ArtifactError(
            f"The encoder {context.encoder.spec!r} is not the one the artifact was fitted with",
            got=context.encoder.hash,
            expected=fitted_with,
        )
    try:
        method.setup(context)
    except (MemoryError, RuntimeError) as error:
        raise ArtifactError(
            f"The settings of {method.name} in the artifact need more memory than there is: {first_line(error)}",
            got=config["method_config"],
        ) from error
    method.load(artifact)
    method.label_bias = numbers_of(artifact, config.get("label_bias") or ())
    return method.eval()


def numbers_of(artifact: Artifact, values: Sequence[Any]) -> list[float]:
    """Numbers of a manifest.

    Raises:
        ArtifactError: They are none.
    """
    with reading(artifact.folder / MANIFEST):
        return [float(value) for value in values]


def conformal_of(artifact: Artifact, schema: Schema) -> Conformal | None:
    """The calibration scores of a manifest; None where there are none.

    Raises:
        ArtifactError: They are of other labels, or no scores.
    """
    scores = artifact.manifest.get("calibration_scores")
    if scores is None:
        return None
    with reading(artifact.folder / MANIFEST, fix="Fit again."):
        if scores.keys() != {*schema.labels}:
            raise ValueError("calibration_scores are not of the task's labels")
        return Conformal({label: [float(score) for score in scores[label]] for label in schema.labels})
