"""A trained router as files: what it is and where it came from in JSON, its weights in safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.config import without_nan
from coldframe.errors import ArtifactError
from coldframe.frozen.model import FrozenLM
from coldframe.storage.files import atomic_path, sha256_of

FORMAT = 1
_CONFIG, _WEIGHTS = "moice.json", "moice.safetensors"


def write_router(folder: Path, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files into a folder; the JSON comes last, so a half-written folder has none.

    Args:
        folder: Made if it is missing.
        described: ``base_model``, ``config`` and ``history``.
        tensors: The router's.
    """
    with atomic_path(folder / _WEIGHTS) as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    values = {"format": FORMAT, **without_nan(described), "files": {_WEIGHTS: sha256_of(folder / _WEIGHTS)}}
    with atomic_path(folder / _CONFIG) as path:
        path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_router(folder: Path, lm: FrozenLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What :func:`write_router` wrote, verified, for the model it was trained on.

    Raises:
        ArtifactError: If there is none; or it is damaged, changed, of a newer format or of another model.
    """
    if not (folder / _CONFIG).is_file():
        raise ArtifactError(f"{folder} holds no MoICE router", expected=f"a folder with {_CONFIG}")
    try:
        described: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        version, checksum, base = int(described["format"]), described["files"][_WEIGHTS], described["base_model"]
        trained_on, name = base["weight_hash"], f"{base['name']}, loaded as {base['dtype']}"
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / _CONFIG} is damaged: {error}", fix="Train the router again.") from error
    if version > FORMAT:
        raise ArtifactError("The router was written by a newer coldframe", got=version, expected=f"format {FORMAT}")
    if trained_on != lm.weight_hash:
        raise ArtifactError("The router was trained on other weights", got=lm.weight_hash[:12], expected=name)
    try:
        if sha256_of(folder / _WEIGHTS) != checksum:
            raise ArtifactError(f"{folder / _WEIGHTS} is not the file that was saved", fix="Train the router again.")
        return described, load_file(folder / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / _WEIGHTS} is damaged: {error}", fix="Train the router again.") from error
