"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_UNKNOWN = 8 << 30  # where the system does not say


def usable_memory(device: torch.device | None = None, system: Path = Path("/")) -> int:
    """Bytes: of a GPU all of it; else the machine's, or what a container, a batch system or a shell leave of it.

    Args:
        device: Where; None is the processor's.
        system: Root of the file system that tells.

    Cost: some small files are read; about 50 microseconds.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min([_physical(), *_address_space(), *cgroup_limits(system)])


def cgroup_limits(system: Path = Path("/")) -> Iterator[int]:
    """The limits of the control groups that this process is in and of those around them, versions 1 and 2."""
    root, groups = system / "sys/fs/cgroup", system / "proc/self/cgroup"
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield from _limits(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(root / "memory", path, "memory.limit_in_bytes")


def _limits(root: Path, path: str, name: str) -> Iterator[int]:
    """Of a group and of all above it. In a container the path may be that outside of it: then its root counts."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        try:
            text = root.joinpath(*parts[:depth], name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdecimal() and len(text) < 30:  # "max" is no limit
            yield int(text)


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return _UNKNOWN


def _address_space() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit
