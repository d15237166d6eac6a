"""Neighbour lists on disk: computed once, named by what they depend on, never trusted blindly."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from coldframe.errors import ColdframeError
from coldframe.retrieval.index import Indices, Scores
from coldframe.storage.cache import cache_dir, forget_oldest
from coldframe.storage.files import atomic_path

MOST = 1 << 30
"""Bytes of lists that the cache keeps."""

_log = logging.getLogger(__name__)


def remember(
    key: str, shape: tuple[int, int, int], compute: Callable[[], tuple[Indices, Scores]]
) -> tuple[Indices, Scores]:
    """Neighbour lists from the cache folder, or computed and put there.

    A file that is damaged, foreign or of another shape is computed anew and replaced. A cache that cannot be
    written costs time at the next run, so it is a warning and no error.

    Args:
        key: Names all that the lists depend on.
        shape: Queries, neighbours per query, rows in the store.
        compute: Makes the lists, int64 and float32 ``[n, k]``.
    """
    path = cache_dir() / "neighbours" / f"{key}.safetensors"
    if path.is_file():
        try:
            lists = _read(path, key, shape)
            with contextlib.suppress(OSError):  # a read-only cache
                os.utime(path)  # what was used lately is forgotten last
            return lists
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _log.warning("The cached neighbour lists %s are not usable (%s) and are computed anew", path, error)
    indices, scores = compute()
    metadata = {"key": key, "sha256": _digest(indices, scores)}
    try:
        with atomic_path(path) as temporary:
            save_file({"indices": indices, "scores": scores}, temporary, metadata)
        forget_oldest(path.parent, MOST)
    except (OSError, ColdframeError, SafetensorError) as error:
        _log.warning("The neighbour lists were not cached: %s", error)
    return indices, scores


def _read(path: Path, key: str, shape: tuple[int, int, int]) -> tuple[Indices, Scores]:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        indices, scores = file.get_tensor("indices"), file.get_tensor("scores")
    n, k, rows = shape
    if metadata.get("key") != key or metadata.get("sha256") != _digest(indices, scores):
        raise ValueError("wrong checksum")
    if (indices.shape, scores.shape) != ((n, k), (n, k)) or (indices.dtype, scores.dtype) != (np.int64, np.float32):
        raise ValueError("wrong shape")
    if indices.size and (indices.min() < -1 or indices.max() >= rows):
        raise ValueError("positions outside the store")
    return indices, scores


def _digest(indices: Indices, scores: Scores) -> str:
    return hashlib.sha256(indices.tobytes() + scores.tobytes()).hexdigest()
