"""Files of tensors: safetensors, with plain values beside them, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.files import atomic_path

_DAMAGED = (
    SafetensorError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    OverflowError,
)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **values: Any) -> Path:
    """Write tensors and at most one value: safetensors stores several in an order that differs from run to run.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_tensors(Path(folder) / "a.safetensors", {"x": torch.ones(1)}, step=3)
    ...     read_tensors(path)
    ({'x': tensor([1.])}, {'step': 3})
    """
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(copies, temporary, metadata={name: json.dumps(value) for name, value in values.items()} or None)
    return path


def read_tensors(path: Path, fix: str = "Delete it and try again.") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and values of a file.

    Raises:
        ArtifactError: It is damaged, or holds what is not a number; names the file.
    """
    with reading(path, fix):
        tensors, values = load_file(path), open_tensors(path)[1]
    check_numbers(path, tensors, fix)
    return tensors, values


def check_numbers(path: Path, tensors: Mapping[str, Tensor], fix: str) -> None:
    """Raise an ``ArtifactError`` that names file and tensor, unless all values are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ArtifactError(f"{path} is damaged: {name} holds NaN or infinity", got=f"{bad} values", fix=fix)


def open_tensors(path: Path) -> tuple[Any, dict[str, Any]]:
    """A file of tensors, memory-mapped, and its values; to be called within :func:`reading`."""
    file: Any = safe_open(path, framework="pt")
    return file, {name: json.loads(value) for name, value in (file.metadata() or {}).items()}


@contextmanager
def reading(path: Path, fix: str = "Delete it and fit again.") -> Iterator[None]:
    """Whatever a damaged file makes its readers raise is an ``ArtifactError`` that names the file."""
    try:
        yield
    except ArtifactError:
        raise
    except _DAMAGED as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix=fix) from error
