"""Training gains: what moves, what does not, when it stops, how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pear.planted import COPIER, SUPPRESSOR

from coldframe.errors import TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import weight_hash
from coldframe.frozen.ports import Conditioning
from coldframe.methods.head_gains.coefficients import GainTrainer, Trained
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.storage.checkpoints import CheckpointStore

SHORT = ReweightConfig(length=8, batch_size=6, steps=8, evaluate_every=4, held_out=8)
HEADS = [SUPPRESSOR, COPIER]


def test_the_suppressor_is_weighed_down_and_nothing_else_is_touched(lm: FrozenLM) -> None:
    before = weight_hash(lm.model)
    found = GainTrainer(lm, HEADS, SHORT).train()
    assert found.gains[SUPPRESSOR] < 0.98 and found.gains[COPIER] > 1.02
    assert int((found.gains != 1).sum()) == 2
    assert found.loss_after < found.loss_before - 0.02
    assert [record["step"] for record in found.history] == [0, 4, 8]
    assert weight_hash(lm.model) == before and not any(p.requires_grad for p in lm.model.parameters())
    assert not any(module._forward_pre_hooks for module in lm.model.modules())
    # What was measured is what the port gives.
    trainer = GainTrainer(lm, HEADS, SHORT)
    with torch.no_grad(), lm.ports(Conditioning(head_gains=found.gains)):
        assert float(trainer.task.copy_loss(trainer.held_out)) == pytest.approx(found.loss_after, abs=1e-4)


def test_gains_of_a_bfloat16_model_are_float32(lm: FrozenLM) -> None:
    from tests.pear.planted import planted

    model, tokens = planted()
    trainer = GainTrainer(FrozenLM(model.bfloat16(), tokens), HEADS, SHORT.replace(steps=1))
    trainer._step(0)
    # The first of two steps of warm-up: a third of the rate, which bf16 would lose near 1.
    torch.testing.assert_close(trainer.values.detach(), torch.tensor([1 - 5e-3 / 3, 1 + 5e-3 / 3]), atol=1e-5, rtol=0)


def test_the_rate_rises_over_two_steps_and_falls_in_a_line(lm: FrozenLM) -> None:
    trainer = GainTrainer(lm, HEADS, ReweightConfig(length=8))
    factors = [trainer._factor(step) for step in (0, 1, 2, 60, 2499)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 2440 / 2498, 1 / 2498])


def test_parts_of_a_batch_add_up_to_the_batch(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> torch.Tensor:
        trainer = GainTrainer(lm, HEADS, SHORT.replace(batch_size=5))
        trainer._step(0)
        assert trainer.values.grad is not None
        return trainer.values.grad

    whole = gradient()
    monkeypatch.setattr("coldframe.methods.head_gains.coefficients._LOGITS", 2 * 8 * 63)  # two sequences at once
    assert GainTrainer(lm, HEADS, SHORT).rows == 2
    torch.testing.assert_close(gradient(), whole, atol=1e-6, rtol=1e-4)


def test_an_interrupted_training_ends_with_the_same_gains_to_the_bit(
    lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, parts = GainTrainer(lm, HEADS, SHORT).train(), CheckpointStore(tmp_path)
    step, done = GainTrainer._step, []

    def counted(self: GainTrainer, number: int) -> float:
        done.append(number)
        if len(done) == 7:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(GainTrainer, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        GainTrainer(lm, HEADS, SHORT, parts).train()
    again = GainTrainer(lm, HEADS, SHORT, parts).train()
    assert done == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
    assert torch.equal(again.gains, wanted.gains) and again.history == wanted.history
    assert torch.equal(GainTrainer(lm, HEADS, SHORT, parts).train().gains, wanted.gains)
    assert len(done) == 11  # what is finished is not done again


def test_training_stops_when_the_held_out_loss_does_not_fall_and_keeps_the_best(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, 1.5, 1.6, 1.7, 1.4])
    monkeypatch.setattr(GainTrainer, "_held_out_loss", lambda *_: next(losses))
    config = SHORT.replace(evaluate_every=1, patience=2)
    trainer = GainTrainer(lm, HEADS, config)
    found = trainer.train()
    assert [record["held_out_loss"] for record in found.history] == [2.0, 1.5, 1.6, 1.7]
    assert found.loss_after == 1.5
    once = GainTrainer(lm, HEADS, config)
    once._step(0)
    torch.testing.assert_close(found.gains[SUPPRESSOR], once.values.detach()[0])
    assert found.gains[SUPPRESSOR] != trainer.values.detach()[0]


@pytest.mark.parametrize("after", [2.0, float("nan")])
def test_training_that_helps_nothing_or_breaks_is_an_error(
    lm: FrozenLM, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, after, after, after])
    monkeypatch.setattr(GainTrainer, "_held_out_loss", lambda *_: next(losses))
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        GainTrainer(lm, HEADS, SHORT).train()


def test_fixed_gains_train_nothing(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GainTrainer, "_step", lambda *_: pytest.fail("it trained"))
    found: Trained = GainTrainer(lm, [COPIER], SHORT.replace(fixed=0.0)).train()
    assert found.gains[COPIER] == 0 and int((found.gains != 1).sum()) == 1
    assert found.loss_after > found.loss_before + 1  # nothing copies any more


def test_the_report_is_told_of_every_step(lm: FrozenLM) -> None:
    told: list[Any] = []
    GainTrainer(lm, HEADS, SHORT, report=lambda *words: told.append(words[:3])).train()
    assert told == [("train", step, 8) for step in range(1, 9)]
