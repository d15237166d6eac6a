"""The folder for what can be made again, and locks between processes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from filelock import FileLock

from coldframe.storage.files import writing


def cache_dir() -> Path:
    """The folder for what can be made again: ``$COLDFRAME_CACHE``, else ``~/.cache/coldframe``."""
    return Path(os.environ.get("COLDFRAME_CACHE") or "~/.cache/coldframe").expanduser()


def lock(name: str) -> FileLock:
    """A lock between processes, by name; use it as a context manager."""
    path = cache_dir() / "locks" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"
    with writing(path):
        return FileLock(path)
