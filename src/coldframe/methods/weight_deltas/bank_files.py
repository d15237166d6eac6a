"""Files of the adapters of passages, and of what adapters are made from: how they are written and read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.methods.weight_deltas.hypernetwork import Hypernetwork
from coldframe.storage.files import write_text
from coldframe.storage.tensors import open_tensors, read_tensors, reading, write_tensors
from coldframe.tasks.task import content_hash

L = TypeVar("L", bound=Any)

SHARDS, INDEX = "adapters", "adapters/index.json"
BANK = "bank.safetensors"
HYPERNETWORK, EMBEDDINGS = "hypernetwork.safetensors", "embeddings.safetensors"


def write_shard(folder: Path, lessons: Mapping[str, str], adapters: Tensor, fingerprint: str) -> Path:
    """Write adapters, ``[passages, N]``; the name is that of its content, so files of several runs do not meet."""
    path = folder / SHARDS / f"{_name(fingerprint, lessons, adapters)}.safetensors"
    return write_tensors(path, {"adapters": adapters}, about={"fingerprint": fingerprint, "lessons": dict(lessons)})


def written_shards(folder: Path) -> list[Path]:
    """The files of adapters that a run wrote, verified.

    Raises:
        ArtifactError: One is damaged or was changed; names it.
    """
    paths = sorted((folder / SHARDS).glob("[!.]*.safetensors"))  # a dot: what a killed run left half-written
    fix = "Delete it; what it held is then trained again."
    for path in paths:
        with reading(path, fix):
            tensors, values = read_tensors(path, fix)
            about = values["about"]
            if not path.stem.startswith(_name(about["fingerprint"], about["lessons"], tensors["adapters"])):
                raise ArtifactError(f"{path} is not the file that was saved: truncated or changed", fix=fix)
    return paths


def shard_places(paths: Iterable[Path]) -> dict[tuple[str, str], tuple[Path, int, str]]:
    """Where the adapter of a passage and its lesson is: file, row, and the fingerprint it was trained under."""
    places = {}
    for path in paths:
        with reading(path):
            about = open_tensors(path)[1]["about"]
            for row, key in enumerate(about["lessons"].items()):
                places[key] = (path, row, str(about["fingerprint"]))
    return places


def _name(fingerprint: str, lessons: Mapping[str, str], adapters: Tensor) -> str:
    values = hashlib.sha256(adapters.contiguous().view(torch.uint8).numpy().data).hexdigest()
    return content_hash(fingerprint, *lessons, *lessons.values(), values)


class Claims:
    """Which passages a process trains, where several share a folder: each group is claimed by whoever comes first.

    A claim is a lock of the system, which goes with its process: what a process that died left undone is trained by
    another.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[tuple[str, str], Path] = {}

    def shared(self, groups: Sequence[Sequence[L]]) -> Iterator[list[L]]:
        """The groups for this process, less what others finish; ends when all groups are finished.

        Args:
            groups: Of lessons (passage, sequences, hash), the same for every process.
        """
        (self.folder / ".claims").mkdir(parents=True, exist_ok=True)
        for wait in (False, True):  # first what is free, then whatever another one did not finish
            for number, group in enumerate(groups):
                name = content_hash(*(lesson[0].id for lesson in group))
                lock = FileLock(self.folder / ".claims" / f"{number}-{name[:16]}.lock")
                try:
                    lock.acquire(timeout=-1 if wait else 0)
                except Timeout:
                    continue
                except FileNotFoundError:  # another one found all of them finished, and took the locks away
                    return
                try:
                    if missing := [lesson for lesson in group if not self._finished(lesson)]:
                        yield missing
                finally:
                    lock.release()
        shutil.rmtree(self.folder / ".claims", ignore_errors=True)

    def _finished(self, lesson: Any) -> bool:
        key = lesson[0].id, lesson[2]
        if key not in self._places:
            read = set(self._places.values())
            new = [path for path in (self.folder / SHARDS).glob("[!.]*.safetensors") if path not in read]
            self._places |= {place: path for place, (path, _, _) in shard_places(new).items()}
        return key in self._places


def write_index(folder: Path, lessons: Mapping[str, str]) -> None:
    """Write which adapters of an artifact are in force; this comes last."""
    write_text(folder / INDEX, json.dumps(lessons, ensure_ascii=False))


def read_index(path: Path) -> dict[str, str]:
    """The adapters of an artifact that are in force: passages by id, with the hash of what each was trained on."""
    with reading(path, fix="Fit again."):
        lessons: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return {str(id): str(lesson) for id, lesson in lessons.items()}


def write_bank(folder: Path, ids: Sequence[str], bank: Tensor, table: Tensor, dtype: torch.dtype) -> Path:
    """Write bank, ``[S, N]``, and table, ``[passages, targets, S]``, into one file."""
    return write_tensors(folder / BANK, {"bank": bank.to(dtype), "table": table.to(dtype)}, ids=list(ids))


def write_hypernetwork(folder: Path, network: Hypernetwork, dtype: torch.dtype) -> Path:
    """Write its weights: ``first``, ``[2 targets, p, d_model + 1]``, and ``second``, ``[N, p]``."""
    tensors = {name: weight.to(dtype) for name, weight in network.state_dict().items()}
    return write_tensors(folder / HYPERNETWORK, tensors)


def write_embeddings(folder: Path, ids: Sequence[str], embeddings: Tensor) -> Path:
    """Write the embeddings of passages, float32."""
    return write_tensors(folder / EMBEDDINGS, {"embeddings": embeddings.float()}, ids=list(ids))
