"""Vectors of a store on disk, with what they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from coldframe.errors import ArtifactError
from coldframe.storage.files import atomic_path


def write_vectors(path: Path, vectors: NDArray[np.float32], made_of: tuple[str, str]) -> None:
    """Write vectors, whole or not at all.

    Args:
        path: Where to.
        vectors: One for each entry, float32 ``[n, dim]``.
        made_of: Names of the encoder and of the store.
    """
    with atomic_path(path) as temporary:
        save_file({"vectors": np.ascontiguousarray(vectors)}, temporary, {"made_of": json.dumps(made_of)})


def read_vectors(path: Path) -> tuple[NDArray[np.float32], tuple[str, str]]:
    """What :func:`write_vectors` wrote: the vectors, and the two names.

    Raises:
        ArtifactError: The file is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            vectors = file.get_tensor("vectors")
            encoder, store = json.loads(file.metadata()["made_of"])
        if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
            raise ValueError(f"no vectors of finite numbers: {vectors.dtype} {list(vectors.shape)}")
        return vectors, (str(encoder), str(store))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Fit again, or fetch it anew.") from error
