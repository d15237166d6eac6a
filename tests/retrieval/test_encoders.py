"""Encoders: pure functions of the text, pooled as they say, and clear when they cannot be had."""

from __future__ import annotations

import gzip
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from coldframe.errors import ConfigError, DataError, MissingExtraError, ModelError
from coldframe.retrieval import descriptors, molecules
from coldframe.retrieval.encoders import default_encoder, load_encoder
from coldframe.retrieval.encoding import Memo
from coldframe.retrieval.neural import HFEncoder, MiniLM, SentenceTransformersEncoder

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"the a cat dog sat ran on under mat log".split()]
TEXTS = ["the cat sat", "a dog", "the dog ran under the log on a mat", "cat", "", "unseen words here", "a dog"]
SIZES: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    extra = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]", **extra)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models: BERT, GPT-2 without a padding token, and RoBERTa, which numbers positions from 2."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    models = {
        "bert": BertModel(BertConfig(**SIZES, intermediate_size=32, max_position_embeddings=24)),
        "gpt2": GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=24)),
        "roberta": RobertaModel(
            RobertaConfig(**SIZES, intermediate_size=32, max_position_embeddings=12, pad_token_id=0)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer(pad=name != "gpt2").save_pretrained(root / name)
    return {name: root / name for name in models}


def by_hand(folder: Path, model: Any, text: str, pooling: str) -> np.ndarray:
    """One text alone, without padding."""
    ids = tokenizer()(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state[0]
    return {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize(("name", "model"), [("bert", BertModel), ("gpt2", GPT2Model), ("roberta", RobertaModel)])
def test_pooling_never_sees_padding(folders: dict[str, Path], name: str, model: Any, pooling: str) -> None:
    encoder = load_encoder(f"hf:{folders[name]}:{pooling}")
    vectors = encoder.encode(TEXTS)
    assert (vectors.shape, vectors.dtype, encoder.dim) == ((len(TEXTS), 16), np.float32, 16)
    expected = [by_hand(folders[name], model, text, pooling) for text in TEXTS]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hf:bert:mean", "hf:bert:cls", "hf:gpt2:last", "hf:roberta:mean", "st:bert"])
def test_the_vector_of_a_text_never_depends_on_what_is_encoded_beside_it(folders: dict[str, Path], kind: str) -> None:
    family, name, *pooling = kind.split(":")
    spec = ":".join([family, str(folders[name]), *pooling])
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[4:], length)) for length in rng.integers(1, 9, 90)]
    together = load_encoder(spec).encode(texts)
    alone = [load_encoder(spec).encode([text])[0] for text in texts]
    assert (together == alone).all()
    by_and_by, order = load_encoder(spec), rng.permutation(len(texts))
    for part in np.split(order, [1, 3, 20, 21, 60]):
        assert (by_and_by.encode([texts[i] for i in part]) == together[part]).all()


def test_longer_texts_are_cut_and_that_is_said(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    encoder = HFEncoder(folders["roberta"])  # 12 positions, the first numbered 1: 11 tokens
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode(["cat " * 50, "cat " * 9, "cat " * 8])
    assert "1 of 3 texts are longer than 11 tokens" in caplog.text
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert not np.allclose(vectors[1], vectors[2], atol=1e-6)


def test_the_hash_names_weights_and_pooling(folders: dict[str, Path], tmp_path: Path) -> None:
    assert HFEncoder(folders["bert"]).hash == HFEncoder(folders["bert"]).hash
    other = BertModel.from_pretrained(folders["bert"])
    with torch.no_grad():
        other.embeddings.word_embeddings.weight[5, 0] += 1
    other.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    encoders = [HFEncoder(folders["bert"]), HFEncoder(tmp_path), HFEncoder(folders["bert"], "cls")]
    encoders += [HFEncoder(folders["bert"], unit_length=True), HFEncoder(folders["bert"], max_tokens=8)]
    assert len({encoder.hash for encoder in encoders}) == len(encoders)


def test_a_text_is_encoded_once() -> None:
    seen: list[str] = []

    def compute(texts: list[str]) -> Any:
        seen.extend(texts)
        return np.array([[len(text)] for text in texts], np.float32)

    memo = Memo(compute, limit_bytes=3 * 4)
    assert memo(["a", "bb", "a"], 1).tolist() == [[1], [2], [1]]
    assert memo(["bb", "ccc"], 1).tolist() == [[2], [3]]
    assert seen == ["a", "bb", "ccc"]
    assert memo(["dddd", "eeeee", "a", "bb", "ccc"], 1).tolist() == [[4], [5], [1], [2], [3]]  # more than is kept
    assert seen == ["a", "bb", "ccc", "dddd", "eeeee"]
    memo(["a"], 1)  # forgotten by now
    assert seen[-1] == "a"
    assert memo([], 1).shape == (0, 1)


def test_what_a_caller_does_to_its_vectors_stays_with_the_caller(folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders['bert']}")
    first = encoder.encode(["cat"])
    before = first.copy()
    first += 1
    assert (encoder.encode(["cat"]) == before).all()


@pytest.mark.parametrize("spec", ["morgan", "morgan+descriptors"])
def test_fingerprints_are_pure_functions(spec: str) -> None:
    encoder = load_encoder(spec)
    smiles = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "CCO"]
    together = encoder.encode(smiles)
    alone = np.concatenate([load_encoder(spec).encode([s]) for s in smiles])
    assert (together == alone).all()
    assert (together.shape, together.dtype) == ((4, encoder.dim), np.float32)
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert encoder.spec == spec
    assert not encoder.takes_label_text
    with pytest.raises(DataError, match="C1CC"):
        encoder.encode(["CCO", "C1CC"])


def test_descriptors_stand_after_the_bits() -> None:
    vector = load_encoder("morgan+descriptors").encode(["CC(=O)Oc1ccccc1C(=O)O"])[0]
    assert (vector[:2048] == load_encoder("morgan").encode(["CC(=O)Oc1ccccc1C(=O)O"])[0]).all()
    names = [name for name, _, _ in descriptors.TABLE]
    raw = dict(zip(names, descriptors.descriptors("CC(=O)Oc1ccccc1C(=O)O"), strict=True))
    assert raw["TPSA"] == pytest.approx(63.6, abs=0.01)
    assert raw["ExactMolWt"] == pytest.approx(180.042, abs=0.001)
    assert (raw["C"], raw["O"], raw["N"], raw["NumHBD"], raw["FormalCharge"]) == (9, 4, 0, 1, 0)
    place = names.index("TPSA")
    _, centre, scale = descriptors.TABLE[place]
    assert vector[2048 + place] == pytest.approx(np.arcsinh((raw["TPSA"] - centre) / scale), abs=1e-6)


def test_odd_molecules_give_finite_numbers() -> None:
    odd = ["[H][H]", "[Na+].[Cl-]", "[U]", "C" * 300, "*", "[2H]C", "F[P-](F)(F)(F)(F)F"]
    vectors = load_encoder("morgan+descriptors").encode(odd)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() < 10


@pytest.mark.slow
def test_the_constants_are_those_of_b3db(shared_data: Path) -> None:
    """On every tenth molecule, so with the tolerance of a sample."""
    with gzip.open(shared_data / "b3db" / "b3db.jsonl.gz", "rt") as file:
        smiles = [json.loads(line)["smiles"] for line in file][::10]
    values = np.array([descriptors.descriptors(s) for s in smiles])
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    for (name, centre, scale), column, half in zip(descriptors.TABLE, values.T, (high - low) / 2, strict=True):
        assert np.median(column) == pytest.approx(centre, abs=0.5 * scale), name
        if half:
            assert half == pytest.approx(scale, rel=0.5), name


def test_specs() -> None:
    assert default_encoder("molecules") == "morgan+descriptors"
    assert load_encoder(default_encoder("text")).spec == "minilm"
    encoder: Any = load_encoder("hf:org/name:last")
    assert (encoder.source, encoder.pooling, encoder.spec) == ("org/name", "last", "hf:org/name:last")
    assert load_encoder("hf:org/name").spec == "hf:org/name:mean"
    assert isinstance(load_encoder("st:org/name"), SentenceTransformersEncoder)
    for spec, message in [
        ("morgann", "Did you mean 'morgan'"),
        ("hf:", "Known"),
        ("hf:org/name:max", "not a pooling"),
        ("", "not an encoder"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_encoder(spec)


def test_every_spec_rebuilds_its_encoder(folders: dict[str, Path]) -> None:
    for spec in ("morgan", "morgan+descriptors", f"hf:{folders['bert']}:cls"):
        encoder = load_encoder(spec)
        assert load_encoder(encoder.spec).hash == encoder.hash


@pytest.mark.parametrize("family", ["hf", "st"])
def test_a_hub_that_cannot_be_reached_is_said_at_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="nobody/nothing.*minilm"):
        load_encoder(f"{family}:nobody/nothing").encode(["x"])


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(f"hf:{tmp_path}").encode(["x"])


def test_pickled_weights_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["bert"].iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(BertModel.from_pretrained(folders["bert"]).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_encoder(f"hf:{tmp_path}").encode(["x"])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    for package in ("rdkit", "rdkit.Chem", "sentence_transformers", "bm25s", "usearch", "usearch.index"):
        monkeypatch.setitem(sys.modules, package, None)
    from coldframe.retrieval.bm25 import BM25
    from coldframe.retrieval.similarity import Sets
    from coldframe.retrieval.usearch import UsearchTanimoto

    for extra, use in [
        ("chem", lambda: molecules.morgan_bits(["CCOCCOC"])),
        ("chem", lambda: descriptors.descriptors("CCOCCOC")),
        ("text", lambda: load_encoder(f"st:{folders['bert']}").encode(["x"])),
        ("text", lambda: BM25(["x"])),
        ("ann", lambda: UsearchTanimoto(Sets.of([]))),
    ]:
        with pytest.raises(MissingExtraError, match=rf"coldframe\[{extra}\]"):
            use()


def test_sentence_transformers_and_hf_agree(folders: dict[str, Path]) -> None:
    """A plain folder gets mean pooling in sentence-transformers."""
    encoder = load_encoder(f"st:{folders['bert']}")
    np.testing.assert_allclose(encoder.encode(TEXTS), HFEncoder(folders["bert"]).encode(TEXTS), atol=1e-5)
    assert encoder.dim == 16
    assert encoder.hash == load_encoder(encoder.spec).hash


@pytest.mark.e2e
def test_minilm_is_sentence_transformers_own() -> None:
    from sentence_transformers import SentenceTransformer

    encoder = MiniLM()
    assert encoder.dim == 384
    texts = ["How did serfdom develop in and then leave Russia ?", "hi", "word " * 400]
    expected = SentenceTransformer(str(encoder._folder)).encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
