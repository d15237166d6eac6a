"""Kill a process at one of its file-system calls, as a power cut or ``kill -9`` would."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLED = 9
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed process is a forked one")


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is a change below a folder."""
    if event not in _EVENTS or (event == "open" and not (int(arguments[2] or 0) & _WRITES)):
        return False
    paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
    return any(os.path.abspath(path).startswith(folder) for path in paths)


def killed_at(call: int, folder: Path, action: Callable[[], object]) -> bool:
    """Run an action in a process of its own that dies just before its n-th change below a folder.

    Returns:
        Whether it was killed; False where it ended before.
    """
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        left = call

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if changes(event, arguments, str(folder.resolve())):
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            action()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, KILLED), f"the process ended with {status}"
    return status == KILLED
