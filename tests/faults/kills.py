"""A process that dies at one of its file-system calls, as by a power cut or ``kill -9``, or whose calls are refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLED = 9
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed process is a forked one")


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is a change below a folder."""
    if event not in _EVENTS or (event == "open" and not (int(arguments[2] or 0) & _WRITES)):
        return False
    paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
    return any(os.path.abspath(path).startswith(folder) for path in paths)


def die_at(call: int, folder: Path) -> None:
    """From now on this process dies just before its n-th change below a folder."""
    left, below = call, str(folder.resolve())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if changes(event, arguments, below):
            left -= 1
            if left == 0:
                os._exit(KILLED)

    sys.addaudithook(hook)


def refuse_changes(folder: Path, number: int, first: int = 1) -> None:
    """From its n-th change on, this process may change nothing below a folder: ``OSError`` with this number."""
    left, below = first, str(folder.resolve())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if changes(event, arguments, below):
            left -= 1
            if left <= 0 and event not in ("os.remove", "os.rmdir"):
                raise OSError(number, os.strerror(number), below)

    sys.addaudithook(hook)


def killed_at(call: int, folder: Path, action: Callable[[], object]) -> bool:
    """Run an action in a process of its own that dies just before its n-th change below a folder.

    Returns:
        Whether it was killed; False where it ended before.
    """
    status, error = _forked(lambda: die_at(call, folder), action)
    assert status in (0, KILLED), f"the process ended with {status}: {error}"
    return status == KILLED


def with_refusals(folder: Path, number: int, action: Callable[[], object], first: int = 1) -> str:
    """Run an action in a process of its own that may not change a folder; the error it ended with, if any."""
    return _forked(lambda: refuse_changes(folder, number, first), action)[1]


def _forked(prepare: Callable[[], None], action: Callable[[], object]) -> tuple[int, str]:
    sys.stdout.flush()
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        prepare()
        try:
            action()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}"[:4000].encode())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        message = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), message
