"""A model's folder: what it says it is, verified, and what it claims, looked at before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from coldframe.config import read_mapping
from coldframe.errors import ArtifactError, ColdframeError, ModelError
from coldframe.storage.checksums import check_files
from coldframe.storage.files import sha256_of

PROVENANCE = "coldframe_provenance.json"

_MOST = 1 << 24  # of any width, number of heads or vocabulary: larger ones have never been
_COUNTS = ("size", "dim", "heads", "layers", "n_embd", "n_head", "n_inner", "d_model", "d_ff", "experts", "rank")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers")


def checksums(folder: Path) -> dict[str, dict[str, str]]:
    """Checksums of all files of a new folder, as they stand in its provenance: of the weights, and of the others."""
    sums = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    weights = {name: value for name, value in sums.items() if name.endswith(".safetensors")}
    return {
        "safetensors_sha256": weights,
        "other_sha256": {name: value for name, value in sums.items() if name not in weights},
    }


def provenance_of(folder: Path) -> dict[str, Any] | None:
    """Where the files of a folder came from, if it says so; they are verified by the checksums that it keeps.

    Raises:
        ArtifactError: A file is not what it was.
        ModelError: What it says cannot be read.

    Cost: the weights are read once, and again only when they were written to; see :func:`sha256_once`.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    try:
        values = read_mapping(path)
        sums = [values.get("safetensors_sha256", {}), values.pop("other_sha256", {})]
        files = {str(name): str(value) for part in sums for name, value in part.items()}
    except (ColdframeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error}", fix="Delete the folder and load the model anew.") from error
    if outside := [name for name in files if "/" in name or "\\" in name or name == ".."]:
        raise ArtifactError(f"{path} names a file outside of its folder", got=outside[0])
    check_files(folder, files, fix=f"Delete the folder {folder}; a built-in model is then made anew.")
    return values


def check_claims(folder: Path) -> None:
    """Compare ``config.json`` with the weights beside it: a layer needs a tensor, and no width is without end.

    Raises:
        ModelError: The config is damaged, or claims more than the files can hold.
    """
    config = read_mapping(folder / "config.json")
    tensors = sum(_tensors(path) for path in sorted(folder.glob("*.safetensors")))
    if not tensors:
        raise ModelError(f"{folder} has no safetensors weights", fix="coldframe loads no pickle files.")
    for name, value in _numbers(config):
        most = tensors if name in _DEPTHS else _MOST if any(part in name for part in _COUNTS) else None
        if most is not None and not -1 <= value <= most:
            raise ModelError(f"{folder / 'config.json'} claims too much: {name}", got=value, expected=f"at most {most}")


def _tensors(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as opened:
            return len(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}", fix="Fetch the model anew.") from error


def _numbers(values: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, value
        elif isinstance(value, dict) and depth < 4:
            yield from _numbers(value, depth + 1)
