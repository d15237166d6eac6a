"""An artifact that is saved over, by a process that is killed on the way, is the old one or the new one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.contract.cases import QUERIES, lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.faults.kills import killed_at, needs_fork
from tests.methods.weight_deltas import support
from tests.methods.weight_deltas.support import tiny_lm

import coldframe as cf
from coldframe.pipeline.pipeline import Pipeline
from coldframe.storage.artifact import MANIFEST, read_artifact


def fitted(seed: int) -> Pipeline:
    method = cf.MHAESP(encoder="tiny", adapter=8, heads=2, k=3 + seed)
    training = cf.TrainingConfig(epochs=1, batch_size=4, seed=seed)
    retrieval = cf.RetrievalConfig(encoder="tiny")
    return cf.fit(method, lm_of("llama"), task(), retrieval=retrieval, training=training, quiet=True)


def killed_everywhere(tmp_path: Path, before: Path, save: Callable[[Path], None], check: Callable[[Path], bool]) -> int:
    """Saves over copies of a folder, killed one call later each time; how many times it was killed."""
    kills, new = 0, []
    while True:
        folder = tmp_path / f"kill-{kills}"
        shutil.copytree(before, folder)
        killed = killed_at(kills + 1, folder, lambda folder=folder: save(folder))
        new.append(check(folder))
        save(folder)  # and it can be saved again
        assert check(folder)
        shutil.rmtree(folder)
        if not killed:
            assert new[-1] and not new[0] and new == sorted(new)  # the old one up to a point, the new one after it
            return kills
        kills += 1


@pytest.mark.slow
@needs_fork
def test_a_kill_while_an_artifact_is_saved_over_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old, new = fitted(0), fitted(1)
    old.save_pretrained(tmp_path / "old")
    expected = [pipeline.predict_proba(QUERIES) for pipeline in (old, new)]
    assert not np.array_equal(*expected)

    def is_new(folder: Path) -> bool:
        answers = cf.load(folder, old.lm).predict_proba(QUERIES)
        assert any(np.array_equal(answers, right) for right in expected)
        return np.array_equal(answers, expected[1])

    assert killed_everywhere(tmp_path, tmp_path / "old", new.save_pretrained, is_new) > 10


def test_saving_over_and_over_leaves_the_files_of_one_artifact(tmp_path: Path) -> None:
    pipelines = [fitted(0), fitted(1)]
    folder = tmp_path / "artifact"
    folder.mkdir()
    foreign = folder / "store-notes.jsonl"
    foreign.write_text("mine")
    for turn in range(4):
        pipelines[turn % 2].save_pretrained(folder)
        artifact = read_artifact(folder)
        places = {(artifact / name).name for name in artifact.manifest["files"]}
        assert {path.name for path in folder.iterdir()} == {*places, "README.md", MANIFEST, foreign.name}
    assert foreign.read_text() == "mine"


def test_nothing_foreign_is_overwritten(tmp_path: Path) -> None:
    for name in ("store.jsonl", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(json.dumps({"mine": name}))
    pipeline = fitted(0)
    pipeline.save_pretrained(tmp_path)
    np.testing.assert_array_equal(
        cf.load(tmp_path, pipeline.lm).predict_proba(QUERIES), pipeline.predict_proba(QUERIES)
    )
    for name in ("store.jsonl", "model.safetensors", "README.md"):
        assert json.loads((tmp_path / name).read_text()) == {"mine": name}


@pytest.mark.slow
@needs_fork
def test_a_kill_while_passages_are_added_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    lm = tiny_lm()
    support.fitted(cf.DyPRAG(), lm, support.part(support.facts(), 0, 5), out=tmp_path / "old", epochs=1)

    def is_new(folder: Path) -> bool:
        size = len(cf.load(folder, lm).store)
        assert size in (5, 7)
        return size == 7

    def grow(folder: Path) -> None:
        cf.grow(cf.load(folder, lm), support.facts(), folder, quiet=True)

    assert killed_everywhere(tmp_path, tmp_path / "old", grow, is_new) > 10
