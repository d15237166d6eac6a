"""The artifact: a folder whose manifest names everything in it, with checksums, and everything it depends on.

Every folder that coldframe writes and reads again (a fitted method of any kind, passages turned into weights) is one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from coldframe.config import without_nan
from coldframe.errors import ArtifactError
from coldframe.storage.cache import folder_lock
from coldframe.storage.checksums import check_files
from coldframe.storage.files import link_or_copy, sha256_of, temporary_folder, write_text

FORMAT = 2
MANIFEST = "coldframe_config.json"


Kind: TypeAlias = type | tuple[type, ...]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An artifact whose files were verified; ``artifact / name`` is where a file lies.

    A name is the one its writer gave: a file that was saved over lies under another, see :func:`write_artifact`.

    Attributes:
        folder: Where the artifact is.
        manifest: All that it remembers.
        prefix: Of the names, where a part of an artifact is read by a reader of its own.
    """

    folder: Path
    manifest: Mapping[str, Any]
    prefix: str = ""

    def __truediv__(self, name: str) -> Path:
        if self.prefix + name not in self.manifest["files"]:  # and so was not verified
            raise ArtifactError(
                f"The artifact lacks {self.prefix + name}", got=str(self.folder), fix="Fit again, or fetch it anew."
            )
        return _place(self.folder, self.manifest, self.prefix + name)

    def files(self, name: str) -> list[Path]:
        """Where the files lie that stand in a folder of that name."""
        start = f"{self.prefix}{name}/"
        listed = sorted(file for file in self.manifest["files"] if file.startswith(start))
        return [_place(self.folder, self.manifest, file) for file in listed]

    def within(self, name: str) -> Artifact:
        """The part in a folder of that name."""
        return dataclasses.replace(self, prefix=f"{self.prefix}{name}/")


def write_artifact(folder: Path, values: Mapping[str, Any], write: Callable[[Path], Iterable[str]]) -> None:
    """Write an artifact, or another over one that is there.

    Whenever it is killed, the folder holds what it held before or all that is new: files are written apart and move
    in under names that nothing has, and the manifest comes last. Files that the former manifest listed and this one
    does not are then deleted; nothing else ever is. So a file that changed is ``store-1a2b3c4d.jsonl`` until the
    former ``store.jsonl`` is gone, and for good where a file of somebody else has that name.

    Args:
        folder: Where to.
        values: All that is to be remembered; JSON.
        write: Writes the files into a folder and returns their names in it, with ``/``.

    Raises:
        ColdframeError: If the folder cannot be written or the disk is full.
    """
    with temporary_folder(folder) as written:
        checksums = {name: sha256_of(written / name) for name in sorted(set(write(written)))}
        with folder_lock("artifact", folder):
            former = _places_before(folder)
            places = {}
            for name, checksum in checksums.items():
                place = _unused(folder, name, checksum)
                if not (folder / place).exists():
                    (folder / place).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(written / name, folder / place)
                if place != name:
                    places[name] = place
            manifest = {"format": FORMAT, **without_nan(values), "files": checksums}
            _commit(folder, manifest, places)
            for place in former - {places.get(name, name) for name in checksums}:
                (folder / place).unlink(missing_ok=True)
            moved = {name: place for name, place in places.items() if not (folder / name).exists()}
            if moved:
                for name, place in moved.items():
                    link_or_copy(folder / place, folder / name)
                _commit(folder, manifest, {name: place for name, place in places.items() if name not in moved})
                for place in moved.values():
                    (folder / place).unlink()


def read_artifact(folder: Path, needs: Mapping[str, Kind] | None = None) -> Artifact:
    """Read a manifest and check that every file it names is there and is what was saved.

    Args:
        folder: The artifact.
        needs: See :func:`read_manifest`.

    Raises:
        ArtifactError: It is absent, damaged, changed since it was written, or of another format.
    """
    artifact = Artifact(folder, read_manifest(folder, needs))
    files = artifact.manifest["files"]
    places = {_place(folder, artifact.manifest, name).relative_to(folder).as_posix(): name for name in files}
    check_files(folder, {place: files[name] for place, name in places.items()}, "Fit again, or fetch it anew.")
    return artifact


def read_manifest(folder: Path, needs: Mapping[str, Kind] | None = None) -> dict[str, Any]:
    """Read a manifest and verify it, without the files that it names.

    Args:
        folder: The artifact.
        needs: What must be there, and of which type: ``{"store.hash": str}`` for the key ``hash`` of the mapping
            ``store``.

    Raises:
        ArtifactError: If it is absent, damaged, changed since it was written, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a coldframe artifact", expected=f"a folder with {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", fix="Fit again, or fetch the folder anew.") from error
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error}") from error
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
    for name, kind in {"files": dict, **(needs or {})}.items():
        if not isinstance(value := _value(manifest, name), kind):
            raise ArtifactError(f"{path} does not hold what an artifact needs", got=f"{name}: {value!r}"[:80])
    if strange := _strange(manifest["files"], manifest.get("places", {})):
        raise ArtifactError(f"{path} names a file outside of its folder, or none", got=strange)
    return manifest


def _value(values: Any, name: str) -> Any:
    """What stands under a name with dots; None where there is nothing."""
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _place(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    place: str = manifest.get("places", {}).get(name, name)
    return folder / place


def _strange(files: Mapping[str, Any], places: Any) -> str | None:
    """What no artifact has as the name, the place or the checksum of a file."""
    if not isinstance(places, dict):
        return repr(places)[:80]
    for name, checksum in files.items():
        place = places.get(name, name)
        if not isinstance(checksum, str) or not re.fullmatch("[0-9a-f]{64}", checksum):
            return f"{name}: {checksum!r}"[:80]
        for path in (name, place):
            if not isinstance(path, str) or not _inside(path):
                return repr(path)[:80]
    return None


def _inside(name: str) -> bool:
    """Whether a relative name cannot lead out of its folder; links may, of which a hub's cache is made."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts)


def _commit(folder: Path, values: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Replace the manifest."""
    manifest = {**values, "places": dict(places)}
    manifest["sha256"] = _digest(manifest)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _unused(folder: Path, name: str, checksum: str) -> str:
    """A name for a file at which nothing else is: its own, or one with its checksum."""
    path = Path(name)
    for place in (name, path.with_stem(f"{path.stem}-{checksum[:8]}").as_posix()):
        if not (folder / place).exists() or sha256_of(folder / place) == checksum:
            return place
    return path.with_stem(f"{path.stem}-{checksum[:16]}-{os.urandom(4).hex()}").as_posix()


def _places_before(folder: Path) -> set[str]:
    """Where the files of the folder's present manifest lie in it; none where there is no valid one."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return set()
    paths = [_place(folder, manifest, name).resolve() for name in manifest["files"]]
    home = folder.resolve()
    return {path.relative_to(home).as_posix() for path in paths if path.is_relative_to(home)}


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
