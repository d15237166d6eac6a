"""The folder that ``coldframe encode`` writes: adapters, the passages they stand for, and what they depend on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from coldframe.config import Config
from coldframe.errors import ArtifactError, ConfigError, nearest
from coldframe.frozen.model import FrozenLM
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig
from coldframe.methods.weight_deltas.poly_prag import PolyPRAGConfig
from coldframe.methods.weight_deltas.prag import PRAGConfig
from coldframe.parametric.banks import HYPERNETWORK, SHARDS, AdapterShards, Bank, GeneratedAdapters, RoutedBank
from coldframe.storage.files import atomic_path, sha256_of
from coldframe.tasks.corpus import Corpus, read_corpus, write_corpus

FORMAT = 1
CONFIG, QUESTIONS, AUGMENTATIONS, TRAINING = "encoded.json", "questions.jsonl", "augmentations.jsonl", "training"
EncodingConfig: TypeAlias = PRAGConfig | PolyPRAGConfig | DyPRAGConfig
METHODS: dict[str, type[EncodingConfig]] = {"prag": PRAGConfig, "poly-prag": PolyPRAGConfig, "dyprag": DyPRAGConfig}


def method_config(method: str, settings: Mapping[str, Any]) -> EncodingConfig:
    """Settings of a method that encodes a corpus.

    Raises:
        ConfigError: There is no such method, or no such setting.
    """
    if method not in METHODS:
        raise ConfigError(f"No method {method!r} encodes a corpus", fix=nearest(method, METHODS))
    return METHODS[method].from_dict(settings)


@dataclasses.dataclass(frozen=True)
class Described:
    """All of the folder but tensors and passages.

    Attributes:
        method: ``"prag"``, ``"poly-prag"`` or ``"dyprag"``.
        config: Its settings.
        layout: How an adapter's numbers lie.
        base_model: Provenance and weight hash.
        extra: Counts, seconds, failures and so on, for reports.
        corpus: Name, hash, size and source of the corpus.
        files: Checksums by name.
    """

    method: str
    config: EncodingConfig
    layout: Layout
    base_model: Mapping[str, Any]
    extra: Mapping[str, Any]
    corpus: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def method_name(config: EncodingConfig) -> str:
    """As on the command line."""
    return next(name for name, cls in METHODS.items() if cls is type(config))


def bank_name(corpus: Corpus) -> str:
    """The file of Poly-PRAG's bank. Its name says which passages it knows, so that a new one stands beside the old."""
    return f"bank-{corpus.hash}.safetensors"


def embeddings_name(corpus: Corpus) -> str:
    """The file of the embeddings that DyPRAG's hypernetwork reads, named like :func:`bank_name`."""
    return f"embeddings-{corpus.hash}.safetensors"


def write_described(folder: Path, described: Described, corpus: Corpus) -> None:
    """Write passages and description, which comes last and names the files: until then the old ones are in force."""
    passages = f"passages-{corpus.hash}.jsonl"
    with atomic_path(folder / passages) as path:
        write_corpus(path, corpus)
    weights = {"poly-prag": [bank_name(corpus)], "dyprag": [HYPERNETWORK, embeddings_name(corpus)]}
    names = [passages, *weights.get(described.method, [])]
    values = {
        "format": FORMAT,
        "method": described.method,
        "method_config": described.config.to_dict(),
        "layout": described.layout.to_dict(),
        "base_model": dict(described.base_model),
        "corpus": {"name": corpus.name, "hash": corpus.hash, "passages": len(corpus), "source": dict(corpus.source)},
        **described.extra,
        "files": {name: sha256_of(folder / name) for name in names},
    }
    with atomic_path(folder / CONFIG) as path:
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for pattern in ("passages-*.jsonl", "bank-*.safetensors", "embeddings-*.safetensors"):
        for old in folder.glob(pattern):
            if old.name not in names:
                old.unlink()


def read_described(folder: Path) -> Described | None:
    """The description of a finished folder; None where there is none.

    Raises:
        ArtifactError: It is damaged or of a newer format.
    """
    if not (folder / CONFIG).is_file():
        return None
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if int(values["format"]) > FORMAT:
            raise ArtifactError("The corpus was encoded by a newer coldframe", got=values["format"], fix="Upgrade.")
        config = method_config(values["method"], values["method_config"])
        parts = {key: dict(values[key]) for key in ("base_model", "corpus", "files")}
        known = {"format", "method", "method_config", "layout", *parts}
        extra = {key: value for key, value in values.items() if key not in known}
        return Described(values["method"], config, Layout.from_dict(values["layout"]), extra=extra, **parts)
    except ArtifactError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / CONFIG} is damaged: {error}", fix="Encode again.") from error


def read_folder(folder: Path) -> tuple[Described, Corpus, Bank]:
    """Read and verify what ``coldframe encode`` wrote.

    Raises:
        ArtifactError: It is absent, not finished, damaged, changed or of a newer format.
    """
    described = read_described(folder)
    if described is None:
        started = any((folder / name).exists() for name in (AUGMENTATIONS, SHARDS, TRAINING))
        fix = "Run the same coldframe encode again: it goes on." if started else "Give what coldframe encode wrote."
        raise ArtifactError(f"{folder} holds no encoded corpus", expected=f"a folder with {CONFIG}", fix=fix)
    for file, checksum in described.files.items():
        if not (folder / file).is_file() or sha256_of(folder / file) != checksum:
            raise ArtifactError(f"{folder / file} is not the file that was saved", fix="Encode again.")
    about = described.corpus
    corpus = read_corpus(folder / f"passages-{about['hash']}.jsonl")
    corpus = dataclasses.replace(corpus, name=str(about["name"]), notes=(), source=dict(about["source"]))
    ids = [passage.id for passage in corpus.passages]
    scale = described.config.scale
    if described.method == "prag":
        augmentations = [corpus.given[one].hash for one in ids]
        return described, corpus, AdapterShards(folder / SHARDS, described.layout, scale, ids, augmentations)
    if described.method == "dyprag":
        weights, embeddings = folder / HYPERNETWORK, folder / embeddings_name(corpus)
        return described, corpus, GeneratedAdapters(weights, embeddings, described.layout, scale, ids)
    return described, corpus, RoutedBank(folder / bank_name(corpus), described.layout, scale, ids)


def same_model(described: Described, lm: FrozenLM) -> None:
    """Raise unless adapters and model belong together."""
    wanted = described.base_model
    if lm.weight_hash == wanted["weight_hash"]:
        return
    if str(lm.dtype) != wanted.get("dtype", str(lm.dtype)):
        raise ArtifactError(
            "The adapters were trained for the model in another number format",
            got=str(lm.dtype).removeprefix("torch."),
            expected=str(wanted["dtype"]).removeprefix("torch."),
            fix="Load the model with that dtype, or encode the corpus for this one.",
        )
    raise ArtifactError(
        "The adapters were trained for another base model",
        got=f"{lm.provenance['name']} with weights {lm.weight_hash[:16]}",
        expected=f"{wanted['name']} with weights {str(wanted['weight_hash'])[:16]}",
        fix="Load that model, or encode the corpus for this one.",
    )


def section(config: Config) -> dict[str, Any]:
    """A method's settings without those that change nothing but time and memory."""
    return {key: value for key, value in config.to_dict().items() if key != "at_once"}
