"""Text states stay within what the process may use, all models of it together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coldframe.frozen import states
from coldframe.frozen.memory import cgroup_limits, usable_memory
from coldframe.frozen.states import StateCache, TextState


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "1000", "sys/fs/cgroup/a/b/memory.max": "max"}, [1000]),
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "1000", "sys/fs/cgroup/a/b/memory.max": "900"}, [900, 1000]),
        ("0::/docker/x", {"sys/fs/cgroup/memory.max": "700"}, [700]),  # the path is that outside of the container
        (
            "5:cpu,memory:/job\n3:cpuset:/x",
            {
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "500",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1",
            },
            [500],
        ),
        ("0::/../../etc", {"sys/fs/cgroup/memory.max": "800"}, [800]),
        ("nonsense", {}, []),
        ("0::/", {"sys/fs/cgroup/memory.max": "9" * 40}, []),
    ],
)
def test_the_limits_of_control_groups(groups: str, files: dict[str, str], limits: list[int], tmp_path: Path) -> None:
    root = system(tmp_path, groups, files)
    assert list(cgroup_limits(root)) == limits
    assert usable_memory(None, root) <= min(limits, default=1 << 60)


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert list(cgroup_limits(tmp_path)) == [] and usable_memory(None, tmp_path) > 1 << 20


def state() -> TextState:
    return TextState(torch.zeros(1, 2, 1, 4, 4), torch.zeros(8))  # 160 bytes


def test_caches_of_one_process_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "usable_memory", lambda _: 1200)  # of which 480 bytes: three states
    monkeypatch.setattr(states, "_SHARING", type(states._SHARING)())
    first, second, own = StateCache(), StateCache(), StateCache(budget=320)
    for i in range(2):
        first.put((), (i,), state())
    for i in range(3):
        second.put((), (i,), state())
        own.put((), (i,), state())
    assert (len(first), len(second), len(own)) == (2, 1, 2) and second.full and own.full
    del first
    second.clear()
    for i in range(9):
        second.put((), (i,), state())
    assert len(second) == 3


@pytest.mark.slow
def test_peak_memory_sees_what_was_freed() -> None:
    # In a process of its own: in this one other tests' tensors and mapped weights are dropped meanwhile,
    # and what is dropped between two readings hides what was added.
    code = """
import numpy as np
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
resets = reset_peak_memory()
before = peak_memory_mb()
np.ones(12_500_000).sum()  # 100 MB
print(int(resets), peak_memory_mb() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    resets, grown = done.stdout.split()
    assert float(grown) > 60 if int(resets) else float(grown) >= 0
