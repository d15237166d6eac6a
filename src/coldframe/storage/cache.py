"""The folder for what can be made again, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from coldframe.errors import ColdframeError
from coldframe.progress import say
from coldframe.storage.files import writing

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def cache_dir() -> Path:
    """The folder for what can be made again: ``$COLDFRAME_CACHE``, else ``~/.cache/coldframe``.

    Who has no home folder (a service, a container with a number for a user) gets one for this user among the temporary
    files, and is told so.

    Raises:
        ColdframeError: There is no home folder, and the temporary one is somebody else's.
    """
    named = os.environ.get("COLDFRAME_CACHE")
    try:
        home = Path("~").expanduser()
        if named or home.is_dir():
            return Path(named or "~/.cache/coldframe").expanduser()
    except RuntimeError:  # nobody knows the home of this user
        if named and not named.startswith("~"):
            return Path(named)
    return _without_home()


@contextlib.contextmanager
def lock(name: str, wait: float = -1) -> Iterator[None]:
    """Hold a lock between processes and threads, by name, while the block runs; whoever holds it may take it again.

    Where the cache is read-only, it lies among the temporary files of this user.

    Args:
        name: Of the lock.
        wait: Seconds to wait for whoever holds it; without end if negative.

    Raises:
        filelock.Timeout: It was held for longer than that.
    """
    file = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"
    try:
        held = _locked(cache_dir() / "locks" / file, wait)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or isinstance(error, TimeoutError):
            with writing(cache_dir() / "locks" / file):
                raise
        held = _locked(_temporary_home() / "locks" / file, wait)
    try:
        yield
    finally:
        held.release()


def forget_oldest(folder: Path, most: int) -> None:
    """Delete the files of a folder that were used longest ago, until the others take so many bytes at most."""
    states = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # another process deletes too
            status = path.stat()
            states.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(states, reverse=True):
        total += size
        if total > most and not path.name.startswith(".tmp-"):
            with contextlib.suppress(OSError):
                path.unlink()


def folder_lock(purpose: str, folder: Path, wait: float = -1) -> contextlib.AbstractContextManager[None]:
    """A lock on what is done to a folder, wherever it is called from."""
    return lock(f"{purpose}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}", wait)


def _locked(path: Path, wait: float) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, is_singleton=True)  # so that its thread may take it twice
    held.acquire(timeout=wait)
    return held


@functools.cache
def _without_home() -> Path:
    folder = _temporary_home()
    say(f"there is no home folder: models and data go to {folder} (COLDFRAME_CACHE names another)")
    return folder


def _temporary_home() -> Path:
    """A folder of this user among the temporary files, which nobody else may write to."""
    user = getattr(os, "getuid", lambda: 0)()
    folder = Path(tempfile.gettempdir()) / f"coldframe-{user}"
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if os.name == "posix" and (not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022):
        raise ColdframeError(f"{folder} is not yours alone", fix="Set COLDFRAME_CACHE to a folder of yours.")
    return folder
