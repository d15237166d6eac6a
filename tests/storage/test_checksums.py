"""Checksums are computed once for each state of a file, and a changed byte is found."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from coldframe.errors import ArtifactError
from coldframe.storage import checksums
from coldframe.storage.checksums import check_files, hash_once, sha256_once
from coldframe.storage.files import sha256_of


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files were written long ago."""
    monkeypatch.setattr(checksums, "_SETTLED", -1.0)


def test_a_file_is_read_once_until_it_changes(
    cache: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    reads: list[Path] = []
    monkeypatch.setattr(checksums, "sha256_of", lambda file: (reads.append(file), sha256_of(file))[1])
    assert sha256_once(path) == sha256_once(path) == sha256_of(path)
    monkeypatch.setattr(checksums, "_remembered", {})  # another process
    assert sha256_once(path) == sha256_of(path) and len(reads) == 1
    status = path.stat()
    time.sleep(0.02)  # times on a disk move in steps
    path.write_bytes(b"abd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time of writing as before
    assert sha256_once(path) == sha256_of(path) and len(reads) == 2


def test_what_was_just_written_is_not_remembered(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    sha256_once(tmp_path / "a")
    assert not (cache / "checksums").exists()


def test_a_damaged_memory_is_no_memory(cache: Path, tmp_path: Path, settled: None) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    sha256_once(path)
    (record,) = (cache / "checksums").iterdir()
    for text in ("", "[]", '{"state": 3}', "[" * 3000):
        checksums._remembered.clear()
        record.write_text(text)
        assert sha256_once(path) == sha256_of(path)


def test_absent_and_changed_files_are_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    check_files(tmp_path, {"a": sha256_of(tmp_path / "a")}, "Do this.")
    with pytest.raises(ArtifactError, match=r"a is not the file that was saved.* Do this."):
        check_files(tmp_path, {"a": "0" * 64}, "Do this.")
    with pytest.raises(ArtifactError, match=r"lacks b\. Do this."):
        check_files(tmp_path, {"b": "0" * 64}, "Do this.")


def test_a_hash_is_computed_once_for_each_content(cache: Path, tmp_path: Path) -> None:
    computed: list[str] = []

    def once(about: str = "float32") -> str:
        return hash_once([tmp_path / "a", tmp_path / "b"], [about], lambda: (computed.append(about), "0" * 64)[1])

    for name in "ab":
        (tmp_path / name).write_bytes(b"abc")
    assert once() == once() == "0" * 64 and len(computed) == 1
    once("bfloat16")
    assert len(computed) == 2
    (tmp_path / "b").write_bytes(b"abd")
    once()
    assert len(computed) == 3
    for memo in (cache / "checksums").glob("weights-*"):
        memo.write_text("half a ha")
    assert once() == "0" * 64 and len(computed) == 4
