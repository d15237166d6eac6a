"""How many threads compute: one for each physical core that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from coldframe.frozen.control_groups import settings
from coldframe.frozen.memory import usable_memory

#: Variables by which a user says how many threads compute.
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cores(system: Path = Path("/")) -> int:
    """Physical cores that this process may use, at least 1: by its affinity, and by the time that a container allows.

    Two threads of one core share what multiplies matrices, so the second one brings nothing.

    Args:
        system: Root of the file system that tells.
    """
    try:
        allowed: Collection[int] = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        allowed = range(os.cpu_count() or 1)
    cores = len({_core_of(cpu, system) for cpu in allowed})
    return max(1, min([cores, *(math.ceil(limit) for limit in _limits(system))]))


def set_threads() -> str:
    """Let as many threads compute as there are usable cores, unless the user says how many; returns a line on it."""
    if named := next((name for name in CHOSEN if os.environ.get(name)), None):
        reason = f"as {named} says"
    else:
        cores = usable_cores()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        reason = f"for {cores} usable cores of {os.cpu_count()}; OMP_NUM_THREADS chooses another number"
    return f"threads: {torch.get_num_threads()}, {reason}; memory: {usable_memory() / 1e9:.1f} GB at most"


def _core_of(cpu: int, system: Path) -> tuple[str, ...]:
    """The physical core that a logical one belongs to; it itself where the system does not say."""
    folder = system / f"sys/devices/system/cpu/cpu{cpu}/topology"
    try:
        return tuple((folder / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(cpu),)


def _limits(system: Path) -> Iterator[float]:
    """Cores' worth of time that control groups allow."""
    for folder, text in settings("cpu", "cpu.max", "cpu.cfs_quota_us", system):
        try:
            if " " in text:
                quota, period = text.split()
            else:
                quota, period = text, (folder / "cpu.cfs_period_us").read_text().strip()
            if int(quota) > 0:  # version 1 says -1 for no limit
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # version 2 says max
            continue
