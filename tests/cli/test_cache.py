from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

Run = Callable[..., Ran]


@pytest.fixture
def filled(cache: Path) -> Path:
    for name, count in (("models/tiny/a", 3000), ("pypi/b", 200), ("wheels/mine.whl", 50), ("locks/c.lock", 0)):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x" * count)
    (cache / ".tmp-0a1b2c3d-half").write_text("x")
    os.utime(cache / ".tmp-0a1b2c3d-half", (0, 0))
    return cache


def test_sizes_are_shown(run: Run, filled: Path) -> None:
    ran = run("cache")
    assert ran.status == 0 and str(filled) in ran.out
    assert "3 kB  models" in ran.out and "200 B  pypi" in ran.out and "3.2 kB  in all" in ran.out
    sizes = json.loads(run("cache", "--json").out)
    assert sizes["bytes"]["models"] == 3000 and sizes["total"] == 3200


def test_one_part_or_all_of_it_is_cleared_and_wheels_stay(run: Run, filled: Path) -> None:
    assert json.loads(run("cache", "--clear", "pypi", "--json").out)["total"] == 3000
    assert not (filled / "pypi").exists() and (filled / ".tmp-0a1b2c3d-half").exists()
    assert json.loads(run("cache", "--clear", "--json").out)["total"] == 0
    assert {path.name for path in filled.iterdir()} == {"wheels", "locks"}
    assert (filled / "wheels" / "mine.whl").is_file()


def test_what_the_cache_does_not_hold_is_told(run: Run, filled: Path) -> None:
    ran = run("cache", "--clear", "model")
    assert ran.status == 2 and "Did you mean 'models'?" in ran.err and (filled / "models").is_dir()
    ran = run("cache", "--clear", "../x")
    assert ran.status == 2


def test_there_may_be_no_cache_yet(run: Run, cache: Path) -> None:
    assert "0 B  in all" in run("cache").out
