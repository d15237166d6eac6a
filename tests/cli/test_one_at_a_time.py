"""A folder that somebody writes to is nobody else's until then: whoever comes second is told, before any work."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran

import coldframe as cf
from coldframe.diagnosis.ladder import ladder
from coldframe.errors import ColdframeError
from coldframe.storage.folders import exclusive

Run = Callable[..., Ran]
LOG = [{"question": f"where is {i}?", "contexts": [f"{i} is here"], "ground_truth": "here"} for i in range(3)]


@pytest.fixture
def taken(tmp_path: Path, cache: Path) -> Iterator[Path]:
    """A folder that another thread writes to: a lock of a thread keeps other processes out as well."""
    folder, stack = tmp_path / "out", contextlib.ExitStack()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stack.enter_context, exclusive(folder)).result()
        try:
            yield folder
        finally:
            pool.submit(stack.close).result()


@pytest.mark.parametrize("command", ["fit", "compare", "diagnose", "reweight"])
def test_who_comes_second_is_told_before_the_model_is_read(
    run: Run, table: Path, tmp_path: Path, taken: Path, command: str
) -> None:
    log = tmp_path / "rag.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in LOG))
    data = {"reweight": (), "diagnose": (log,)}.get(command, (table,))
    name = ("no-such-model",) if command == "reweight" else ("--model", "no-such-model")
    ran = run(command, *data, *name, "--out", taken)
    assert ran.status == 2 and f"Another process writes to {taken}" in ran.err
    ran = run(command, *data, *name, "--out", tmp_path / "free")
    assert ran.status == 2 and "no-such-model" in ran.err and "Another process" not in ran.err


@pytest.mark.slow
def test_a_second_diagnosis_of_artifacts_and_a_second_way_back_are_told(run: Run, fitted: Path, taken: Path) -> None:
    for words in (("diagnose", fitted), ("diagnose", fitted, fitted), ("unfold", fitted)):
        ran = run(*words, "--out", taken)
        assert ran.status == 2 and "Another process writes to" in ran.err


@pytest.mark.parametrize("function", [cf.compare, cf.diagnose, cf.diagnose_log, ladder])
def test_calls_from_python_hold_their_folder(function: Callable[..., Any], tmp_path: Path, taken: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder, problem in ((taken, "Another process"), (tmp_path / "mine", "did not write")):
        with pytest.raises(ColdframeError, match=problem):
            function(*[None] * 3, out=folder)
