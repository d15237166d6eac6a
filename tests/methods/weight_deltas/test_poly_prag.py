"""Poly-PRAG: routing, composition and training, against peft's Poly, torch's Adam and plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from coldframe.methods.weight_deltas.passage_prompts import PassagePrompts
from coldframe.tasks.fact_corpus import fact_corpus
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.poly_prag import (
    PolyBank,
    PolyPRAGConfig,
    PolyTrainer,
    compose,
    routed,
    routing_weights,
)
from coldframe.methods.weight_deltas.row_adam import RowAdam
from coldframe.storage.checkpoints import CheckpointStore

FACTS = fact_corpus(4).corpus
SMALL: dict[str, Any] = {"adapters": 3, "epochs": 4, "batch_size": 5}


def sequences(lm: FrozenLM) -> list[list[TokenSequence]]:
    return [PassagePrompts().of(lm, passage, FACTS.given[passage.id]) for passage in FACTS.passages]


def trainer(lm: FrozenLM, **settings: Any) -> PolyTrainer:
    parts, bank = settings.pop("parts", None), settings.pop("bank", None)
    config = PolyPRAGConfig(**{**SMALL, **settings})
    return PolyTrainer(
        lm, Layout.of(lm.anatomy, config.rank, config.targets), config, sequences(lm), parts=parts, bank=bank
    )


def test_every_epoch_has_every_sequence_once_in_an_order_of_its_own() -> None:
    lm = FrozenLM(*tiny("llama"))
    some = [[TokenSequence((1,) * (3 + (7 * i) % 23))] for i in range(90)]
    layout = Layout.of(lm.anatomy, 2, "mlp")

    def epochs(seed: int) -> list[list[list[int]]]:
        made = PolyTrainer(lm, layout, PolyPRAGConfig(adapters=2, batch_size=4, seed=seed), some)
        return [[made.chosen(epoch * made.per_epoch + i) for i in range(made.per_epoch)] for epoch in (0, 1, 0)]

    first, second, again = epochs(0)
    assert all(sorted(i for batch in one for i in batch) == list(range(90)) for one in (first, second))
    assert first == again and first != second and first != epochs(1)[0]
    assert [len(batch) for batch in first] == [4] * 22 + [2]


def test_weights_are_those_of_peft() -> None:
    pytest.importorskip("peft")
    from peft import PolyConfig
    from peft.tuners.poly.router import PolyRouter

    router = PolyRouter(PolyConfig(n_tasks=4, n_skills=3, n_splits=1))
    router.module_logits.data.normal_()
    ids = torch.tensor([2, 0, 2])
    found = routing_weights(router.module_logits[ids])
    torch.testing.assert_close(found, router.eval()(ids, torch.zeros(1)).squeeze(1))
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    # In training both draw from the relaxed Bernoulli: the same means.
    many = torch.zeros(4000, dtype=torch.long)
    theirs = router.train()(many, torch.zeros(1)).squeeze(1)
    ours = routing_weights(router.module_logits[many], torch.rand(4000, 3))
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.02, rtol=0)


def test_the_model_computes_what_peft_computes() -> None:
    """Poly with one split, at its own scale 1 / r."""
    peft = pytest.importorskip("peft")
    lm = FrozenLM(*tiny("llama"))
    config = PolyPRAGConfig(adapters=3, rank=2, alpha=1.0)
    layout = Layout.of(lm.anatomy, 2, "mlp")
    generator = torch.Generator().manual_seed(1)
    bank = 0.3 * torch.randn(3, layout.numbers, generator=generator)
    table = torch.randn(4, len(layout.names), 3, generator=generator)
    wrapped = peft.get_peft_model(
        tiny("llama")[0],
        peft.PolyConfig(
            r=2, n_tasks=4, n_skills=3, n_splits=1, target_modules=list(layout.names), task_type="CAUSAL_LM"
        ),
    ).eval()
    for m, (name, (a, b)) in enumerate(zip(layout.names, layout.factors(bank), strict=True)):
        module = wrapped.base_model.model.get_submodule(name)
        module.poly_lora_A["default"].data.copy_(a.transpose(1, 2)[None])
        module.poly_lora_B["default"].data.copy_(b.transpose(1, 2)[None])
        module.poly_router["default"].module_logits.data.copy_(table[:, m])
    ids, tasks = torch.tensor([[1, 20, 30, 40], [1, 21, 31, 41]]), torch.tensor([3, 1])
    adapters = compose(layout, bank, routed(table, tasks.tolist()))
    ours = lm.logits(ids, None, Conditioning(deltas=layout.deltas(layout.factors(adapters), config.scale)))
    theirs = wrapped(input_ids=ids, task_ids=tasks).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert float((ours - lm.logits(ids)).abs().max()) > 0.01


def test_compose_is_its_equation() -> None:
    layout = Layout(("one", "two"), ((5, 7), (7, 3)), 2)
    bank, weights = torch.randn(4, layout.numbers), torch.rand(3, 2, 4)
    for m, (a, b) in enumerate(layout.factors(compose(layout, bank, weights))):
        for query in range(3):
            wanted_a = sum(weights[query, m, s] * layout.factors(bank[s])[m][0] for s in range(4))
            wanted_b = sum(weights[query, m, s] * layout.factors(bank[s])[m][1] for s in range(4))
            torch.testing.assert_close(a[query], wanted_a)
            torch.testing.assert_close(b[query], wanted_b)
    one_hot = torch.eye(4)[2].expand(1, 2, 4)
    torch.testing.assert_close(compose(layout, bank, one_hot)[0], bank[2])


def test_storage_is_a_hundredth_of_prags_at_a_thousand_passages() -> None:
    """SmolLM2-135M, rank 2, S = 8: 30 layers of gate, up (576 to 1536) and down."""
    layout = Layout(tuple(map(str, range(90))), ((576, 1536), (576, 1536), (1536, 576)) * 30, 2)
    adapters, passages = PolyPRAGConfig().adapters, 1000
    assert layout.numbers == 380_160
    poly = adapters * layout.numbers + passages * len(layout.names) * adapters
    assert passages * layout.numbers / poly > 100


def test_controls_of_the_routing() -> None:
    table = torch.randn(5, 2, 3)
    assert torch.equal(routed(table, [0, None], "uniform"), torch.full((2, 2, 3), 1 / 3))
    assert torch.equal(routed(table, [None]), torch.full((1, 2, 3), 1 / 3))
    learned, random = routed(table, range(5)), routed(table, range(5), "random", seed=3)
    assert torch.equal(random, routed(table, range(5), "random", seed=3))
    for row in range(5):
        assert not torch.equal(random[row], learned[row])
        assert any(torch.equal(random[row], other) for other in learned)
    with pytest.raises(ConfigError, match="Did you mean 'random'"):
        routed(table, [0], "randm")  # type: ignore[arg-type]


def test_row_adam_is_adam_for_each_row_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator)
    rows = RowAdam(start.clone(), 0.05)
    theirs = [torch.nn.Parameter(row.clone()) for row in start]
    adams = [torch.optim.Adam([row], lr=0.05) for row in theirs]
    for seen in ([0, 2], [2], [1, 2, 3], [0]):
        gradient = torch.randn(len(seen), 3, generator=generator)
        rows.step(torch.tensor(seen), gradient)
        for row, own in zip(seen, gradient, strict=True):
            theirs[row].grad = own
            adams[row].step()
    torch.testing.assert_close(rows.values, torch.stack([row.detach() for row in theirs]))


def test_training_learns_and_every_passage_is_routed() -> None:
    lm = FrozenLM(*tiny("llama"))
    before = lm.weight_hash
    run = trainer(lm, epochs=12)
    found = run.train()
    assert found.table.shape == (4, 9, 3) and found.bank.shape == (3, run.layout.numbers)
    assert len(found.losses) == 12 and found.losses[-1] < 0.8 * found.losses[0]
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    own = losses(lm, run, found, "learned")
    assert own < losses(lm, run, found, "random") and own < losses(lm, run, found, "uniform")


def losses(lm: FrozenLM, run: PolyTrainer, found: PolyBank, routing: Any) -> float:
    adapters = compose(run.layout, found.bank, routed(found.table, [row for row, _ in run.pairs], routing))
    deltas = run.layout.deltas(run.layout.factors(adapters), run.config.scale)
    return float(mean_nll(lm, [one for _, one in run.pairs], Conditioning(deltas=deltas)).mean())


@pytest.mark.parametrize("relaxed", [False, True])
def test_an_interrupted_training_ends_at_the_same_weights(
    relaxed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PolyTrainer, "CHECKPOINT_EVERY", 4)
    lm = FrozenLM(*tiny("llama"))
    whole = trainer(lm, relaxed=relaxed).train()

    class Killed(Exception):
        pass

    def die(step: int, loss: float) -> None:
        if step == 7:
            raise Killed

    first = trainer(lm, relaxed=relaxed, parts=CheckpointStore(tmp_path))
    first.report = die
    with pytest.raises(Killed):
        first.train()
    second = trainer(lm, relaxed=relaxed, parts=CheckpointStore(tmp_path))
    steps: list[int] = []
    second.report = lambda step, loss: steps.append(step)
    found = second.train()
    assert steps[0] == 5
    assert torch.equal(found.bank, whole.bank) and torch.equal(found.table, whole.table)
    assert found.losses == whole.losses


def test_new_rows_leave_the_bank_alone() -> None:
    lm = FrozenLM(*tiny("llama"))
    bank = trainer(lm).train().bank
    run = trainer(lm, bank=bank, epochs=8)
    found = run.train()
    assert torch.equal(found.bank, bank)
    assert float((found.table - 0).abs().max()) > 1.0 and found.losses[-1] < found.losses[0]
    with pytest.raises(ConfigError, match="bank is another size"):
        trainer(lm, bank=bank[:2])


def test_a_router_that_does_not_learn_stays() -> None:
    lm = FrozenLM(*tiny("llama"))
    run = trainer(lm, router_learning_rate=0.0, router_start=0.0)
    found = run.train()
    assert not found.table.any() and found.losses[-1] < found.losses[0]
    assert losses(lm, run, found, "learned") == losses(lm, run, found, "uniform")
    assert losses(lm, run, found, "learned") < float(mean_nll(lm, [one for _, one in run.pairs], EMPTY).mean())


@pytest.mark.parametrize("wrong", [{"adapters": 0}, {"router_learning_rate": -0.1}, {"batch_size": 0}])
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PolyPRAGConfig(**wrong)
