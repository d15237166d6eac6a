"""An encoder fine-tuned with the method starts as the frozen one, trains its factors only, and comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.contract.cases import QUERIES, lm_of, task
from tests.tiny import tiny_tokenizer
from transformers import BertConfig, BertModel

from coldframe.errors import ConfigError
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.methods.soft_tokens.tuned_encoder import TunedEncoder
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.encoders import load_encoder
from coldframe.retrieval.neural import HFEncoder
from coldframe.training.config import TrainingConfig


@pytest.fixture
def spec(tmp_path: Path, cache: object) -> str:
    """A tiny BERT on disk."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return f"hf:{tmp_path / 'bert'}:mean"


def method(spec: str) -> MHAESP:
    return MHAESP(heads=2, k=2, encoder=spec, encoder_rank=3, adapter=None, dropout=0.0)


def test_it_starts_as_the_frozen_encoder_and_every_factor_learns(spec: str) -> None:
    encoder = load_encoder(spec)
    assert isinstance(encoder, HFEncoder)
    tuned = TunedEncoder(encoder, rank=3)
    vectors = tuned(QUERIES)
    torch.testing.assert_close(vectors.detach(), torch.from_numpy(encoder.encode(QUERIES)), atol=1e-5, rtol=0)
    for factor in tuned.b:
        factor.data.normal_()
    tuned(QUERIES).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in tuned.parameters())
    assert len(tuned.a) == 2 * 6 and all(not p.requires_grad for p in encoder.model.parameters())
    # r (in + out) for four attention linears and two of the MLP, in each of two layers.
    assert sum(p.numel() for p in tuned.parameters()) == 2 * 3 * (4 * (16 + 16) + 2 * (16 + 32))


def test_it_is_the_encoder_with_merged_weights(spec: str) -> None:
    encoder = load_encoder(spec)
    assert isinstance(encoder, HFEncoder)
    tuned = TunedEncoder(encoder, rank=3)
    for factor in tuned.b:
        factor.data.normal_(std=0.3)
    expected = tuned(QUERIES).detach()
    assert not torch.allclose(expected, torch.from_numpy(encoder.encode(QUERIES)), atol=1e-2)
    for name, a, b in zip(tuned.names, tuned.a, tuned.b, strict=True):
        encoder.model.get_submodule(name).weight.data += (b @ a).data
    torch.testing.assert_close(encoder.pooled(QUERIES), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_fit_save_load(spec: str, tmp_path: Path) -> None:
    lm, on = lm_of("llama"), task()
    fitted = method(spec)
    pipeline = fit(fitted, lm, on, training=TrainingConfig(epochs=1, batch_size=4), quiet=True)
    assert fitted.tuned is not None and all(b.any() for b in fitted.tuned.b)
    assert not any("layer" in name for name in fitted.state_dict())  # the encoder's own weights are not saved
    pipeline.save_pretrained(tmp_path / "artifact")
    again = Pipeline.from_pretrained(tmp_path / "artifact", lm)
    assert (again.predict_proba(QUERIES) == pipeline.predict_proba(QUERIES)).all()


def test_fingerprints_cannot_be_fine_tuned() -> None:
    with pytest.raises(ConfigError, match="cannot be fine-tuned.*minilm"):
        TunedEncoder(load_encoder("morgan"), rank=2)


@pytest.mark.slow
def test_threads_that_tune_one_encoder_differently_do_not_disturb_each_other(spec: str) -> None:
    encoder = load_encoder(spec)
    assert isinstance(encoder, HFEncoder)
    frozen = torch.from_numpy(encoder.encode(QUERIES))
    several = [TunedEncoder(encoder, rank=3) for _ in range(3)]
    for factor in (factor for tuned in several for factor in tuned.b):
        factor.data.normal_(std=0.3)
    expected = [*(tuned(QUERIES).detach() for tuned in several), frozen]
    runs = [*several, encoder.pooled]
    with ThreadPoolExecutor(4) as pool:
        futures = [[pool.submit(run, QUERIES) for run in runs] for _ in range(20)]
        for turn in futures:
            for future, vectors in zip(turn, expected, strict=True):
                torch.testing.assert_close(future.result().detach(), vectors, atol=1e-5, rtol=0)
