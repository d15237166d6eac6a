"""Files of others: no command overwrites or deletes what coldframe did not write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import QUICK, Ran

from coldframe.storage.artifact import MANIFEST

Run = Callable[..., Ran]


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory, with files whose names are like ours."""
    folder = tmp_path / "work"
    for name in ("passages-2024.jsonl", "bank-mine.safetensors", "training/notes.txt", "adapters/mine.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", ["encode", "fit", "compare"])
def test_the_working_directory_is_not_taken(command: str, run: Run, lm: str, table: Path, work: Path) -> None:
    before = listing(work)
    data = "fact-corpus:3" if command == "encode" else table
    ran = run(command, data, "--model", lm, "--out", ".", *(QUICK if command == "fit" else ()))
    assert ran.status == 2 and "files that coldframe did not write" in ran.err and "--out" in ran.err
    assert listing(work) == before


def test_a_model_is_not_written_over(run: Run, lm: str, table: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(lm, model)
    before = listing(model)
    ran = run("fit", table, "--model", model, "--out", model, *QUICK)
    assert ran.status == 2 and "holds a model" in ran.err
    assert listing(model) == before


@pytest.mark.slow
def test_an_own_folder_is_written_again_and_what_others_put_there_stays(
    run: Run, lm: str, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("fit", table, "--model", lm, "--out", out, *QUICK)
    assert run(*words).status == 0
    (out / "notes.txt").write_text("mine")
    (out / "store-mine.jsonl").write_text("mine")
    assert run(*words).status == 0 and (out / MANIFEST).is_file()
    assert (out / "notes.txt").read_text() == (out / "store-mine.jsonl").read_text() == "mine"


@pytest.mark.parametrize("device", ["cuda:9", "tpu", "gpu"])
def test_a_device_that_is_not_here_is_one_line(device: str, run: Run, lm: str, table: Path, tmp_path: Path) -> None:
    ran = run("fit", table, "--model", lm, "--device", device, "--out", tmp_path / "out", *QUICK)
    assert ran.status == 2 and "Traceback" not in ran.err
    assert "device" in ran.err.splitlines()[-1]


@pytest.mark.slow
def test_home_in_a_path(run: Run, lm: str, table: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work.parent))
    assert run("fit", table, "--model", lm, "--out", "~/fitted", *QUICK).status == 0
    assert (work.parent / "fitted" / MANIFEST).is_file() and not (work / "~").exists()
