"""Files of the adapters of passages, and of what adapters are made from: how they are written and found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.storage.files import atomic_path
from coldframe.tasks.task import content_hash

SHARDS, INDEX = "adapters", "adapters/index.json"
BANK = "bank.safetensors"
HYPERNETWORK, EMBEDDINGS = "hypernetwork.safetensors", "embeddings.safetensors"


def write_shard(folder: Path, lessons: Mapping[str, str], adapters: Tensor, fingerprint: str) -> Path:
    """Write one file of adapters; its name is that of what is in it, so that files of several runs do not meet.

    Args:
        folder: The file goes below it.
        lessons: The passages, by id, with the hash of what each was trained on.
        adapters: ``[passages, N]``, in the dtype to keep.
        fingerprint: Of all else that they depend on.
    """
    path = folder / SHARDS / f"{content_hash(fingerprint, *lessons, *lessons.values())}.safetensors"
    # One entry: safetensors writes several in an order of its own, and the same run makes the same bytes.
    head = {"about": json.dumps({"fingerprint": fingerprint, "lessons": dict(lessons)})}
    with atomic_path(path) as temporary:
        save_file({"adapters": adapters.contiguous()}, temporary, metadata=head)
    return path


def write_index(folder: Path, lessons: Mapping[str, str]) -> None:
    """Write which adapters of an artifact are in force; this comes last."""
    with atomic_path(folder / INDEX) as path:
        path.write_text(json.dumps(lessons, ensure_ascii=False), encoding="utf-8")


def shard_places(folder: Path) -> dict[tuple[str, str], tuple[Path, int, str]]:
    """Where the adapter of a passage and its lesson is: file, row, and the fingerprint it was trained under.

    Raises:
        ArtifactError: A file is damaged.
    """
    places = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):  # a dot: what a killed run left half-written
        try:
            about = json.loads(open_tensors(path).metadata()["about"])
            for row, key in enumerate(about["lessons"].items()):
                places[key] = (path, row, str(about["fingerprint"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}", fix="Delete it and fit again.") from error
    return places


def write_bank(folder: Path, ids: Sequence[str], bank: Tensor, table: Tensor, dtype: torch.dtype) -> Path:
    """Write bank and table into one file."""
    tensors = {"bank": bank.detach().cpu().to(dtype).contiguous(), "table": table.detach().cpu().to(dtype).contiguous()}
    with atomic_path(folder / BANK) as path:
        save_file(tensors, path, metadata={"ids": json.dumps(list(ids))})
    return folder / BANK


def write_hypernetwork(folder: Path, network: Hypernetwork, dtype: torch.dtype) -> Path:
    """Write its weights: ``first``, ``[2 targets, p, d_model + 1]``, and ``second``, ``[N, p]``."""
    tensors = {name: weight.detach().cpu().to(dtype).contiguous() for name, weight in network.state_dict().items()}
    with atomic_path(folder / HYPERNETWORK) as path:
        save_file(tensors, path)
    return folder / HYPERNETWORK


def write_embeddings(folder: Path, ids: Sequence[str], embeddings: Tensor) -> Path:
    """Write the embeddings of passages, float32."""
    with atomic_path(folder / EMBEDDINGS) as path:
        save_file({"embeddings": embeddings.float().contiguous()}, path, metadata={"ids": json.dumps(list(ids))})
    return folder / EMBEDDINGS


def read_index(folder: Path) -> dict[str, str]:
    """The adapters of an artifact that are in force: passages by id, with the hash of what each was trained on."""
    path = folder / INDEX
    try:
        lessons: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return {str(id): str(lesson) for id, lesson in lessons.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Fit again.") from error


def ids_of(file: Any, path: Path) -> list[str]:
    """The passages of an opened file of ``path``, in their order."""
    try:
        return [str(id) for id in json.loads(file.metadata()["ids"])]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Fit again.") from error


def open_tensors(path: Path) -> Any:
    """A file of tensors, memory-mapped.

    Raises:
        ArtifactError: It is damaged.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Delete it and fit again.") from error
