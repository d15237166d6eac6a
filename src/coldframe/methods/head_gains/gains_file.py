"""The small artifact of a reweighting: the gains, where they came from, and what undoes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.errors import ArtifactError
from coldframe.storage.files import atomic_path, sha256_of

FORMAT = 1
FOLDER = "head_gains"  # a folder of its own: loaders take every safetensors file beside config.json for weights
_CONFIG, _GAINS = "gains.json", "gains.safetensors"


@dataclasses.dataclass(frozen=True)
class GainsFile:
    """What :func:`write_gains` wrote.

    Attributes:
        described: The JSON part: ``base_model``, ``config``, ``heads``, ``history``, ``tensors`` and so on.
        gains: ``[layers, query_heads]``, float32.
        effects: ``[pairs, layers, query_heads]``, float32.
    """

    described: dict[str, Any]
    gains: Tensor
    effects: Tensor


def write_gains(folder: Path, described: Mapping[str, Any], gains: Tensor, effects: Tensor) -> None:
    """Write ``head_gains/`` into a folder: some kilobytes of JSON and safetensors.

    Args:
        folder: The checkpoint's, or one of its own.
        described: Everything that is not a tensor.
        gains: As in :class:`GainsFile`.
        effects: As in :class:`GainsFile`.
    """
    home = folder / FOLDER
    with atomic_path(home / _GAINS) as path:
        save_file({"gains": gains.float().contiguous(), "effects": effects.float().contiguous()}, path)
    values = {"format": FORMAT, **described, "files": {_GAINS: sha256_of(home / _GAINS)}}
    with atomic_path(home / _CONFIG) as path:
        path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_gains(folder: str | Path) -> GainsFile:
    """Read the gains of a reweighted model and verify them.

    Args:
        folder: What ``coldframe reweight`` wrote.

    Raises:
        ArtifactError: If there are none, or they are damaged, changed or of a newer format.
    """
    home = Path(folder) / FOLDER
    if not (home / _CONFIG).is_file():
        raise ArtifactError(f"{folder} holds no head gains", expected=f"a folder with {FOLDER}/{_CONFIG}")
    try:
        described = json.loads((home / _CONFIG).read_text(encoding="utf-8"))
        version, checksum = int(described["format"]), described["files"][_GAINS]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{home / _CONFIG} is damaged: {error}", fix="Reweight again.") from error
    if version > FORMAT:
        raise ArtifactError("The gains were written by a newer coldframe", got=version, expected=f"format {FORMAT}")
    try:
        if sha256_of(home / _GAINS) != checksum:
            raise ArtifactError(f"{home / _GAINS} is not the file that was saved", fix="Reweight again.")
        tensors = load_file(home / _GAINS)
        return GainsFile(described, tensors["gains"], tensors["effects"])
    except (SafetensorError, KeyError, OSError) as error:
        raise ArtifactError(f"{home / _GAINS} is damaged: {error}", fix="Reweight again.") from error
