"""How much memory this process may use, and how much it has used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from coldframe.frozen.control_groups import settings

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
    """The limits of the control groups that this process is in and of those around them."""
    for _, text in settings("memory", "memory.max", "memory.limit_in_bytes", system):
        if text.isdecimal() and len(text) < 30:  # "max" is no limit
            yield int(text)


def reset_peak_memory() -> bool:
    """Let the peak start again from the memory in use now; False where the system cannot (all but Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb(device: str = "cpu") -> float:
    """Largest memory since ``reset_peak_memory`` (or since the start), in MB of 10^6 bytes.

    Args:
        device: ``"cpu"`` for the resident memory of the process, ``"cuda"`` for what torch held on the GPU.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


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
