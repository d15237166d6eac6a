"""Folders that readers take, with one file in them made of given bytes and all checksums right."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tests.contract import cases
from tests.tiny import tiny

from coldframe.frozen.model import FrozenLM
from coldframe.storage import artifact as manifests
from coldframe.storage.artifact import FORMAT, MANIFEST

_MEMORY = "/dev/shm"
HOME = Path(tempfile.mkdtemp(prefix="coldframe-fuzz-", dir=_MEMORY if os.path.isdir(_MEMORY) else None))
"""In memory, where there is such a place: opening a file on a disk takes longer than reading most inputs."""

SHEET = "xl/worksheets/sheet1.xml"


def place(path: str, data: bytes) -> Path:
    """A file below :data:`HOME`."""
    file = HOME / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def mapping(data: bytes) -> dict[str, Any] | None:
    """What data says in JSON, if that is a mapping."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def seal(folder: str, values: Mapping[str, Any]) -> Path:
    """A manifest with a right checksum, in a folder below :data:`HOME`."""
    manifest = {**values}
    manifest.pop("sha256", None)
    try:
        manifest["sha256"] = manifests._digest(manifest)
        return place(f"{folder}/{MANIFEST}", json.dumps(manifest).encode()).parent
    except (RecursionError, ValueError):  # what cannot be written is in no file
        return place(f"{folder}/{MANIFEST}", b"{}").parent


def sealed_files(folder: str, files: Mapping[str, bytes], values: Mapping[str, Any]) -> Path:
    """An artifact of these files; ``values`` go over what stands in its manifest."""
    for name, data in files.items():
        place(f"{folder}/{name}", data)
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return seal(folder, {"format": FORMAT, "files": checksums, "places": {}, **values})


@functools.cache
def model() -> FrozenLM:
    """A tiny model."""
    return FrozenLM(*tiny("llama"))


@functools.cache
def fitted() -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and files of an artifact of LoRA on the tiny model."""
    import coldframe as cf

    folder = HOME / "fitted"
    lora = cf.LoRA(rank=2)
    cf.fit(lora, model(), cases.task(), training={"epochs": 1, "batch_size": 4}, quiet=True).save_pretrained(folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    shutil.rmtree(folder)
    return manifest, files


@functools.cache
def tensors() -> bytes:
    """A small file of tensors: a checkpoint's, and gains with their effects."""
    return save({"gains": torch.ones(1, 2), "effects": torch.zeros(1, 1, 2), "weight": torch.ones(2, 4)})


@functools.cache
def _book() -> dict[str, bytes]:
    import openpyxl

    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.append(["text", "label"])  # type: ignore[union-attr]
    book.save(out)
    with zipfile.ZipFile(out) as archive:
        # Without styles, which take most of the time.
        members = [name for name in archive.namelist() if not any(part in name for part in ("theme", "styles", "docP"))]
        return {member: archive.read(member) for member in members}


def book(sheet: bytes) -> bytes:
    """An Excel file with this sheet."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, data in _book().items():
            archive.writestr(member, sheet if member == SHEET else data)
    return out.getvalue()
