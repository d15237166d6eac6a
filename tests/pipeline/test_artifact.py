"""Artifacts: what is written, and everything that can be wrong with what is read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.contract.cases import QUERIES, TWO, TinyEncoder, lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.tiny import tiny

import coldframe
from coldframe.errors import ArtifactError, ColdframeError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import WEIGHTS
from coldframe.methods.registry import method_class
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.pipeline.saved import STORE, TRAINED, VECTORS
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.storage import artifact as manifests
from coldframe.storage import files
from coldframe.storage.artifact import FORMAT
from coldframe.storage.artifact import MANIFEST as CONFIG
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig


def pipeline_of(lm: FrozenLM | None = None, on: Task | None = None, **settings: Any) -> Pipeline:
    method = method_class("mha-esp")(encoder="tiny", adapter=8, heads=2, k=3, **settings)
    training = TrainingConfig(epochs=1, batch_size=4)
    return fit(
        method,
        lm or lm_of("llama"),
        on or task(),
        retrieval=RetrievalConfig(encoder="tiny"),
        training=training,
        quiet=True,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pipeline_of().save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


def refused(folder: Path, reason: str, lm: FrozenLM | None = None) -> None:
    with pytest.raises(ArtifactError, match=reason) as caught:
        load(folder, lm or lm_of("llama"))
    assert caught.value.problem


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Settings changed by somebody who also mends the checksum."""
    config = json.loads((folder / CONFIG).read_text())
    del config["sha256"]
    change(config)
    config["files"] = {name: files.sha256_of(folder / name) for name in (WEIGHTS, STORE, TRAINED)}
    config["sha256"] = manifests._digest(config)
    (folder / CONFIG).write_text(json.dumps(config))


# ---- what is written --------------------------------------------------------------------------------------


def test_an_artifact_names_all_it_depends_on(saved: Path) -> None:
    lm = lm_of("llama")
    config = json.loads((saved / CONFIG).read_text())
    assert config["format"] == FORMAT and config["coldframe_version"] == coldframe.__version__
    assert config["base_model"]["name"] == "tiny llama" and config["base_model"]["weight_hash"] == lm.weight_hash
    assert config["base_model"]["dtype"] == "torch.float32"
    assert config["encoder"] == {"spec": "tiny", "hash": TinyEncoder().hash}
    assert config["store"]["size"] == 16 and config["files"].keys() == {WEIGHTS, STORE, VECTORS, TRAINED}
    assert config["peak_memory_mb"] == round(load(saved, lm).peak_memory_mb) > 50
    assert config["schema"]["labels"] == ["A", "B"] and config["method_config"]["heads"] == 2
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        ["README.md", CONFIG, STORE, VECTORS, TRAINED, WEIGHTS]
    )
    assert "tiny llama" in (saved / "README.md").read_text()
    assert all(not key.startswith("setting") for key in load_file(saved / WEIGHTS))  # nothing of the base model


def test_a_pipeline_is_evaluated_with_intervals() -> None:
    pipeline, rows = pipeline_of(), task().test or task().train
    scores = pipeline.evaluate(rows)
    assert next(iter(scores)) == pipeline.schema.metric and {"accuracy", "auroc"} <= scores.keys()
    right = [label == row.target for label, row in zip(pipeline.predict([r.text for r in rows]), rows, strict=True)]
    accuracy = scores["accuracy"]
    assert accuracy.value == pytest.approx(100 * np.mean(right)) and accuracy.n == len(rows)
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert pipeline.evaluate(rows, ["brier"]).keys() == {pipeline.schema.metric, "brier"}


def test_texts_survive_whatever_they_hold(tmp_path: Path) -> None:
    """Line separators of Unicode are line ends to Python and not to JSON lines."""
    odd = ["a\u2028b", "c\u2029d", "e\x85f", "g\x0b\x0c\x1ch", 'i"\\ j', "漢字 🧪", "tab\tand\rreturn"]
    whole = task()
    rows = tuple(dataclasses.replace(e, text=f"{e.text} {t}") for e, t in zip(whole.train, odd, strict=False))
    pipeline = pipeline_of(on=dataclasses.replace(whole, train=(*rows, *whole.train[len(rows) :])))
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path, pipeline.lm)
    assert again.store.examples == pipeline.store.examples
    np.testing.assert_array_equal(again.predict_proba(QUERIES), pipeline.predict_proba(QUERIES))


def test_a_loaded_artifact_writes_the_same_files_again(saved: Path, tmp_path: Path) -> None:
    load(saved, lm_of("llama")).save_pretrained(tmp_path / "again")
    for name in (CONFIG, WEIGHTS, STORE, TRAINED, "README.md"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_saving_over_an_artifact_replaces_it(saved: Path) -> None:
    other = pipeline_of(static=False)
    other.save_pretrained(saved)
    np.testing.assert_array_equal(load(saved, other.lm).predict_proba(QUERIES), other.predict_proba(QUERIES))


def test_loading_needs_no_model_where_the_artifact_names_one(tmp_path: Path) -> None:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    lm = coldframe.load_lm(str(tmp_path / "base"), dtype="float32", device="cpu")
    pipeline = pipeline_of(lm)
    pipeline.save_pretrained(tmp_path / "artifact")
    again = coldframe.load(tmp_path / "artifact")
    assert again.lm is not lm and again.lm.dtype == torch.float32
    np.testing.assert_allclose(again.predict_proba(QUERIES), pipeline.predict_proba(QUERIES), atol=1e-6)


def test_a_model_without_a_name_has_to_be_passed(tmp_path: Path) -> None:
    lm = FrozenLM(*tiny("llama"))
    pipeline_of(lm).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"LlamaForCausalLM that was made in memory.*load\(path, lm\)"):
        load(tmp_path)
    assert load(tmp_path, lm).predict(QUERIES)
    refused(tmp_path, "another base model", lm_of("gpt2"))


# ---- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["gpt2", "llama, other weights", "llama in bfloat16"])
def test_another_base_model_is_refused(other: str, saved: Path) -> None:
    model, tokenizer = tiny("gpt2" if other == "gpt2" else "llama", seed=1 if "weights" in other else 0)
    if "bfloat16" in other:
        model.to(torch.bfloat16)
    refused(saved, "another base model.*tiny llama.*torch.float32", FrozenLM(model, tokenizer))


def test_a_newer_format_is_refused_before_anything_else_is_read(saved: Path) -> None:
    (saved / CONFIG).write_text(json.dumps({"format": FORMAT + 1, "all": "else is different"}))
    refused(saved, f"newer coldframe.*Got: {FORMAT + 1}.*Upgrade")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, STORE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "one byte", "noise"])
def test_a_damaged_file_is_refused(name: str, damage: str, saved: Path) -> None:
    path = saved / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        made = {"empty": b"", "cut": content[:-20], "one byte": bytes(changed), "noise": b"\xff\xfe" * 50}
        path.write_bytes(made[damage])
    refused(saved, "not a coldframe artifact|lacks|damaged|not the file that was saved")


@pytest.mark.parametrize(
    "text", ["[]", "1", '"x"', "{}", '{"format": null}', '{"format": "one"}', '{"format": []}', "null"]
)
def test_settings_that_are_none_are_refused(text: str, saved: Path) -> None:
    (saved / CONFIG).write_text(text)
    refused(saved, "damaged")


def test_a_changed_setting_is_refused(saved: Path) -> None:
    config = json.loads((saved / CONFIG).read_text())
    config["method_config"]["similarity"] = False
    (saved / CONFIG).write_text(json.dumps(config))
    refused(saved, "not the file that was saved")


def test_another_store_is_refused(saved: Path) -> None:
    lines = (saved / STORE).read_text().split("\n")
    rows = [json.loads(line) for line in lines[:-1]]
    rows[0]["target"] = "B" if rows[0]["target"] == "A" else "A"
    (saved / STORE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    resealed(saved, lambda config: None)
    refused(saved, "exemplar store is not the one")


def test_another_encoder_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(TinyEncoder):
        def __init__(self, spec: str = "tiny") -> None:
            super().__init__(spec)
            self.hash = "another"

    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", Other)
    refused(saved, "encoder 'tiny' is not the one.*Got: another")


@pytest.mark.parametrize("change", ["shape", "name", "extra", "absent"])
def test_weights_that_do_not_fit_are_refused(change: str, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    first = weights.pop("value.weight")
    if change != "absent":
        key = {"shape": "value.weight", "name": "queries.weight", "extra": "value.weight"}[change]
        weights[key] = first[:-1].contiguous() if change == "shape" else first
    if change == "extra":
        weights["more"] = torch.zeros(1)
    save_file(weights, saved / WEIGHTS)
    resealed(saved, lambda config: None)
    refused(saved, "weights do not fit the method mha-esp")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("base_model"),
        lambda config: config.pop("schema"),
        lambda config: config["method_config"].update(head=3),
        lambda config: config.update(retrieval=[]),
        lambda config: config.update(store=None),
        lambda config: config["schema"].update(labels=["A"]),
    ],
    ids=["no model", "no schema", "unknown setting", "a list", "null", "one label"],
)
def test_settings_that_no_coldframe_wrote_are_an_error_and_no_crash(
    change: Callable[[dict[str, Any]], object], saved: Path
) -> None:
    resealed(saved, change)
    with pytest.raises(ColdframeError):
        load(saved, lm_of("llama"))


@pytest.mark.parametrize("line", ["{}", "[1]", "not json", '{"text": "a"}', "null"])
def test_exemplars_that_are_none_are_refused(line: str, saved: Path) -> None:
    with open(saved / STORE, "a") as store:
        store.write(line + "\n")
    resealed(saved, lambda config: None)
    refused(saved, "damaged")


def test_pickles_are_not_read(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(saved / "exploded"),)

    torch.save({"value.weight": Bomb()}, saved / WEIGHTS)
    resealed(saved, lambda config: None)
    refused(saved, "damaged")
    assert not (saved / "exploded").exists()


@pytest.mark.parametrize("name", ["absent", "folder/absent"])
def test_a_place_where_nothing_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="absent"):
        load(name, lm_of("llama"))


# ---- what cannot be written -------------------------------------------------------------------------------


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("here first")
    with pytest.raises(ColdframeError, match="a file, not a folder"):
        pipeline_of().save_pretrained(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "here first"


@pytest.mark.parametrize("full_at", [WEIGHTS, STORE, CONFIG])
def test_a_full_disk_leaves_no_half_artifact(full_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = files._flush

    def full(path: Path) -> None:
        if path.name.endswith(full_at):
            raise OSError(28, "No space left on device")
        flush(path)

    pipeline = pipeline_of()
    monkeypatch.setattr("coldframe.storage.files._flush", full)
    with pytest.raises(ColdframeError, match="disk is full"):
        pipeline.save_pretrained(tmp_path / "a")
    assert not any(path.name.startswith(".tmp") or path.name == full_at for path in (tmp_path / "a").iterdir())
    with pytest.raises(ArtifactError, match="not a coldframe artifact"):
        load(tmp_path / "a", pipeline.lm)


def test_the_schema_comes_back_as_it_was(saved: Path) -> None:
    assert load(saved, lm_of("llama")).schema == TWO


def test_an_artifact_of_an_older_format_is_told(saved: Path) -> None:
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**config, "format": 1}))
    with pytest.raises(ArtifactError, match=r"older coldframe.*Fit again"):
        load(saved, lm_of("llama"))
