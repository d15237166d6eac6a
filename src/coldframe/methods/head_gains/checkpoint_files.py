"""A checkpoint of transformers as files: some of its tensors changed, everything else byte for byte as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.errors import ModelError
from coldframe.frozen.model_sources import PROVENANCE

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LEFT_OUT = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".py")
_NOT_OURS = ("README.md", PROVENANCE)  # they speak of the model as it was

Change = Callable[[Tensor], Tensor]


def tensor_files(folder: Path) -> dict[str, Path]:
    """Names of all tensors of a checkpoint, and the files that they are in."""
    if (folder / _INDEX).is_file():
        names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    if not (folder / _SINGLE).is_file():
        raise ModelError(f"{folder} has no safetensors weights", expected=f"{_SINGLE} or {_INDEX}")
    with safe_open(folder / _SINGLE, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), folder / _SINGLE)


def find_tensor(names: Iterable[str], tail: str) -> str:
    """The one tensor whose path ends so; checkpoints differ in what they put before ``layers.0``.

    >>> find_tensor(["h.1.attn.c_proj.weight", "h.11.attn.c_proj.weight"], "h.1.attn.c_proj.weight")
    'h.1.attn.c_proj.weight'
    """
    matches = [name for name in names if name == tail or name.endswith(f".{tail}")]
    if len(matches) != 1:
        raise ModelError("The checkpoint names its weights in an unknown way", got=matches, expected=f"one .. {tail}")
    return matches[0]


def read_tensor(files: Mapping[str, Path], name: str) -> Tensor:
    """One tensor of a checkpoint, with its own dtype."""
    with safe_open(files[name], framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


def copy_checkpoint(
    source: Path, target: Path, changes: Mapping[str, Change], note: Callable[[dict[str, Any]], None]
) -> None:
    """Copy a checkpoint with some tensors changed; shards are read one at a time."""
    target.mkdir(parents=True)
    files = tensor_files(source)
    for file in sorted(set(files.values())):
        if not any(files.get(name) == file for name in changes):
            shutil.copyfile(file, target / file.name)
            continue
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        tensors = load_file(file)
        for name, change in changes.items():
            if name in tensors:
                tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, target / file.name, metadata=metadata)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix not in _LEFT_OUT and file.name not in _NOT_OURS and file.name[0] != ".":
            shutil.copyfile(file, target / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    note(config)
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
