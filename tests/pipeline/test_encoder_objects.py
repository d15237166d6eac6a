"""An encoder may be an object: fitted with, saved, and found again, or asked for in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from tests.contract.cases import QUERIES, TinyEncoder, lm_of, task
from tests.retrieval.test_encoders import folders as folders
from tests.retrieval.test_encoders import tokenizer

import coldframe as cf
from coldframe.cli import main
from coldframe.errors import ArtifactError, ConfigError
from coldframe.retrieval import encoder_objects
from coldframe.retrieval.encoder_objects import EncoderObject, spec_of
from coldframe.retrieval.encoders import load_encoder, objects
from coldframe.retrieval.neural import HFEncoder
from coldframe.storage.artifact import MANIFEST


class Plain:
    """What a user has: nothing but ``encode``, which gives a list of lists."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.calls = scale, 0

    def encode(self, texts: list[str]) -> Any:
        self.calls += 1
        vectors = TinyEncoder().encode(texts)
        vectors[:, 0] *= self.scale
        return vectors.tolist()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the objects of another."""
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    objects.clear()
    monkeypatch.setattr(encoder_objects, "_sources", {})


def fitted(own: Any, **retrieval: Any) -> cf.Pipeline:
    method = cf.MHAESP(encoder=own, adapter=8, heads=2, k=3)
    return cf.fit(
        method, lm_of("llama"), task(), retrieval=cf.RetrievalConfig(**retrieval), epochs=1, batch_size=4, quiet=True
    )


def test_any_object_that_encodes_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Plain()
    pipeline = fitted(encoder, encoder=encoder, similarity="cosine")
    assert encoder.calls and pipeline.retriever is not None
    assert pipeline.retriever.encoder is pipeline.method.ready.encoder
    before = pipeline.predict_proba(QUERIES)
    pipeline.save_pretrained(tmp_path)
    np.testing.assert_array_equal(cf.load(tmp_path, lm_of("llama")).predict_proba(QUERIES), before)  # known still

    forget(monkeypatch)
    with pytest.raises(
        ArtifactError, match=r"needs the encoder .* no name to load it by.*coldframe.load\(path, encoder="
    ):
        cf.load(tmp_path, lm_of("llama"))
    with pytest.raises(ArtifactError, match=r"not fitted with this encoder \(Plain\), or it gives other vectors"):
        cf.load(tmp_path, lm_of("llama"), encoder=Plain(1.5))
    np.testing.assert_array_equal(cf.load(tmp_path, lm_of("llama"), encoder=Plain()).predict_proba(QUERIES), before)


def test_method_and_retriever_may_have_different_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fitted(Plain(), encoder=Plain(2.0), similarity="cosine")
    before = pipeline.predict_proba(QUERIES)
    pipeline.save_pretrained(tmp_path)
    forget(monkeypatch)
    with pytest.raises(ArtifactError, match="no name to load it by"):
        cf.load(tmp_path, lm_of("llama"), encoder=Plain())
    forget(monkeypatch)
    again = cf.load(tmp_path, lm_of("llama"), encoder=[Plain(2.0), Plain()])
    np.testing.assert_array_equal(again.predict_proba(QUERIES), before)


@pytest.mark.slow
def test_a_sentence_transformer_is_found_again_by_its_name(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folders["bert"]))
    pipeline = fitted(model, encoder=model, similarity="cosine")
    before = pipeline.predict_proba(QUERIES)
    assert pipeline.method.ready.encoder is not None
    named = load_encoder(f"st:{folders['bert']}")
    np.testing.assert_array_equal(pipeline.method.ready.encoder.encode(QUERIES), named.encode(QUERIES))
    pipeline.save_pretrained(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (source,) = manifest["encoder_objects"].values()
    assert source == f"st:{folders['bert'].resolve()}"

    forget(monkeypatch)
    np.testing.assert_array_equal(cf.load(tmp_path, lm_of("llama")).predict_proba(QUERIES), before)
    # What was changed after it was loaded is another model than the one of its name.
    with torch.no_grad():
        next(model.parameters())[5, 0] += 1
    changed = fitted(model)
    changed.save_pretrained(tmp_path / "changed")
    forget(monkeypatch)
    with pytest.raises(ArtifactError, match=r"came from 'st:.*', which is another one now.*Pass the object"):
        cf.load(tmp_path / "changed", lm_of("llama"))
    assert cf.load(tmp_path / "changed", lm_of("llama"), encoder=model).predict(QUERIES) == changed.predict(QUERIES)


@pytest.mark.slow
def test_the_command_line_loads_by_name_or_says_what_to_pass(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    lm = lm_of("llama")
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    loaded = cf.load_lm(str(tmp_path / "lm"), device="cpu")
    for name, encoder in (("named", SentenceTransformer(str(folders["bert"]))), ("nameless", Plain())):
        method = cf.MHAESP(encoder=encoder, adapter=8, heads=2, k=3)
        retrieval = cf.RetrievalConfig(similarity="bm25")
        cf.fit(method, loaded, task(), retrieval=retrieval, epochs=1, batch_size=4, quiet=True, out=tmp_path / name)
    (tmp_path / "new.txt").write_text("a rose\n")
    forget(monkeypatch)
    assert main(["predict", str(tmp_path / "named"), str(tmp_path / "new.txt"), "--exact"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("A", "B")
    assert main(["predict", str(tmp_path / "nameless"), str(tmp_path / "new.txt")]) == 2
    assert "coldframe.load(path, encoder=...)" in capsys.readouterr().err


@pytest.mark.slow
def test_an_encoder_of_ours_keeps_its_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    unit = HFEncoder(folders["bert"], unit_length=True)
    assert load_encoder(spec_of(unit)) is unit
    fitted(unit).save_pretrained(tmp_path)
    objects.clear()
    with pytest.raises(ArtifactError, match="another one now"):  # its name stands for one without unit length
        cf.load(tmp_path, lm_of("llama"))
    assert cf.load(tmp_path, lm_of("llama"), encoder=unit).method.ready.encoder is unit


def test_vectors_do_not_depend_on_what_is_encoded_beside_them() -> None:
    class Crowded(Plain):
        """Whose vectors carry the number of texts, as padding does."""

        def encode(self, texts: list[str]) -> Any:
            return TinyEncoder().encode(texts) + len(texts)

    encoder = EncoderObject(Crowded())
    together = encoder.encode(QUERIES)
    for text, vector in zip(QUERIES, together, strict=True):
        np.testing.assert_array_equal(EncoderObject(Crowded()).encode([text])[0], vector)


def test_tensors_are_taken_and_a_molecule_reader_need_not_read_words() -> None:
    class Molecules:
        takes_label_text = False

        def encode(self, texts: list[str]) -> torch.Tensor:
            if " " in texts[0]:
                raise ValueError("no SMILES")
            return torch.tensor([[float(len(text)), 1.0] for text in texts], requires_grad=True)

    encoder = EncoderObject(Molecules())
    assert encoder.encode(["CCO", "C"]).tolist() == [[3, 1], [1, 1]]
    assert (encoder.dim, encoder.takes_label_text) == (2, False)


@pytest.mark.parametrize("wrong", [3, ["minilm"], Plain, object()], ids=["a number", "a list", "a class", "an object"])
def test_what_is_no_encoder_is_told(wrong: Any) -> None:
    for build in (lambda: cf.MHAESP(encoder=wrong), lambda: cf.RetrievalConfig(encoder=wrong)):
        with pytest.raises(ConfigError, match=r"This is no encoder.*Expected: its name, or an object with encode"):
            build()


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[1.0], [2.0]], [[]], "words"], ids=str)
def test_what_gives_no_vectors_is_told(vectors: Any) -> None:
    class Strange:
        def encode(self, texts: list[str]) -> Any:
            return vectors

    with pytest.raises(ConfigError, match="This Strange is no encoder of texts"):
        cf.MHAESP(encoder=Strange())


def test_the_estimator_takes_one_and_clones_share_it() -> None:
    encoder = Plain()
    settings = {"encoder": encoder, "adapter": 8, "heads": 1, "k": 2}
    ours = cf.ColdframeClassifier(
        "mha-esp", lm_of("llama"), method_settings=settings, training={"epochs": 1}, retrieval={"similarity": "bm25"}
    )
    assert clone(ours).method_settings["encoder"] is encoder
    texts = [f"item {i} is {'rose' if i % 3 else 'leaf'}" for i in range(24)]
    assert set(ours.fit(texts, ["red" if i % 3 else "green" for i in range(24)]).predict(texts)) <= {"red", "green"}


@pytest.mark.slow
def test_a_pooling_of_its_own_is_kept(folders: dict[str, Path]) -> None:
    """Two models of one name with different pooling are two encoders."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = Transformer(str(folders["bert"]))
    specs = {spec_of(SentenceTransformer(modules=[words, Pooling(16, pooling_mode=mode)])) for mode in ("mean", "cls")}
    assert len(specs) == 2
    assert tokenizer()  # the folder's own
