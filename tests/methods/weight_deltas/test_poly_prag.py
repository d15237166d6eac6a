"""Poly-PRAG: routing, composition and training, against peft's Poly, torch's Adam and plain loops; and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.weight_deltas.support import (
    adapters_of,
    conditioning,
    facts,
    fitted,
    loss_with,
    part,
    passages_of,
    sequences_of,
    set_up,
    steps,
    tiny_lm,
    trained_problems,
    with_passages,
)
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ArtifactError, ConfigError, DataError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.banks import RoutedBank
from coldframe.methods.weight_deltas.poly_prag import Pairs, PolyPRAG, PolyPRAGConfig
from coldframe.methods.weight_deltas.routing import compose, routed, routing_weights
from coldframe.methods.weight_deltas.row_adam import RowAdamW
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.task import Passage

pytest.importorskip("bm25s")
FOUR = facts(4)
SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 4}


def poly(**settings: Any) -> PolyPRAG:
    return PolyPRAG(**{"adapters": 3, "stored": "float32", **settings})


def bank_of(pipeline: Pipeline) -> RoutedBank:
    bank = pipeline.method.bank
    assert isinstance(bank, RoutedBank)
    return bank


def test_every_epoch_has_every_sequence_once_in_an_order_of_its_own() -> None:
    lessons = [(Passage.of(str(i)), [TokenSequence((1,) * (3 + (7 * i) % 23))], "") for i in range(90)]
    pairs = Pairs.of(lessons)
    first, second, again = (pairs.batches(4, 0, epoch) for epoch in (0, 1, 0))
    assert all(sorted(i for batch in batches for i in batch) == list(range(90)) for batches in (first, second))
    assert first == again and first != second and first != pairs.batches(4, 1, 0)
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


@pytest.mark.slow
def test_the_model_computes_what_peft_computes() -> None:
    """Poly with one split, at its own scale 1 / r."""
    peft = pytest.importorskip("peft")
    lm = FrozenLM(*tiny("llama"))
    layout = Layout.of(lm.anatomy, 2, "mlp")
    generator = torch.Generator().manual_seed(1)
    bank = 0.3 * torch.randn(3, layout.parameters, generator=generator)
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
    ours = lm.logits(ids, None, conditioning(layout, adapters, PolyPRAGConfig(adapters=3, rank=2, alpha=1.0).scale))
    theirs = wrapped(input_ids=ids, task_ids=tasks).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert float((ours - lm.logits(ids)).abs().max()) > 0.01


def test_compose_is_its_equation() -> None:
    layout = Layout(("one", "two"), ((5, 7), (7, 3)), 2)
    bank, weights = torch.randn(4, layout.parameters), torch.rand(3, 2, 4)
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
    assert layout.parameters == 380_160
    poly = adapters * layout.parameters + passages * len(layout.names) * adapters
    assert passages * layout.parameters / poly > 100


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


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_move_as_adam_moves_each_alone_and_the_rest_as_adamw(sparse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start, other = torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)
    table, whole = torch.nn.Parameter(start.clone()), torch.nn.Parameter(other.clone())
    ours = RowAdamW([{"params": [table], "rows": True, "lr": 0.05}, {"params": [whole]}], lr=0.01, weight_decay=0.1)
    theirs, same = [torch.nn.Parameter(row.clone()) for row in start], torch.nn.Parameter(other.clone())
    adams = [torch.optim.Adam([row], lr=0.05) for row in theirs]
    adamw = torch.optim.AdamW([same], lr=0.01, weight_decay=0.1)
    for number, seen in enumerate(([0, 2], [2], [1, 2, 3], [0])):
        gradient = torch.randn(len(seen), 3, generator=generator)
        table.grad = torch.sparse_coo_tensor(torch.tensor([seen]), gradient, (4, 3), check_invariants=True)
        if not sparse:
            table.grad = table.grad.to_dense()
        whole.grad = same.grad = torch.randn(5, generator=generator)
        ours.step()
        adamw.step()
        for row, own in zip(seen, gradient, strict=True):
            theirs[row].grad = own
            adams[row].step()
        if number == 1:  # as a checkpoint has it
            state = ours.state_dict()
            ours = RowAdamW([{"params": [table], "rows": True, "lr": 0.05}, {"params": [whole]}], 0.01, 0.1)
            ours.load_state_dict(state)
    torch.testing.assert_close(table.data, torch.stack([row.detach() for row in theirs]))
    torch.testing.assert_close(whole, same)


def loss_of(pipeline: Pipeline, routing: Any = "learned") -> float:
    """Of the corpus' sequences under the adapters of their passages, weighted by nothing."""
    method, bank, on = pipeline.method, bank_of(pipeline), FOUR
    assert isinstance(method, PolyPRAG)
    losses = [
        loss_with(pipeline.lm, own, conditioning(method.layout, adapter, method.config.scale))
        for own, adapter in zip(
            sequences_of(pipeline.lm, on), bank.adapters([p.id for p in passages_of(on)], routing), strict=True
        )
    ]
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_training_learns_and_every_passage_is_routed() -> None:
    lm = FrozenLM(*tiny("llama"))
    before = lm.weight_hash
    pipeline = fitted(poly(), lm, FOUR, epochs=12, batch_size=5)
    bank, losses = bank_of(pipeline), [record["train_loss"] for record in pipeline.history]
    assert bank.table.shape == (4, 9, 3) and bank.bank.shape == (3, bank.layout.parameters)
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    assert loss_of(pipeline) < min(loss_of(pipeline, "random"), loss_of(pipeline, "uniform"))
    assert pipeline.method.trained_parameters == 3 * bank.layout.parameters + 4 * 9 * 3


def test_a_router_that_does_not_learn_stays() -> None:
    pipeline = fitted(poly(router_learning_rate=0.0, router_start=0.0), task=FOUR, epochs=4, batch_size=5)
    assert not bank_of(pipeline).table.any()
    assert loss_of(pipeline) == loss_of(pipeline, "uniform")
    base = [loss_with(pipeline.lm, own) for own in sequences_of(pipeline.lm, FOUR)]
    assert loss_of(pipeline) < sum(base) / len(base)


@pytest.mark.slow
def test_relaxed_weights_are_drawn_in_training_and_nowhere_else() -> None:
    plain, relaxed = (fitted(poly(relaxed=value), task=FOUR, **SMALL) for value in (False, True))
    assert not torch.equal(adapters_of(plain), adapters_of(relaxed))
    method = relaxed.method
    assert isinstance(method, PolyPRAG)
    method._begin(bank_of(relaxed).bank, bank_of(relaxed).table.flatten(1))
    batch = [(row, sequences[0]) for row, sequences in enumerate(sequences_of(relaxed.lm, FOUR))]
    drawn = [method.train().loss(relaxed.lm, batch).detach() for _ in "ab"]
    still = [method.eval().loss(relaxed.lm, batch).detach() for _ in "ab"]
    assert not torch.equal(*drawn) and torch.equal(*still)


def test_a_loss_that_is_not_finite_names_the_passage() -> None:
    with pytest.raises(TrainingError, match="not finite.*The passage in row"):
        fitted(poly(), task=FOUR, learning_rate=1e30, epochs=3)


@pytest.mark.parametrize("wrong", [{"adapters": 0}, {"router_learning_rate": -0.1}, {"router_start": -1.0}])
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PolyPRAG(**wrong)


# ---- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_artifact_holds_bank_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fitted(poly(), out=tmp_path / "a", **SMALL)
    bank = bank_of(pipeline)
    # Bytes as they are counted: S adapters, and a row of S for every target and passage.
    numbers = 3 * bank.layout.parameters + 7 * 9 * 3
    assert bank.parameters == numbers and 4 * numbers <= 7 * pipeline.method.entry_bytes < 4 * numbers + 1000
    again = cf.load(tmp_path / "a", tiny_lm())
    assert torch.equal(bank_of(again).bank, bank.bank) and torch.equal(bank_of(again).table, bank.table)
    half = bank_of(fitted(poly(stored="bfloat16"), **SMALL))
    torch.testing.assert_close(half.bank, bank.bank, atol=2e-3, rtol=1e-2)
    # Several passages: their weights are averaged, unless another way is asked for.
    ids = [passage.id for passage in passages_of(facts())]
    a, b = bank.factors([[ids[0], ids[3]], [], ["unknown"]], "auto")[0]
    assert a.shape == (3, 2, 32) and not a[1].any() and bool(a[2].any()) and bank.unknown == 1
    weights, first = bank.weights([ids[0], ids[3]]).mean(0), bank.layout.factors(bank.bank)[0]
    torch.testing.assert_close(b[0], sum(weights[0, s] * first[1][s] for s in range(3)))
    a, b = bank.factors([[ids[0], ids[3]]], "mean")[0]
    pairs = [bank.layout.factors(bank.adapters([id]))[0] for id in (ids[0], ids[3])]
    torch.testing.assert_close(b[0] @ a[0], sum(b[0] @ a[0] for a, b in pairs) / 2, atol=1e-6, rtol=1e-4)
    # The same command again trains nothing; another corpus or other settings are refused.
    made = steps(monkeypatch)
    assert torch.equal(adapters_of(fitted(poly(), out=tmp_path / "a", **SMALL)), adapters_of(pipeline))
    assert not made
    for method, on in ((poly(), part(facts(), 0, 4)), (poly(adapters=2), facts())):
        with pytest.raises(ArtifactError, match="other settings, data or model"):
            fitted(method, task=on, out=tmp_path / "a", **SMALL)
    name = tmp_path / "a" / "bank.safetensors"
    name.write_bytes(name.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        cf.load(tmp_path / "a", tiny_lm())


@pytest.mark.slow
@pytest.mark.parametrize("relaxed", [False, True])
def test_a_killed_run_ends_at_the_same_weights(relaxed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SMALL, "checkpoint_every": 2}
    whole = fitted(poly(relaxed=relaxed), task=FOUR, **settings)
    made = steps(monkeypatch, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        fitted(poly(relaxed=relaxed), task=FOUR, out=tmp_path, **settings)
    monkeypatch.undo()
    rest = steps(monkeypatch)
    pipeline = fitted(poly(relaxed=relaxed), task=FOUR, out=tmp_path, **settings)
    assert made == [0, 1, 2, 3, 4] and rest == [4, 5, 6, 7, 8]
    assert torch.equal(adapters_of(pipeline), adapters_of(whole))


# ---- growth -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_new_passages_get_rows_and_the_old_stay(tmp_path: Path) -> None:
    start, lm = part(facts(), 0, 5), tiny_lm()
    fitted(poly(stored="bfloat16"), task=start, out=tmp_path, **{**SMALL, "epochs": 10})
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pipeline = cf.load(tmp_path, lm)
    bank, before = bank_of(pipeline).bank, adapters_of(pipeline, start)
    assert cf.grow(pipeline, facts(), quiet=True) == 2 and cf.grow(pipeline, facts(), quiet=True) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert torch.equal(bank_of(pipeline).bank, bank) and torch.equal(adapters_of(pipeline, start), before)
    new = adapters_of(pipeline, part(facts(), 5, 7))
    assert not torch.equal(new[0], new[1])
    layout, grown = bank_of(pipeline).layout, sequences_of(lm, facts())[5:]
    own, swapped = (
        sum(loss_with(lm, sequences, conditioning(layout, a, 16.0)) for sequences, a in zip(grown, rows, strict=True))
        for rows in (new, new.flip(0))
    )
    assert own < swapped
    pipeline.save_pretrained(tmp_path)
    assert torch.equal(adapters_of(cf.load(tmp_path, lm)), adapters_of(pipeline))


def test_a_new_row_starts_as_no_other_and_learns_or_is_refused() -> None:
    method = set_up(poly())
    assert isinstance(method, PolyPRAG)
    rows = method._rows(0, 7)
    assert len(rows.unique(dim=0)) == 7 and torch.equal(method._rows(0, 5), rows[:5])
    fixed = fitted(poly(router_learning_rate=0.0), task=part(facts(), 0, 3), **SMALL)
    with pytest.raises(ConfigError, match="do not learn"):
        cf.grow(fixed, facts(), quiet=True)


@pytest.mark.slow
def test_added_passages_that_cannot_be_used_are_told_or_left_out() -> None:
    bare = Passage.of("nothing is asked", row=9)
    more = with_passages(part(facts(), 0, 4), bare)
    pipeline = fitted(poly(), task=part(facts(), 0, 3), **SMALL)
    with pytest.raises(DataError, match="row 9 has no questions"):
        cf.grow(pipeline, more, quiet=True)
    skipping = fitted(poly(skip_unusable=True), task=part(facts(), 0, 3), **SMALL)
    assert cf.grow(skipping, more, quiet=True) == 1
    assert {entry.id for entry in skipping.store.examples} == {p.id for p in passages_of(part(facts(), 0, 4))}


@pytest.mark.slow
def test_a_killed_growth_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, settings = tiny_lm(), {**SMALL, "checkpoint_every": 2}
    for name in ("whole", "killed"):
        fitted(poly(), task=part(facts(), 0, 3), out=tmp_path / name, **settings)
    cf.grow(cf.load(tmp_path / "whole", lm), facts(), tmp_path / "whole", quiet=True)
    steps(monkeypatch, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        cf.grow(cf.load(tmp_path / "killed", lm), facts(), tmp_path / "killed", quiet=True)
    monkeypatch.undo()
    rest, names = steps(monkeypatch), trained_problems(monkeypatch)
    assert cf.grow(cf.load(tmp_path / "killed", lm), facts(), tmp_path / "killed", quiet=True) == 4
    assert rest == [4, 5, 6, 7, 8] and names == ["poly-prag"]
    ours, theirs = (adapters_of(cf.load(tmp_path / name, lm), facts()) for name in ("killed", "whole"))
    assert torch.equal(ours, theirs)
