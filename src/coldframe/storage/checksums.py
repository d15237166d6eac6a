"""Checksums of large files, and hashes of what they hold, computed once for each state that the files are in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coldframe.errors import ArtifactError, ColdframeError
from coldframe.storage.cache import cache_dir, forget_oldest
from coldframe.storage.files import sha256_of, write_text

MOST = 1 << 20
"""Bytes of checksums that the cache keeps: some thousand files."""

_SETTLED = 2.0  # seconds after a write, before which another one may leave the same time behind
_remembered: dict[str, tuple[list[int], str]] = {}


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, in hex: remembered in the cache with the file's size, times and number on the disk.

    Cost: about 1.5 GB a second the first time, nothing after it, until the file is written to.
    """
    path = path.resolve()
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    known = _remembered.get(str(path)) or _read(path)
    if known is not None and known[0] == state:
        _remembered[str(path)] = known
        return known[1]
    checksum = sha256_of(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        _remembered[str(path)] = (state, checksum)
        with contextlib.suppress(ColdframeError, OSError):  # a read-only cache remembers nothing
            _remember(_place(path), json.dumps({"path": str(path), "state": state, "sha256": checksum}))
    return checksum


def hash_once(files: Sequence[Path], about: Sequence[str], compute: Callable[[], str]) -> str:
    """A SHA-256, in hex, of what files hold: computed once for each content of theirs, and remembered in the cache.

    Args:
        files: What it depends on.
        about: What else it depends on.
        compute: Makes it.
    """
    state = hashlib.sha256(" ".join([*about, *map(sha256_once, files)]).encode()).hexdigest()
    memo = cache_dir() / "checksums" / f"weights-{state[:32]}.txt"
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", known := memo.read_text(encoding="utf-8")):
            return known
    value = compute()
    with contextlib.suppress(ColdframeError, OSError):  # a read-only cache remembers nothing
        _remember(memo, value)
    return value


def check_files(folder: Path, checksums: Mapping[str, str], fix: str) -> None:
    """Check that files of a folder are what they were.

    Args:
        folder: Where they are.
        checksums: SHA-256 by name.
        fix: What to do where one is not.

    Raises:
        ArtifactError: A file is absent or changed; names it.
    """
    for name, checksum in checksums.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} lacks {name}", fix=fix)
        if sha256_once(path) != checksum:
            raise ArtifactError(f"{path} is not the file that was saved: truncated or changed", fix=fix)


def _remember(memo: Path, text: str) -> None:
    write_text(memo, text)
    forget_oldest(memo.parent, MOST)


def _place(path: Path) -> Path:
    return cache_dir() / "checksums" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> tuple[list[int], str] | None:
    try:
        record = json.loads(_place(path).read_text(encoding="utf-8"))
        return list(record["state"]), str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ColdframeError):
        return None
