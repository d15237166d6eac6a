"""The small artifact of a reweighting: the gains, where they came from, and what undoes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.artifact import MANIFEST, Kind, read_artifact, write_artifact
from coldframe.storage.files import write_text
from coldframe.storage.tensors import read_tensors, reading, write_tensors

FOLDER = "head_gains"  # a folder of its own: loaders take every safetensors file beside config.json for weights
_GAINS = "gains.safetensors"
PAGE = "report.html"
_NEEDS: Mapping[str, Kind] = {
    "base_model.name": str,
    "base_model.weight_hash": str,
    "config": dict,
    "tensors": list,
}
_ENTRY = {"name": str, "layer": int, "axis": int, "base_sha256": str, "folded_sha256": str}


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


def write_gains(
    folder: Path, values: Mapping[str, Any], gains: Tensor, effects: Tensor, page: str | None = None
) -> None:
    """Write ``head_gains/`` into a folder: the tensors of :class:`GainsFile`, ``values`` as its manifest, a page."""

    def write(home: Path) -> list[str]:
        write_tensors(home / _GAINS, {"gains": gains.float(), "effects": effects.float()})
        return [_GAINS]

    write_artifact(folder / FOLDER, values, write)
    if page is not None:
        write_text(folder / FOLDER / PAGE, page)


def read_gains(folder: str | Path) -> GainsFile:
    """Read the gains of a reweighted model and verify them."""
    home = Path(folder) / FOLDER
    if not (home / MANIFEST).is_file():
        raise ArtifactError(f"{folder} holds no head gains", expected=f"a folder with {FOLDER}/{MANIFEST}")
    artifact = read_artifact(home, _NEEDS)
    for entry in artifact.manifest["tensors"]:
        if not isinstance(entry, dict) or {key: type(value) for key, value in entry.items()} != _ENTRY:
            raise ArtifactError(f"{home / MANIFEST} is damaged", got=repr(entry)[:80], expected=", ".join(_ENTRY))
    with reading(artifact / _GAINS, fix="Reweight again."):
        tensors, _ = read_tensors(artifact / _GAINS, fix="Reweight again.")
        return GainsFile(dict(artifact.manifest), tensors["gains"], tensors["effects"])
