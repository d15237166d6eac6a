"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coldframe.config import without_nan
from coldframe.errors import ColdframeError

_FIXES = {
    errno.ENOSPC: "The disk is full: free some space, or choose another place.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or choose another place.",
    errno.EFBIG: "The file is larger than this process may write: raise the limit (ulimit -f).",
    errno.EACCES: "You may not write there: choose another place or change its permissions.",
    errno.EPERM: "You may not write there: choose another place or change its permissions.",
    errno.EROFS: "That place is read-only: choose another.",
    errno.EEXIST: "That place is a file, not a folder: choose another place.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: choose another place.",
}


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling to write a file or a folder to; it takes the name ``path`` only when all went well.

    The temporary name keeps the ending of ``path``. Missing parents are made. What was written is flushed to
    the disk before the rename, so a crash leaves the old content or the new, never half. (A folder that
    replaces a folder is two renames; a crash between them leaves neither under the name, and both on disk.)

    Args:
        path: The final place; what is there already is replaced.

    Raises:
        ColdframeError: The place cannot be written, or the disk is full. Other errors pass through. Either
            way nothing temporary is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.urandom(4).hex()}-{path.name}")
    with writing(path):
        try:
            yield temporary
            _flush(temporary)
            if path.is_dir() and not path.is_symlink():
                old = path.with_name(f".tmp-{os.urandom(4).hex()}-old-{path.name}")
                os.replace(path, old)
                os.replace(temporary, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
        finally:
            remove(temporary)


@contextlib.contextmanager
def temporary_folder(home: Path) -> Iterator[Path]:
    """A folder in ``home`` to write files to that then move into ``home``.

    Raises:
        ColdframeError: The place cannot be written, or the disk is full. Either way the folder goes.
    """
    folder = home / f".tmp-{os.urandom(4).hex()}"
    with writing(folder):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that is never written in place, or a copy where the disk has no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(values: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes; what is not defined (NaN, infinity) is null.

    >>> to_json({"p": float("nan"), "label": "café"})
    '{"p": null, "label": "café"}'
    """
    return json.dumps(without_nan(values), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, values: Any, *, indent: int | None = 1) -> None:
    """Write :func:`to_json`, whole or not at all."""
    write_text(path, to_json(values, indent=indent) + "\n")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Make the parents of ``path``; a full disk or a forbidden place becomes an error that says what to do."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number = error.errno
        else:  # writers in Rust (safetensors) report what the system says in an error of their own
            said = re.search(r"\(os error (\d+)\)", str(error))
            number = int(said[1]) if said else errno.ENOSPC if "No space left on device" in str(error) else None
        if number in _FIXES and not isinstance(error, ColdframeError):
            raise ColdframeError(f"Cannot write {path}: {error}", fix=_FIXES[number]) from error
        raise


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Ask the disk to keep a file, or all files of a folder, and the folder's own entry."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
    if os.name == "posix":
        for folder in {path, path.parent} if path.is_dir() else {path.parent}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
