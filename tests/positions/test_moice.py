"""MoICE against a llama with its equations written out; its router learns, and the model does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.positions.support import (
    CLOSE,
    PROMPTS,
    causal_weights,
    greedy,
    naive_llama,
    random_ids,
    tiny_lm,
    turned,
)
from torch import Tensor

from coldframe.errors import ArtifactError, ConfigError, DataError, ModelError
from coldframe.methods.positions.moice import MoICE, balance_loss
from coldframe.methods.positions.router_training import RouterTrainingConfig, train_router

BASES = (10000.0, 5.0, 40.0, 300.0)  # far apart, so that it matters on a short text which is chosen
TEXTS = ["The answer is yes. The answer is no.", "Question: is the molecule the answer?", "yes no yes no", "the"]


def routing(lm: Any, top_k: int = 4, spread: float = 40.0) -> MoICE:
    """Bases far apart and a router that prefers some, as after training."""
    moice = MoICE(lm, bases=BASES, top_k=top_k)
    with torch.no_grad():
        for weight in moice.router.parameters():
            weight.mul_(spread)
    return moice


def naive(moice: MoICE, ids: list[int]) -> Tensor:
    positions = torch.arange(len(ids))

    def attend(layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        gate: Any = moice.router[layer]
        first = turned(q, positions, BASES[0])
        a, b = first @ gate.gate1.weight.T, first @ gate.gate3.weight.T
        logits = (a * a.sigmoid() * b) @ gate.gate2.weight.T
        answers = [causal_weights(turned(q, positions, base), turned(k, positions, base)) @ v for base in BASES]
        rows = []
        for t, row in enumerate(logits):
            top = sorted(range(len(BASES)), key=lambda e: -float(row[e].detach()))[: moice.config.top_k]
            shares = row.softmax(-1)
            rows.append(sum((shares[e] / shares[top].sum() * answers[e][t] for e in top), torch.zeros(())))
        return torch.stack(rows)

    return naive_llama(moice.lm.model, ids, attend)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_one_expert_is_the_base_model(architecture: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    torch.testing.assert_close(MoICE(lm, bases=(10000.0,), top_k=1).logits(ids), lm.logits(ids), **CLOSE)
    same = MoICE(lm, bases=(10000.0,) * 3, top_k=2)  # however it routes, the experts agree
    torch.testing.assert_close(same.logits(ids), lm.logits(ids), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_heads_and_tokens_are_routed_by_the_equation(top_k: int) -> None:
    moice, ids = routing(tiny_lm(), top_k), random_ids(1, 25)
    got = moice.logits(ids)[0]
    torch.testing.assert_close(got, naive(moice, ids[0].tolist()), atol=2e-4, rtol=2e-4)
    assert not torch.allclose(got, MoICE(moice.lm, bases=BASES, top_k=top_k).logits(ids)[0], atol=1e-2)


@pytest.mark.slow
def test_generation_with_a_cache_is_generation_without() -> None:
    moice = routing(tiny_lm(), 2)
    wanted = [greedy(moice.lm, prompt, 8, lambda ids: moice.logits(torch.tensor([ids]))[0, -1]) for prompt in PROMPTS]
    assert moice.generate(PROMPTS, 8) == wanted


def test_the_balance_loss_is_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = [torch.randn(1, 2, 5, 4, generator=generator) for _ in range(3)]
    rows = [row for layer in seen for row in layer.reshape(-1, 4)]
    f, p = torch.zeros(4), torch.zeros(4)
    for row in rows:
        p += row.softmax(-1) / len(rows)
        for expert in sorted(range(4), key=lambda e: -float(row[e]))[:2]:
            f[expert] += 1 / len(rows)
    torch.testing.assert_close(balance_loss(seen, 2), 4 * (f * p).sum())
    torch.testing.assert_close(balance_loss(seen, 4), torch.tensor(4.0))  # all chosen: a constant


@pytest.mark.slow
def test_the_router_learns_and_the_model_does_not() -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    before, weights = lm.logits(ids), lm.weight_hash
    moice = MoICE(lm, bases=BASES, top_k=4)
    start = [weight.clone() for weight in moice.router.parameters()]
    told: list[int] = []
    config = RouterTrainingConfig(steps=25, batch_size=4, learning_rate=2e-2)
    history = train_router(moice, TEXTS, config, lambda stage, step, steps, losses: told.append(step))
    assert history[-1]["loss"] < history[0]["loss"] - 0.02
    assert [record["step"] for record in history] == told == list(range(1, 26)) and moice.history == history
    assert all(not torch.equal(old, new) for old, new in zip(start, moice.router.parameters(), strict=True))
    lm._hash = None
    assert lm.weight_hash == weights and torch.equal(lm.logits(ids), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in lm.model.parameters())


def test_training_is_the_same_again_for_the_same_seed() -> None:
    config = RouterTrainingConfig(steps=2, batch_size=3, learning_rate=1e-3)
    first, second = (MoICE(tiny_lm(), bases=BASES, top_k=2) for _ in range(2))
    assert train_router(first, TEXTS, config) == train_router(second, TEXTS, config)
    assert train_router(first, TEXTS, config.replace(seed=1)) != second.history


def test_a_saved_router_comes_back(tmp_path: Path) -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    moice = routing(lm, 3)
    moice.history = [{"step": 1.0, "loss": 2.0, "balance": 1.0}]
    moice.save(tmp_path / "router")
    loaded = MoICE.load(lm, tmp_path / "router")
    assert torch.equal(loaded.logits(ids), moice.logits(ids))
    assert loaded.config == moice.config and loaded.history == moice.history
    assert sorted(path.name for path in (tmp_path / "router").iterdir()) == ["moice.json", "moice.safetensors"]


def test_a_router_that_is_not_what_was_saved_is_refused(tmp_path: Path) -> None:
    lm = tiny_lm()
    with pytest.raises(ArtifactError, match="no MoICE router"):
        MoICE.load(lm, tmp_path)
    routing(lm).save(tmp_path)
    with pytest.raises(ArtifactError, match="other weights"):
        MoICE.load(tiny_lm(seed=1), tmp_path)
    described = json.loads((tmp_path / "moice.json").read_text())
    (tmp_path / "moice.json").write_text(json.dumps({**described, "format": 99}))
    with pytest.raises(ArtifactError, match="newer"):
        MoICE.load(lm, tmp_path)
    (tmp_path / "moice.json").write_text(json.dumps(described))
    with (tmp_path / "moice.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        MoICE.load(lm, tmp_path)
    (tmp_path / "moice.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        MoICE.load(lm, tmp_path)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ModelError, match="Only rotary positions"):
        MoICE(tiny_lm("bloom"))
    for settings in ({"bases": ()}, {"top_k": 8}, {"top_k": 0}, {"reference": -1.0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            MoICE(tiny_lm(), **settings)
    for settings in ({"steps": 0}, {"batch_size": 0}, {"balance": -0.1}, {"learning_rate": 0.0}, {"length": 1}):
        with pytest.raises(ConfigError):
            RouterTrainingConfig(**settings)
    with pytest.raises(DataError, match="no text to train on"):
        train_router(MoICE(tiny_lm()), [""])
