"""The cache of users without a home folder, and one that is read-only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.faults.kills import needs_fork, with_refusals

from coldframe.errors import ColdframeError
from coldframe.storage import cache as module
from coldframe.storage.cache import cache_dir, forget_oldest, lock


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose home nobody knows; where temporary files are."""

    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("COLDFRAME_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    module._without_home.cache_clear()
    return tmp_path


def test_without_a_home_there_is_a_cache_and_it_is_said(homeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cache_dir()
    assert folder == cache_dir() and folder.parent == homeless and folder.stat().st_mode & 0o077 == 0
    assert capsys.readouterr().err.count(f"models and data go to {folder}") == 1
    with lock("a"):
        pass


def test_a_home_that_is_not_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLDFRAME_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    module._without_home.cache_clear()
    assert cache_dir().parent == tmp_path and not (tmp_path / "nonexistent").exists()


def test_a_named_cache_needs_no_home(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLDFRAME_CACHE", str(homeless / "mine"))
    assert cache_dir() == homeless / "mine"


@pytest.mark.skipif(os.name != "posix", reason="permissions of a POSIX system")
def test_a_folder_that_somebody_else_can_write_to_is_not_taken(homeless: Path) -> None:
    (homeless / f"coldframe-{os.getuid()}").mkdir()
    (homeless / f"coldframe-{os.getuid()}").chmod(0o777)
    with pytest.raises(ColdframeError, match=r"not yours alone. Set COLDFRAME_CACHE"):
        cache_dir()


@needs_fork
@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES])
def test_a_lock_in_a_read_only_cache_lies_elsewhere(refusal: int, cache: Path) -> None:
    def use() -> None:
        with lock("a"):
            pass

    (cache / "locks").mkdir(parents=True)
    assert with_refusals(cache, refusal, use) == ""
    assert not list((cache / "locks").iterdir())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    forget_oldest(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    forget_oldest(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    forget_oldest(tmp_path / "absent", 20)
