"""The small artifact of a reweighting: the gains, where they came from, and what undoes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.artifact import MANIFEST, read_manifest, verify_files, write_manifest
from coldframe.storage.tensors import read_tensors, reading, write_tensors

FOLDER = "head_gains"  # a folder of its own: loaders take every safetensors file beside config.json for weights
_GAINS = "gains.safetensors"


@dataclasses.dataclass(frozen=True)
class GainsFile:
    """What :func:`write_gains` wrote.

    Attributes:
        manifest: ``base_model``, ``config``, ``heads``, ``history``, ``tensors`` and so on.
        gains: ``[layers, query_heads]``, float32.
        effects: ``[pairs, layers, query_heads]``, float32.
    """

    manifest: dict[str, Any]
    gains: Tensor
    effects: Tensor


def write_gains(folder: Path, values: Mapping[str, Any], gains: Tensor, effects: Tensor) -> None:
    """Write ``head_gains/`` into a folder: the tensors of :class:`GainsFile`, and ``values`` as its manifest."""
    home = folder / FOLDER
    write_tensors(home / _GAINS, {"gains": gains.float(), "effects": effects.float()})
    write_manifest(home, values, [_GAINS])


def read_gains(folder: str | Path) -> GainsFile:
    """Read the gains of a reweighted model and verify them."""
    home = Path(folder) / FOLDER
    if not (home / MANIFEST).is_file():
        raise ArtifactError(f"{folder} holds no head gains", expected=f"a folder with {FOLDER}/{MANIFEST}")
    manifest = read_manifest(home, ("base_model", "config"))
    verify_files(home, manifest)
    with reading(home / _GAINS, fix="Reweight again."):
        tensors, _ = read_tensors(home / _GAINS, fix="Reweight again.")
        return GainsFile(manifest, tensors["gains"], tensors["effects"])
