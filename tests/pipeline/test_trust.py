"""An artifact that somebody else wrote, or changed: it reads nothing that was not verified, and allocates no end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.contract.cases import lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.methods.weight_deltas import support
from tests.methods.weight_deltas.support import tiny_lm

import coldframe as cf
from coldframe.errors import ArtifactError, ConfigError, NotFiniteError
from coldframe.methods.base import WEIGHTS
from coldframe.pipeline.saved import STORE, VECTORS
from coldframe.storage import artifact as manifests
from coldframe.storage.artifact import MANIFEST
from coldframe.storage.files import sha256_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pipeline = cf.fit(
        cf.MHAESP(encoder="tiny", adapter=8, heads=2, k=3),
        lm_of("llama"),
        task(),
        retrieval=cf.RetrievalConfig(encoder="tiny"),
        training=cf.TrainingConfig(epochs=1, batch_size=4),
        quiet=True,
    )
    pipeline.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


def sealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest changed by somebody who also mends its checksum."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = manifests._digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        cf.load(folder, lm_of("llama"))


@pytest.mark.parametrize("name", [WEIGHTS, STORE, "trained_keys.json"])
def test_a_file_that_the_manifest_does_not_list_is_not_read(name: str, saved: Path) -> None:
    sealed(saved, lambda manifest: manifest["files"].pop(name))
    refused(saved, f"lacks {name}")


@pytest.mark.parametrize("files", [{}, {"x": 3}, {"x": "abc"}, {"../x": "0" * 64}, {"/etc/passwd": "0" * 64}, {"": ""}])
def test_lists_of_files_that_turn_checks_off_are_refused(files: dict[str, Any], saved: Path) -> None:
    sealed(saved, lambda manifest: manifest.update(files=files))
    refused(saved, r"lacks|outside of its folder")


@pytest.mark.parametrize("place", ["../outside.jsonl", "/etc/hostname", 3, None, ["a"], ".", "a//b", "..\\x", "C:x"])
def test_places_outside_of_the_folder_are_refused(place: Any, saved: Path) -> None:
    shutil.copy(saved / STORE, saved.parent / "outside.jsonl")
    sealed(saved, lambda manifest: manifest["places"].update({STORE: place}))
    refused(saved, "outside of its folder")


@pytest.mark.parametrize("places", [[], "x", 3, None])
def test_places_that_are_none_are_refused(places: Any, saved: Path) -> None:
    sealed(saved, lambda manifest: manifest.update(places=places))
    refused(saved, "outside of its folder, or none")


def test_links_as_a_hub_s_cache_has_them_are_followed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for path in list(saved.iterdir()):
        blob = tmp_path / "blobs" / sha256_of(path)
        path.rename(blob)
        path.symlink_to(blob)
    assert len(cf.load(saved, lm_of("llama")).store) == len(task().exemplars)


def test_vectors_of_the_store_are_kept_and_only_what_they_were_made_of_takes_them(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = cf.load(saved, lm_of("llama"))
    texts = [row.text for row in task().test]
    with monkeypatch.context() as patch:
        encode, counts = type(pipeline.retriever.encoder).encode, []  # type: ignore[union-attr]
        patch.setattr(
            type(pipeline.retriever.encoder),  # type: ignore[union-attr]
            "encode",
            lambda self, texts: (counts.append(len(texts)), encode(self, texts))[1],
        )
        before = pipeline.predict_proba(texts)
        assert max(counts) < len(pipeline.store), "the store was encoded again"
        (saved / VECTORS).unlink()
        sealed(saved, lambda manifest: manifest["files"].pop(VECTORS))  # as artifacts were before
        assert (cf.load(saved, lm_of("llama")).predict_proba(texts) == before).all()
        assert max(counts) == len(pipeline.store)


def test_damaged_vectors_of_the_store_are_refused(saved: Path) -> None:
    (saved / VECTORS).write_bytes((saved / VECTORS).read_bytes()[:-1])
    refused(saved, f"{VECTORS} is not the file that was saved")
    sealed(saved, lambda manifest: manifest["files"].update({VECTORS: sha256_of(saved / VECTORS)}))
    refused(saved, f"{VECTORS} is damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    weights["value.weight"][0, 0] = value
    save_file(weights, saved / WEIGHTS)
    sealed(saved, lambda manifest: manifest["files"].update({WEIGHTS: sha256_of(saved / WEIGHTS)}))
    refused(saved, r"model.safetensors is damaged: value.weight holds NaN or infinity. Got: 1 values")


@pytest.mark.parametrize("settings", [{"heads": 10**9}, {"k": 10**12}, {"layers": 10**6}, {"adapter": 10**9}])
def test_settings_without_end_are_refused_before_anything_is_allocated(settings: dict[str, int], saved: Path) -> None:
    sealed(saved, lambda manifest: manifest["method_config"].update(settings))
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be at most"):
        cf.load(saved, lm_of("llama"))


@pytest.mark.parametrize(
    "text", ["[" * 5000, '{"a":' * 5000, "1" * 5000, '{"format": ' + "9" * 5000 + "}", "\x00", "nul"]
)
def test_manifests_of_any_depth_and_length_are_told(text: str, saved: Path) -> None:
    (saved / MANIFEST).write_text(text)
    refused(saved, "is damaged")


# ---- adapters of passages ---------------------------------------------------------------------------------


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    pytest.importorskip("bm25s")
    support.fitted(cf.PRAG(), tiny_lm(), support.part(support.facts(), 0, 4), out=tmp_path / "prag", epochs=1)
    return tmp_path / "prag"


def shard(folder: Path) -> Path:
    (path,) = (folder / "adapters").glob("*.safetensors")
    return path


@pytest.mark.parametrize(
    "section, values",
    [
        ("base_model", {"weight_hash": 5}),
        ("store", {"hash": None}),
        ("encoder", {"hash": []}),
        ("schema", {"labels": "ab"}),
        (None, {"history": 5}),
        (None, {"seconds": "a"}),
        (None, {"encoder": None}),
        (None, {"label_bias": ["a"]}),
        (None, {"label_priors": {"A": None}}),
    ],
)
def test_manifests_that_hold_other_kinds_of_things_are_told(section: str | None, values: Any, saved: Path) -> None:
    sealed(saved, lambda manifest: (manifest if section is None else manifest[section]).update(values))
    with pytest.raises(ArtifactError):
        cf.load(saved, lm_of("llama"))


def test_one_byte_of_a_shard_is_found_by_load_and_by_resume(passages: Path) -> None:
    data = bytearray(shard(passages).read_bytes())
    data[-1] ^= 1
    shard(passages).write_bytes(data)
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        cf.load(passages, tiny_lm())
    (passages / MANIFEST).unlink()  # a run that was killed before the artifact was whole
    with pytest.raises(ArtifactError, match="not the file that was saved.*trained again"):
        support.fitted(cf.PRAG(), tiny_lm(), support.part(support.facts(), 0, 4), out=passages, epochs=1)


def test_a_shard_that_the_manifest_does_not_list_is_not_read(passages: Path) -> None:
    before = cf.load(passages, tiny_lm()).method.adapters
    foreign = load_file(shard(passages))["adapters"] + 1
    with_metadata = {"about": json.dumps({"fingerprint": "x", "lessons": before.lessons})}
    save_file({"adapters": foreign}, passages / "adapters" / "zzz.safetensors", metadata=with_metadata)
    after = cf.load(passages, tiny_lm()).method.adapters
    assert torch.equal(after.adapters(after.ids), before.adapters(before.ids))


def test_an_adapter_that_is_no_number_names_its_passage(passages: Path) -> None:
    pipeline = cf.load(passages, tiny_lm())
    bank = pipeline.method.adapters
    adapters = bank.adapters(bank.ids)
    adapters[2, 5] = float("nan")
    path, about = shard(passages), {"fingerprint": "x", "lessons": bank.lessons}
    save_file({"adapters": adapters}, path, metadata={"about": json.dumps(about)})
    name = f"adapters/{path.name}"
    sealed(passages, lambda manifest: manifest["files"].update({name: sha256_of(path)}))
    bank = cf.load(passages, tiny_lm()).method.adapters
    with pytest.raises(NotFiniteError, match=f"adapter of passage {bank.ids[2]!r} is not finite"):
        bank.adapters(bank.ids)


def test_scores_that_are_no_numbers_name_the_query(saved: Path) -> None:
    pipeline = cf.load(saved, lm_of("llama"))
    with torch.no_grad():
        for parameter in pipeline.method.parameters():
            parameter.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match="scores of the labels are not finite.*the first of query [12]"):
        pipeline.predict(["one", "two"])
