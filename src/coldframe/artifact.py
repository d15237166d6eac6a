"""The artifact: a folder of JSON and safetensors that names everything it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.cache import atomic_path, sha256_of
from coldframe.errors import ArtifactError
from coldframe.retrieval.store import ExemplarStore
from coldframe.tasks.task import Example

FORMAT = 1
_PARTS = dict.fromkeys(("base_model", "schema", "method_config", "retrieval", "training", "store", "files"), dict)
CONFIG, WEIGHTS, STORE = "coldframe_config.json", "model.safetensors", "exemplars.jsonl"


def write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], store: ExemplarStore) -> None:
    """Write the three files of an artifact; the config comes last, so a half-written folder has none.

    Raises:
        ColdframeError: If the folder cannot be written or the disk is full.
    """
    with atomic_path(folder / WEIGHTS) as path:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, path)
    with atomic_path(folder / STORE) as path, open(path, "w", encoding="utf-8") as out:
        for example in store.examples:
            out.write(json.dumps(dataclasses.asdict(example), ensure_ascii=False) + "\n")
    sums = {name: sha256_of(folder / name) for name in (WEIGHTS, STORE)}
    described = {"format": FORMAT, **config, "files": sums}
    described["sha256"] = _digest(described)
    with atomic_path(folder / CONFIG) as path:
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], ExemplarStore]:
    """Read an artifact and verify it.

    Raises:
        ArtifactError: If it is absent, truncated, changed since it was written, or of a newer format.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder} is not a coldframe artifact", expected=f"a folder with {CONFIG}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        version = int(config["format"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / CONFIG} is damaged: {error}", fix="Fit again, or fetch the folder anew."
        ) from error
    if version > FORMAT:
        raise ArtifactError(
            "The artifact was written by a newer coldframe", got=version, expected=f"format {FORMAT}", fix="Upgrade."
        )
    if config.pop("sha256", None) != _digest(config):
        raise ArtifactError(
            f"{folder / CONFIG} is not the file that was saved: changed", fix="Fit again, or fetch it anew."
        )
    if absent := [name for name, kind in _PARTS.items() if not isinstance(config.get(name), kind)]:
        raise ArtifactError(f"{folder / CONFIG} does not hold what an artifact needs", expected=", ".join(absent))
    for name in (WEIGHTS, STORE):
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"The artifact lacks {name}", got=str(folder), fix="Fetch the folder anew.")
        if sha256_of(path) != config["files"][name]:
            raise ArtifactError(
                f"{path} is not the file that was saved: truncated or changed", fix="Fit again, or fetch it anew."
            )
    try:
        weights = load_file(folder / WEIGHTS)
        lines = (folder / STORE).read_text(encoding="utf-8").split("\n")[:-1]  # a text may hold other line ends
        examples = tuple(Example(**{**row, "references": tuple(row["references"])}) for row in map(json.loads, lines))
    except (SafetensorError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise ArtifactError(f"The artifact in {folder} is damaged: {error}") from error
    return config, weights, ExemplarStore(examples)


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
