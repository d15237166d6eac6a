"""Folders that results are written to: ours by a marker, so that nothing of anybody else's is touched."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import Timeout

from coldframe.config import local_path
from coldframe.errors import ColdframeError
from coldframe.storage.artifact import MANIFEST
from coldframe.storage.cache import folder_lock
from coldframe.storage.files import remove, writing

P = ParamSpec("P")
T = TypeVar("T")

MARKER = ".coldframe"
_TEMPORARY = re.compile(r"\.tmp-(?:[0-9a-f]{8}(?:-.*)?|wheel-\w+)")  # as `files` and `downloads` name them
_ABANDONED = 24 * 3600.0  # seconds without a write, after which no process is at work on a temporary file


def claim(folder: Path) -> Path:
    """Make a folder ours to write to: new, empty, or one that coldframe wrote to before.

    What killed runs left in it more than a day ago is swept. Hidden files (``.git``) do not make it anybody's.

    Raises:
        ColdframeError: It holds files that coldframe did not write, or the model of somebody; or it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "mine.csv").write_text("text,label")
        ...     claim(Path(folder))
        Traceback (most recent call last):
        coldframe.errors.ColdframeError: ... holds files that coldframe did not write. Got: mine.csv. Choose another...
    """
    folder = folder.expanduser()
    occupied = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if occupied is not None:
        raise ColdframeError(f"Cannot write {occupied}: it is a file, not a folder", fix="Choose another --out.")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    ours = MARKER in names or MANIFEST in names
    foreign = [name for name in names if name == "config.json" or (not ours and not name.startswith("."))]
    if foreign:
        model = "config.json" in foreign
        raise ColdframeError(
            f"{folder} holds {'a model' if model else 'files that coldframe did not write'}",
            got=", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else ""),
            fix="Choose another folder (--out): a new or an empty one, or one that coldframe wrote.",
        )
    with writing(folder / MARKER):
        (folder / MARKER).touch()
    if ours:
        sweep(folder)
    return folder


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """As :func:`claim`, for one process at a time, see :func:`exclusive`."""
    folder = claim(folder)
    with exclusive(folder):
        yield folder


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes and threads from writing to a folder, which need not exist; its own thread may do so again.

    Raises:
        ColdframeError: Another one writes to it.
    """
    try:
        held = folder_lock("folder", folder, wait=0)
        held.__enter__()
    except Timeout as error:
        raise ColdframeError(
            f"Another process writes to {folder}", fix="Wait for it, or choose another folder (--out)."
        ) from error
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def claims_out(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function hold the folder ``out``, a keyword of it, while it runs, as :func:`claimed` does."""

    @functools.wraps(function)
    def holding(*args: P.args, **kwargs: P.kwargs) -> T:
        out = kwargs.get("out")
        if out is None:
            return function(*args, **kwargs)
        with claimed(local_path(str(out))) as folder:
            kwargs["out"] = folder
            return function(*args, **kwargs)

    return holding


def sweep(folder: Path) -> int:
    """Delete what killed runs left half-written in a folder of ours; returns how many files and folders.

    Only names that we give to temporary files, and only what nobody has written to for a day.
    """
    swept = 0
    for path in sorted(folder.rglob(".tmp-*")):
        if _TEMPORARY.fullmatch(path.name) and _abandoned(path):
            remove(path)
            swept += 1
    return swept


def _abandoned(path: Path) -> bool:
    try:
        files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
        return max(file.lstat().st_mtime for file in files) < time.time() - _ABANDONED
    except OSError:  # somebody else sweeps it, or writes it
        return False
