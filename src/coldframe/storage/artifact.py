"""The artifact: a folder whose manifest names everything in it, with checksums, and everything it depends on.

Every folder that coldframe writes and reads again (a fitted method of any kind, passages turned into weights) is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coldframe.errors import ArtifactError
from coldframe.storage.files import atomic_path, sha256_of

FORMAT = 2
MANIFEST = "coldframe_config.json"


def write_manifest(folder: Path, values: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write the manifest, which comes last: until then the folder holds what it held before.

    Files that the folder's former manifest listed and this one does not are deleted; nothing else ever is.

    Args:
        folder: Where the files are already, each written whole.
        values: All that is to be remembered; JSON.
        files: Names in the folder, with ``/``; their checksums are kept.

    Raises:
        ColdframeError: If the folder cannot be written or the disk is full.
    """
    listed = sorted(set(files))
    former = _listed_before(folder)
    manifest = {"format": FORMAT, **values, "files": {name: sha256_of(folder / name) for name in listed}}
    manifest["sha256"] = _digest(manifest)
    with atomic_path(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in former - {*listed}:
        (folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path, sections: Iterable[str] = ()) -> dict[str, Any]:
    """Read a manifest and verify it; the files it names are verified by :func:`verify_files`.

    Args:
        folder: The artifact.
        sections: Keys that must be there and hold mappings.

    Raises:
        ArtifactError: If it is absent, damaged, changed since it was written, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a coldframe artifact", expected=f"a folder with {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Fit again, or fetch the folder anew.") from error
    if version > FORMAT:
        raise ArtifactError(
            "The artifact was written by a newer coldframe", got=version, expected=f"format {FORMAT}", fix="Upgrade."
        )
    if version < FORMAT:
        raise ArtifactError(
            "The artifact was written by an older coldframe", got=version, expected=f"format {FORMAT}", fix="Fit again."
        )
    if manifest.pop("sha256", None) != _digest(manifest):
        raise ArtifactError(f"{path} is not the file that was saved: changed", fix="Fit again, or fetch it anew.")
    if absent := [name for name in (*sections, "files") if not isinstance(manifest.get(name), dict)]:
        raise ArtifactError(f"{path} does not hold what an artifact needs", expected=", ".join(absent))
    return manifest


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that every file of a manifest is there and is what was saved.

    Raises:
        ArtifactError: It is not; names the file.
    """
    for name, checksum in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError("The artifact names a file outside of its folder", got=name)
        if not path.is_file():
            raise ArtifactError(f"The artifact lacks {name}", got=str(folder), fix="Fetch the folder anew.")
        if sha256_of(path) != checksum:
            raise ArtifactError(
                f"{path} is not the file that was saved: truncated or changed", fix="Fit again, or fetch it anew."
            )


def _listed_before(folder: Path) -> set[str]:
    """Files of the folder's present manifest that lie in it; none where there is no valid one."""
    try:
        names = read_manifest(folder)["files"]
    except ArtifactError:
        return set()
    return {name for name in names if (folder / name).resolve().is_relative_to(folder.resolve())}


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
