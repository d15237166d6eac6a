"""What is imported before a command does anything: in a process of its own, for others have it all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coldframe.cli import threads


def imported_by(code: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules, sep='\\n')"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize("code", ["import coldframe", "from coldframe.cli import main; main(['--help'])"])
def test_the_package_and_its_help_load_no_library(code: str) -> None:
    assert not imported_by(code) & {"torch", "transformers", "numpy", "tyro", "rich", "scipy", "sklearn", "rdkit"}


@pytest.mark.parametrize("command", ["predict", "evaluate", "inspect", "cache", "tasks", "methods"])
def test_the_options_of_a_command_are_read_before_torch_is_loaded(command: str) -> None:
    assert "torch" not in imported_by(f"import coldframe.cli.{command}")


def test_which_threads_compute_is_said_once_and_not_to_the_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(threads, "say", lines.append)
    for quiet in (True, False):
        threads.start_threads.cache_clear()
        for _ in range(2):
            threads.start_threads(quiet)
        assert len(lines) == (not quiet)
    assert lines[0].startswith("threads: ") and "memory: " in lines[0]
