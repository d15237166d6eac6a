"""Killed and started again, a run ends with the weights of one that was left alone; a foreign checkpoint is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import TRAINED, TWO, Case, TinyEncoder, example, lm_of, task
from tests.training import killed

from coldframe.errors import ArtifactError, ColdframeError
from coldframe.frozen.model_sources import weight_hash
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainingConfig(epochs=2, batch_size=4)
CASE = next(case for case in TRAINED if case.id == "mha-esp")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_a_killed_run_ends_like_one_left_alone(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "COLDFRAME_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, dict[str, str]] = json.loads(ended.stdout)
    assert list(found) == list(killed.CASES)
    for case, ends in found.items():
        assert ends.keys() == {"whole", *killed.MOMENTS}
        assert {moment for moment, end in ends.items() if end != ends["whole"]} == set(), case
    assert len({ends["whole"] for ends in found.values()}) == len(found)


def trained(case: Case = CASE, **options: Any) -> Pipeline:
    settings: dict[str, Any] = {"retrieval": RetrievalConfig(encoder="tiny"), "training": CONFIG, "quiet": True}
    return fit(case.method(), options.pop("lm", lm_of("llama")), options.pop("on", task()), **{**settings, **options})


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = trained(out=tmp_path), trained(out=tmp_path)
    assert weight_hash(first.method) == weight_hash(second.method)
    assert first.history == second.history  # seconds included


@pytest.mark.slow
def test_without_resume_a_run_starts_again(tmp_path: Path) -> None:
    first, second = trained(out=tmp_path), trained(out=tmp_path, resume=False)
    assert weight_hash(first.method) == weight_hash(second.method)
    assert first.history != second.history  # the seconds differ


PROMPT = Case("prompt-tuning", "prompt-tuning", {"tokens": 2})
OTHER_TEXT = dataclasses.replace(task().train[-1], text="other")
OTHER_LABELS = tuple(dataclasses.replace(e, target="A") for e in (*task().train, *task().validation))
CHANGES: dict[str, tuple[Case, dict[str, Any]]] = {
    "epochs": (CASE, {"training": CONFIG.replace(epochs=3)}),
    "seed": (CASE, {"training": CONFIG.replace(seed=1)}),
    "heads": (CASE, {"case": dataclasses.replace(CASE, settings={**CASE.settings, "heads": 3})}),
    "method": (CASE, {"case": next(case for case in TRAINED if case.id == "p-esp")}),
    "model": (PROMPT, {"lm": lm_of("gpt2")}),
    "words": (PROMPT, {"on": task(TWO.replace(words=("No", "Yes")))}),
    "validation rows": (PROMPT, {"on": dataclasses.replace(task(), validation=(example(90, "A"),))}),
    "a text": (PROMPT, {"on": dataclasses.replace(task(), train=(*task().train[:-1], OTHER_TEXT))}),
    "labels of the exemplars alone": (CASE, {"store": Store.of(OTHER_LABELS)}),
    "retrieval": (CASE, {"retrieval": RetrievalConfig(encoder="tiny", strategy="random")}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_run_is_refused(change: str, tmp_path: Path) -> None:
    case, options = CHANGES[change]
    trained(case, out=tmp_path)
    with pytest.raises(ArtifactError, match="other settings, data or model.*--out"):
        trained(**{"case": case, **options}, out=tmp_path)


def test_a_checkpoint_made_with_another_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(out=tmp_path)
    other = type("Other", (TinyEncoder,), {"hash": property(lambda _: "another", lambda *_: None)})
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", other)
    with pytest.raises(ArtifactError, match="other settings, data or model"):
        trained(out=tmp_path)


def test_how_often_it_is_written_does_not_make_it_another_run(tmp_path: Path) -> None:
    trained(out=tmp_path)
    trained(out=tmp_path, training=CONFIG.replace(checkpoint_every=1))


@pytest.mark.parametrize("damage", ["cut", "noise", "emptied", "foreign"])
def test_a_damaged_checkpoint_says_so(damage: str, tmp_path: Path) -> None:
    trained(out=tmp_path)
    path = tmp_path / "checkpoint" / "checkpoint.safetensors"
    whole = path.read_bytes()
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(2)}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\xff" * 200, "emptied": b""}[damage])
    with pytest.raises(ArtifactError, match="damaged.*Delete it"):
        trained(out=tmp_path)


def test_a_checkpoint_holds_tensors_and_json_and_nothing_temporary(tmp_path: Path) -> None:
    trained(out=tmp_path, training=CONFIG.replace(checkpoint_every=1))
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["checkpoint.safetensors"]


def test_a_place_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I was here first")
    with pytest.raises(ColdframeError, match="Cannot write .*out.*a file, not a folder"):
        trained(out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "I was here first"


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ColdframeError, match="Cannot write .*change its permissions"):
        trained(out=tmp_path / "out")


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coldframe.storage import tensors as tensor_files

    write, calls = tensor_files.save_file, iter(range(1, 100))

    def full(tensors: Any, path: Path, **options: Any) -> None:
        if next(calls) == 4:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path, **options)

    monkeypatch.setattr(tensor_files, "save_file", full)
    often = CONFIG.replace(checkpoint_every=1)
    with pytest.raises(ColdframeError, match="disk is full"):
        trained(out=tmp_path, training=often)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["checkpoint.safetensors"]
    again, whole = trained(out=tmp_path, training=often), trained()
    assert weight_hash(again.method) == weight_hash(whole.method)
