"""MoICE against a llama with its equations written out; its router learns, and the model does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import TWO, WRITE, example, task
from tests.positions.support import (
    CLOSE,
    PROMPTS,
    Reading,
    causal_weights,
    greedy,
    naive_llama,
    random_ids,
    reading,
    tiny_lm,
    turned,
)
from torch import Tensor

from coldframe.errors import ArtifactError, ConfigError, DataError, ModelError
from coldframe.methods.config import MethodContext
from coldframe.methods.positions.moice import MoICE, balance_loss
from coldframe.methods.registry import create
from coldframe.methods.training_set import TrainingData
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.tasks.task import Passage, Task
from coldframe.training.config import TrainingConfig

BASES = (10000.0, 5.0, 40.0, 300.0)  # far apart, so that it matters on a short text which is chosen
TEXTS = ["The answer is yes. The answer is no.", "Question: is the molecule the answer?", "yes no yes no", "the"]


def routing(lm: Any, top_k: int = 4, spread: float = 40.0) -> Reading:
    """Bases far apart and a router that prefers some, as after training."""
    moice = reading(lm, "moice", bases=BASES, top_k=top_k)
    with torch.no_grad():
        for weight in moice.method.parameters():
            weight.mul_(spread)
    return moice


def naive(moice: Reading, ids: list[int]) -> Tensor:
    positions = torch.arange(len(ids))

    def attend(layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        gate: Any = moice.method.router[layer]
        first = turned(q, positions, BASES[0])
        a, b = first @ gate.gate1.weight.T, first @ gate.gate3.weight.T
        logits = (a * a.sigmoid() * b) @ gate.gate2.weight.T
        answers = [causal_weights(turned(q, positions, base), turned(k, positions, base)) @ v for base in BASES]
        rows = []
        for t, row in enumerate(logits):
            top = sorted(range(len(BASES)), key=lambda e: -float(row[e].detach()))[: moice.method.config.top_k]
            shares = row.softmax(-1)
            rows.append(sum((shares[e] / shares[top].sum() * answers[e][t] for e in top), torch.zeros(())))
        return torch.stack(rows)

    return naive_llama(moice.lm.model, ids, attend)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_one_expert_is_the_base_model(architecture: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    torch.testing.assert_close(reading(lm, "moice", bases=(10000.0,), top_k=1).logits(ids), lm.logits(ids), **CLOSE)
    same = reading(lm, "moice", bases=(10000.0,) * 3, top_k=2)  # however it routes, the experts agree
    torch.testing.assert_close(same.logits(ids), lm.logits(ids), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_heads_and_tokens_are_routed_by_the_equation(top_k: int) -> None:
    moice, ids = routing(tiny_lm(), top_k), random_ids(1, 25)
    got = moice.logits(ids)[0]
    torch.testing.assert_close(got, naive(moice, ids[0].tolist()), atol=2e-4, rtol=2e-4)
    assert not torch.allclose(got, reading(moice.lm, "moice", bases=BASES, top_k=top_k).logits(ids)[0], atol=1e-2)


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


def texts_of(texts: Sequence[str]) -> Task:
    """A corpus of them, and a question that nobody looks at."""
    store = tuple(Passage.of(text) for text in texts if text)
    return Task(WRITE, (example(0, "yes"),), (), (example(1, "no"),), store=store)


def fitted(lm: Any, texts: Sequence[str] = TEXTS, epochs: int = 1, seed: int = 0, **settings: Any) -> Pipeline:
    training = TrainingConfig(epochs=epochs, batch_size=2, learning_rate=2e-2, warmup=0.0, seed=seed)
    return fit(
        create("moice", {"bases": BASES, "top_k": 4, **settings}), lm, texts_of(texts), training=training, quiet=True
    )


@pytest.mark.slow
def test_the_router_learns_and_the_model_does_not() -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    before, weights = lm.logits(ids), lm.weight_hash
    start = create("moice", {"bases": BASES, "top_k": 4}).setup(MethodContext(lm, WRITE), 0).state_dict()
    pipeline = fitted(lm, epochs=25)
    losses = [record["train_loss"] for record in pipeline.history]
    assert losses[-1] < losses[0] - 0.02
    assert all(not torch.equal(start[name], weight) for name, weight in pipeline.method.state_dict().items())
    assert lm.hash_now() == weights and torch.equal(lm.logits(ids), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in lm.model.parameters())


def test_the_loss_is_that_of_the_next_tokens_and_of_the_balance() -> None:
    moice = routing(tiny_lm(), 2)
    method: MoICE = moice.method
    ids = tuple(random_ids(1, 12)[0].tolist())
    logits = moice.logits(torch.tensor([ids[:-1]]))[0]
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    nll, balance = method.losses(moice.lm, ids)
    torch.testing.assert_close(nll, wanted)
    assert float(balance.detach()) > 1
    (loss,) = method.loss(moice.lm, [ids])
    torch.testing.assert_close(loss, nll + 0.3 * balance)


@pytest.mark.slow
def test_training_is_the_same_again_for_the_same_seed_and_takes_so_many_texts() -> None:
    def weights(**options: Any) -> list[Tensor]:
        return list(fitted(tiny_lm(), **options).method.state_dict().values())

    first = weights()
    assert all(map(torch.equal, first, weights()))
    assert not all(map(torch.equal, first, weights(seed=1)))
    assert not all(map(torch.equal, first, weights(texts=TEXTS[:2])))
    assert not all(map(torch.equal, first, weights(length=3)))
    data = TrainingData(texts_of(TEXTS), lambda rows: pytest.fail("nothing is retrieved"))
    method = create("moice", {"texts": 3}).setup(MethodContext(tiny_lm(), WRITE))
    (problem,) = method.problems(data)
    assert len(problem.items) == 3


def test_texts_of_a_task_without_a_store_are_its_solved_rows() -> None:
    lm = tiny_lm()
    method = create("moice").setup(MethodContext(lm, TWO))
    on = task()
    (problem,) = method.problems(TrainingData(on, lambda rows: pytest.fail("nothing is retrieved")))
    rows = {lm.decode(list(ids)) for ids in problem.items.items}
    assert rows == {TWO.rendered(entry) for entry in on.train}


def test_a_saved_router_comes_back(tmp_path: Path) -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    pipeline = fitted(lm)
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path, lm)
    put = [one.method.condition(["x"], one.retrieve(one.queries(["x"]))) for one in (pipeline, again)]
    assert torch.equal(lm.logits(ids, None, put[0]), lm.logits(ids, None, put[1]))
    assert again.method.config == pipeline.method.config
    with pytest.raises(ArtifactError, match="another base model"):
        load(tmp_path, tiny_lm(seed=1))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ModelError, match="Only rotary positions"):
        reading(tiny_lm("bloom"), "moice")
    for settings in ({"bases": ()}, {"top_k": 8}, {"top_k": 0}, {"reference": -1.0}, {"balance": -0.1}, {"length": 1}):
        with pytest.raises(ConfigError):
            create("moice", settings)
    with pytest.raises(ConfigError):
        create("moice", {"texts": 0})
    with pytest.raises(DataError, match="no text to train on"):
        reading(tiny_lm(), "moice").method.token_rows([""])
