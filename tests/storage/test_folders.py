"""Folders of ours and of others: nothing foreign is overwritten or deleted, and what killed runs left is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coldframe.errors import ColdframeError
from coldframe.storage.folders import MARKER, claim, claimed, sweep


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_an_empty_and_an_own_folder_are_ours(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        claim(folder)
        (folder / "result.json").write_text("{}")
        assert claim(folder) == folder and (folder / MARKER).is_file()
    (tmp_path / "git" / ".git").mkdir(parents=True)
    claim(tmp_path / "git")


@pytest.mark.parametrize("name", ["passages-2024.jsonl", "bank-mine.safetensors", "training/notes.txt"])
def test_a_folder_with_files_of_others_is_refused_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ColdframeError, match=f"files that coldframe did not write. Got: {name.split('/')[0]}"):
        claim(tmp_path)
    assert listing(tmp_path) == before


def test_a_model_s_folder_is_never_ours(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ColdframeError, match="holds a model"):
        claim(tmp_path)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert claim(Path("~/runs")) == tmp_path / "runs"
    assert (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_one_process_at_a_time(tmp_path: Path, cache: Path) -> None:
    code = (
        "import sys, pathlib\nfrom coldframe.storage.folders import claimed\n"
        "try:\n    with claimed(pathlib.Path(sys.argv[1])): print('mine')\n"
        "except Exception as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    with claimed(tmp_path / "out"):
        assert "Another process writes to" in other()
    assert other() == "mine\n"


def test_who_holds_a_folder_may_take_it_again_and_another_thread_may_not(tmp_path: Path, cache: Path) -> None:
    def other() -> str:
        with claimed(tmp_path / "out"):
            return "mine"

    with ThreadPoolExecutor(1) as pool, claimed(tmp_path / "out"):
        with claimed(tmp_path / "out"):
            pass
        with pytest.raises(ColdframeError, match="Another process writes to"):
            pool.submit(other).result()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(other).result() == "mine"


def test_only_what_is_ours_and_abandoned_is_swept(tmp_path: Path) -> None:
    old = time.time() - 2 * 24 * 3600
    names = [".tmp-0a1b2c3d", ".tmp-0a1b2c3d-store.jsonl", ".tmp-0a1b2c3d-old-model/x", ".tmp-wheel-a_b/y.whl"]
    foreign = [".tmp-mine", ".tmp-0a1b2c3", "tmp-0a1b2c3d", ".tmp-0a1b2c3d.txt", "notes.txt"]
    for name in (*names, *foreign, "fresh/.tmp-0a1b2c3d-a", "half/.tmp-0a1b2c3d-b/old", "half/.tmp-0a1b2c3d-b/new"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        if not name.startswith("fresh") and not name.endswith("new"):
            os.utime(path, (old, old))
    for folder in tmp_path.rglob(".tmp-*"):
        if folder.is_dir() and folder.parent.name != "half":
            os.utime(folder, (old, old))
    assert sweep(tmp_path) == len(names)
    left = {*listing(tmp_path)}
    assert left == {*foreign, "fresh/.tmp-0a1b2c3d-a", "half/.tmp-0a1b2c3d-b/old", "half/.tmp-0a1b2c3d-b/new"}


def test_a_link_among_what_was_left_is_cut_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "out").mkdir()
    link = tmp_path / "out" / ".tmp-0a1b2c3d-x"
    link.symlink_to(tmp_path / "precious")
    os.utime(link, (0, 0), follow_symlinks=False)
    assert sweep(tmp_path / "out") == 1 and not link.is_symlink()
    assert (tmp_path / "precious" / "file").read_text() == "mine"
