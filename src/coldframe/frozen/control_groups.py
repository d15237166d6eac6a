"""What containers and batch systems allow a process: Linux control groups, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def settings(controller: str, file: str, old_file: str, system: Path = Path("/")) -> Iterator[tuple[Path, str]]:
    """A setting of the groups that this process is in and of those around them: the group's folder, and the text.

    Args:
        controller: ``memory`` or ``cpu``.
        file: Of the setting in version 2.
        old_file: Of the setting in version 1.
        system: Root of the file system that tells.
    """
    root, groups = system / "sys/fs/cgroup", system / "proc/self/cgroup"
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield from _upwards(root, path, file)
        elif controller in controllers.split(","):
            yield from _upwards(root / controller, path, old_file)


def _upwards(root: Path, path: str, name: str) -> Iterator[tuple[Path, str]]:
    """Of a group and of all above it. In a container the path may be that outside of it: then its root counts."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:depth])
        try:
            yield folder, (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
