"""The training loop: accumulation, schedules, early stopping, losses that are not finite, memory that runs out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import TRAINED, WRITE, Case, lm_of, task
from torch import Tensor

from coldframe.errors import ConfigError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.training_set import Problem, RetrievedRows, TrainingSet
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import training_data
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Task
from coldframe.training import trainer as module
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

PROMPT = Case("prompt-tuning", "prompt-tuning", {"tokens": 3})
MHA = next(case for case in TRAINED if case.id == "mha-esp")


def trained(case: Case = PROMPT, on: Task | None = None, out: Path | None = None, **settings: Any) -> Pipeline:
    config = TrainingConfig(**{"epochs": 2, "batch_size": 4, **settings})
    retrieval = RetrievalConfig(encoder="tiny")
    return fit(case.method(), lm_of("llama"), on or task(), retrieval=retrieval, training=config, out=out, quiet=True)


PREFIX = Case("prompt-tuning/prefix", "prompt-tuning", {"tokens": 3, "placement": "prefix"})


def trainer(on: Task | None = None, folder: Path | None = None, case: Case = PROMPT, **settings: Any) -> Trainer:
    on, lm = on or task(), lm_of("llama")
    method = case.method().setup(MethodContext(lm, on.schema), 0)
    config = TrainingConfig(**{"epochs": 2, "batch_size": 4, **settings})
    data = training_data(method, lm, on, Store.of(on.train), RetrievalConfig(), config)
    return Trainer(Problem(method, data.train, data.validation), lm, config, folder, quiet=True)


def row_weights(trainer: Trainer) -> list[float]:
    return [trainer.items.weight(i) for i in range(len(trainer.items))]


def weights(pipeline: Pipeline) -> Tensor:
    return torch.cat([p.detach().flatten() for p in pipeline.method.parameters()])


def unbalanced() -> Task:
    """Nine rows of one class, three of the other: class weights matter."""
    whole = task(rows=12)
    return dataclasses.replace(
        whole, train=tuple(dataclasses.replace(e, target="A" if i % 4 else "B") for i, e in enumerate(whole.train))
    )


# ---- one step ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("class_weights", [True, False])
@pytest.mark.parametrize(("size", "accumulation"), [(6, 2), (4, 3), (5, 3), (1, 12)])
def test_accumulated_batches_are_one_large_batch(size: int, accumulation: int, class_weights: bool) -> None:
    """Also where batches have unequal sizes and unequal shares of the classes."""
    settings = {"class_weights": class_weights, "epochs": 3, "clip": 0.5}
    whole = trained(on=unbalanced(), batch_size=12, **settings)
    parts = trained(on=unbalanced(), batch_size=size, accumulation=accumulation, **settings)
    assert whole.history[-1]["step"] == parts.history[-1]["step"] == 3
    torch.testing.assert_close(weights(parts), weights(whole), atol=2e-5, rtol=0)
    if class_weights:
        plain = trained(on=unbalanced(), batch_size=12, **{**settings, "class_weights": False})
        assert not torch.allclose(weights(plain), weights(whole), atol=1e-3)


def test_class_weights_make_all_classes_count_the_same_in_sum() -> None:
    on = unbalanced()
    rows = row_weights(trainer(on, class_weights=True))
    sums = [sum(w for w, e in zip(rows, on.train, strict=True) if e.target == label) for label in "AB"]
    assert sums == pytest.approx([6, 6]) and sum(rows) == pytest.approx(len(on.train))


@pytest.mark.parametrize(("metric", "weighted"), [("effective_accuracy", True), ("accuracy", False)])
def test_unless_told_otherwise_class_weights_follow_the_metric(metric: str, weighted: bool) -> None:
    on = unbalanced()
    on = dataclasses.replace(on, schema=on.schema.replace(metric=metric))
    assert (len(set(row_weights(trainer(on)))) > 1) == weighted


def test_the_gradient_is_that_of_the_weighted_mean_loss() -> None:
    on = unbalanced()
    some = trainer(on, batch_size=12, clip=0, class_weights=True)
    losses = some.method.loss(some.lm, some.items.take(range(len(on.train))))
    rows = torch.tensor(row_weights(some))
    (wanted,) = torch.autograd.grad((losses * rows).sum() / rows.sum(), some.parameters)
    some._step([list(range(5)), list(range(5, 12))], 0)
    torch.testing.assert_close(some.parameters[0].grad, wanted, atol=1e-6, rtol=1e-4)


def test_clipping_bounds_the_norm_of_the_gradient() -> None:
    some = trainer(clip=1e-3)
    some._step([list(range(12))], 0)
    assert float(some.parameters[0].grad.norm()) == pytest.approx(1e-3, rel=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_out_of_memory_is_answered_by_smaller_batches_with_the_same_gradient(
    failures: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trainer(unbalanced(), batch_size=12, class_weights=True)
    whole._step([list(range(12))], 0)
    small = trainer(unbalanced(), batch_size=12, class_weights=True)
    loss, calls = small.method.loss, iter(range(100))

    def scarce(lm: FrozenLM, batch: RetrievedRows) -> Tensor:
        """The failure comes after a part of the gradient is there already, which must not count twice."""
        found = loss(lm, batch)
        if next(calls) in [(0,), (0, 2), (0, 2, 5)][failures - 1]:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: ...")
        return found

    monkeypatch.setattr(small.method, "loss", scarce)
    found = small._step([list(range(12))], 0)
    assert small.rows_at_once == 12 >> failures and len(found) == 12
    assert capsys.readouterr().err.count("Out of memory: going on with") == failures
    torch.testing.assert_close(small.parameters[0].grad, whole.parameters[0].grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(small.parameters[0], whole.parameters[0], atol=2e-5, rtol=0)


def test_memory_that_one_row_does_not_fit_into_and_other_errors_are_not_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(message: str) -> Any:
        def losses(*_: Any) -> Tensor:
            raise RuntimeError(message)

        return losses

    some = trainer(batch_size=4)
    for message, left in (("shapes do not match", 4), ("can't allocate memory", 1)):
        monkeypatch.setattr(some.method, "loss", failing(message))
        with pytest.raises(RuntimeError, match=message):
            some._step([[0, 1, 2, 3]], 0)
        assert some.rows_at_once == left


def test_text_read_with_gradient_goes_in_parts_of_so_many_tokens_with_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = (trainer(unbalanced(), case=PREFIX, batch_size=12) for _ in range(2))
    whole._step([list(range(12))], 0)
    longest = max(parts.items.lengths)
    monkeypatch.setattr(module, "_GRADIENT_TOKENS", 3 * longest + 1)
    calls, loss = [], parts.method.loss

    def counted(lm: FrozenLM, batch: RetrievedRows) -> Tensor:
        calls.append(len(batch))
        return loss(lm, batch)

    monkeypatch.setattr(parts.method, "loss", counted)
    parts._step([list(range(12))], 0)
    assert calls == [3, 3, 3, 3]
    torch.testing.assert_close(parts.parameters[0].grad, whole.parameters[0].grad, atol=1e-6, rtol=1e-4)


# ---- a run ------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    def rates(**settings: Any) -> list[float]:
        some = trainer(epochs=5, **settings)  # 12 rows in batches of 4: 15 steps
        assert some.steps_per_epoch == 3
        return [some._rate(step) for step in range(15)]

    assert rates(schedule="constant", warmup=0.0) == [1.0] * 15
    assert rates(schedule="linear", warmup=0.0) == pytest.approx([1 - i / 15 for i in range(15)])
    cosine = rates(schedule="cosine", warmup=0.2)
    assert cosine[:3] == pytest.approx([1 / 4, 2 / 4, 3 / 4])
    assert cosine[3:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 12)) for i in range(12)])


def test_the_rates_of_a_run_follow_the_schedule_in_every_group() -> None:
    history = trained(MHA, epochs=3, schedule="linear", warmup=0.0, learning_rate=0.3).history
    assert [record["learning_rate"] for record in history] == pytest.approx([0.3 * (1 - i / 9) for i in (2, 5, 8)])
    on = task()
    method = MHA.method()
    fit(
        method,
        lm_of("llama"),
        on,
        retrieval=RetrievalConfig(encoder="tiny"),
        training=TrainingConfig(epochs=1),
        quiet=True,
    )
    groups = method.parameter_groups(0.3)
    # Single numbers of the attention learn ten times as fast as the matrices.
    assert [group["lr"] for group in groups] == [0.3, 3.0, method.config.static_learning_rate]  # type: ignore[attr-defined]
    together = [id(p) for group in groups for p in group["params"]]
    assert sorted(together) == sorted(id(p) for p in method.parameters())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, same, other = (weights(trained(MHA, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_early_stopping_keeps_the_weights_of_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = iter([0.3, 0.6, 0.5, 0.4, 0.9]), []

    def validate(self: Trainer) -> dict[str, float]:
        seen.append(self.parameters[0].detach().clone())
        return {"validation_loss": 1.0, "validation_metric": next(scores)}

    monkeypatch.setattr(Trainer, "_validate", validate)
    pipeline = trained(epochs=5, patience=2)
    assert [record["best"] for record in pipeline.history] == [1, 1, 0, 0]
    assert torch.equal(pipeline.method.state_dict()["prompt"], seen[1])
    assert not torch.equal(seen[1], seen[-1])


def test_patience_zero_never_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.9, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"validation_loss": 1.0, "validation_metric": next(scores)})
    assert len(trained(epochs=5, patience=0).history) == 5


@pytest.mark.parametrize(("select", "best"), [("metric", [1, 0, 1]), ("loss", [1, 1, 0])])
def test_what_the_best_epoch_is_chosen_by(select: str, best: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    records = iter([(2.0, 0.5), (1.0, 0.4), (3.0, 0.6)])

    def validate(_: Trainer) -> dict[str, float]:
        loss, metric = next(records)
        return {"validation_loss": loss, "validation_metric": metric}

    monkeypatch.setattr(Trainer, "_validate", validate)
    assert [record["best"] for record in trained(epochs=3, select=select).history] == best


def test_validation_looks_at_no_training_row_and_leaves_dropout_on_for_the_next_epoch() -> None:
    some = trainer()
    some.method.eval()
    found = some._validate()
    some.method.train()
    assert found == some._validate()
    scores = some.lm.label_scores
    calls: list[int] = []
    some.lm.label_scores = lambda prompts, *rest, **named: calls.append(len(prompts)) or scores(prompts, *rest, **named)  # type: ignore
    try:
        some._validate()
    finally:
        del some.lm.label_scores  # the class's own again
    assert some.validation is not None and sum(calls) == len(some.validation)


def test_without_validation_rows_the_training_loss_chooses() -> None:
    on = dataclasses.replace(task(), validation=())
    history = trained(on=on, epochs=3).history
    lowest = math.inf
    for record in history:
        assert record["best"] == float(record["train_loss"] < lowest)
        lowest = min(lowest, record["train_loss"])
        assert "validation_loss" not in record


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["labels", "answer"])
def test_both_objectives_learn(objective: str) -> None:
    history = trained(epochs=15, objective=objective, learning_rate=0.1, patience=0).history
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


def test_a_writing_task_is_chosen_by_its_loss() -> None:
    history = trained(on=task(WRITE)).history
    assert all("validation_loss" in record and "validation_metric" not in record for record in history)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_names_the_rows_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = Method.loss, iter(range(100))

    def poisoned(self: Method, lm: FrozenLM, batch: RetrievedRows) -> Tensor:
        found = loss(self, lm, batch)
        return found * float("nan") if next(calls) == 4 else found

    monkeypatch.setattr(Method, "loss", poisoned)
    on = task(WRITE)  # its validation takes losses too: step 5 is the second of epoch 2
    on = dataclasses.replace(on, validation=())
    with pytest.raises(TrainingError) as caught:
        trained(on=on, out=tmp_path, checkpoint_every=1)
    message = str(caught.value)
    assert "not finite" in message and "nan" in message and "checkpoint is intact" in message
    named = [e.id for e in on.train if e.id in message]
    assert len(named) == 4
    monkeypatch.undo()
    resumed, whole = trained(on=on, out=tmp_path, checkpoint_every=1), trained(on=on)
    assert torch.equal(weights(resumed), weights(whole))


def test_weights_that_the_last_step_of_an_epoch_broke_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def broken(self: Trainer, group: Sequence[Sequence[int]], number: int) -> list[float]:
        losses = step(self, group, number)
        if number + 1 == self.steps_per_epoch:
            with torch.no_grad():
                self.parameters[0].fill_(float("nan"))
        return losses

    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(TrainingError, match="validation rows are not finite"):
        trained(epochs=1)


# ---- batches and settings ---------------------------------------------------------------------------------


def test_batches_hold_every_row_once_and_are_of_like_length() -> None:
    lengths = [(i * 37) % 101 for i in range(1000)]
    items = TrainingSet(lengths, lengths)
    batches = items.batches(16, seed=1, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    assert {len(batch) for batch in batches[:-1]} <= {16, 1000 % 16}
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert sum(spread) / len(spread) < 15
    assert batches == items.batches(16, seed=1, epoch=0)
    assert batches != items.batches(16, seed=1, epoch=1) != items.batches(16, seed=2, epoch=1)


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulation": 0},
        {"learning_rate": 0.0},
        {"warmup": 1.0},
        {"clip": -1.0},
        {"patience": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_errors(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainingConfig(**setting)


def test_settings_of_the_wrong_word_are_errors() -> None:
    with pytest.raises(ConfigError, match="cosine"):
        TrainingConfig.from_dict({"schedule": "cosin"})
    with pytest.raises(ConfigError, match="batch_size"):
        TrainingConfig.from_dict({"batchsize": 3})
