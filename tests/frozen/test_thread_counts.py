"""As many threads compute as there are physical cores that the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from coldframe.frozen import threads
from coldframe.frozen.threads import set_threads, usable_cores

FOUR = {f"sys/devices/system/cpu/cpu{cpu}/topology/core_id": str(cpu) for cpu in range(4)}
TWO_WITH_TWO_THREADS = {f"sys/devices/system/cpu/cpu{cpu}/topology/core_id": str(cpu % 2) for cpu in range(4)}
PACKAGE = {f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id": "0" for cpu in range(4)}
TWO_PACKAGES = {f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id": str(cpu // 2) for cpu in range(4)}


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),  # nothing is said: logical cores
        (FOUR | PACKAGE, 4),
        (TWO_WITH_TWO_THREADS | PACKAGE, 2),
        (TWO_WITH_TWO_THREADS | TWO_PACKAGES, 4),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 4),
        ({"proc/self/cgroup": "0::/docker/x", "sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/job",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "nonsense"}, 4),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "100000 0"}, 4),
    ],
)
def test_cores_are_physical_and_within_what_is_allowed(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert usable_cores(system(tmp_path, files)) == cores


def test_only_cores_of_the_affinity_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2}, raising=False)
    assert usable_cores(system(tmp_path, FOUR | PACKAGE)) == 1


def test_the_user_chooses_otherwise_the_cores_do(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    for name in threads.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    try:
        assert set_threads().startswith("threads: 6, for 6 usable cores") and torch.get_num_threads() == 6
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert set_threads().startswith("threads: 1, for 6 usable cores")
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert set_threads().startswith("threads: 3, as OMP_NUM_THREADS says") and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
