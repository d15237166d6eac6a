"""Training gains: what moves, what does not, when it stops, how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.head_gains.planted import COPIER, SUPPRESSOR, planted

from coldframe.errors import TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import weight_hash
from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.pear import PEAR
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.pipeline.reweight import COPYING, reweight
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

SHORT = ReweightConfig(length=8, batch_size=6, steps=8, evaluate_every=4, held_out=8, repetitions=((12, 10),))
HEADS = (SUPPRESSOR, COPIER)


def pear_of(lm: FrozenLM, config: ReweightConfig = SHORT) -> PEAR:
    """PEAR with its heads chosen by hand."""
    method = PEAR(**config.to_dict()).setup(MethodContext(lm, COPYING.schema))
    method.proxy = ProxyTask(lm, config.bos, config.seed)
    for place in HEADS:
        method.chosen[place] = True
    return method


def trainer_of(method: PEAR, folder: Path | None = None) -> Trainer:
    problem = method.problem(folder or Path("nowhere"), "these settings")
    return Trainer(problem, method.ready.lm, TrainingConfig(), folder, quiet=True)


def step(method: PEAR) -> None:
    """The first step of training."""
    trainer_of(method)._step([list(range(method.config.batch_size))], 0)


def test_the_suppressor_is_weighed_down_and_nothing_else_is_touched(lm: FrozenLM) -> None:
    before, method = weight_hash(lm.model), pear_of(lm)
    history = trainer_of(method).train()
    gains = method.gains.detach()
    assert gains[SUPPRESSOR] < 0.98 and gains[COPIER] > 1.02
    assert int((gains != 1).sum()) == 2 == method.trained_parameters
    losses = [record["validation_loss"] for record in history]
    assert losses[-1] < losses[0] - 0.02
    assert [record["step"] for record in history] == [0, 4, 8]
    assert weight_hash(lm.model) == before and not any(p.requires_grad for p in lm.model.parameters())
    assert not any(module._forward_pre_hooks for module in lm.model.modules())
    # What was measured is what the port gives.
    with torch.no_grad(), lm.ports(Conditioning(head_gains=gains)):
        measured = method.proxy.copy_losses(torch.stack(method.held_out())).mean()
    assert float(measured) == pytest.approx(losses[-1], abs=1e-4)
    assert method.held_out_loss() == pytest.approx(losses[-1], abs=1e-6)


def test_gains_of_a_bfloat16_model_are_float32() -> None:
    model, tokens = planted()
    method = pear_of(FrozenLM(model.bfloat16(), tokens))
    step(method)
    # The first of two steps of warm-up: a third of the rate, which bf16 would lose near 1.
    gains = torch.stack([method.gains.detach()[place] for place in HEADS])
    torch.testing.assert_close(gains, torch.tensor([1 - 5e-3 / 3, 1 + 5e-3 / 3]), atol=1e-5, rtol=0)


def test_the_rate_rises_over_two_steps_and_falls_in_a_line(lm: FrozenLM) -> None:
    method = pear_of(lm, ReweightConfig(length=8))
    rates = [trainer_of(method)._rate(i) for i in (0, 1, 2, 60, 2499)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 2440 / 2498, 1 / 2498])


def test_a_warm_up_may_be_longer_than_the_training(lm: FrozenLM) -> None:
    history = trainer_of(pear_of(lm, SHORT.replace(warmup=20, steps=2))).train()
    assert [record["step"] for record in history] == [0, 2]


def test_parts_of_a_batch_add_up_to_the_batch(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> torch.Tensor:
        method = pear_of(lm, SHORT.replace(batch_size=5))
        step(method)
        assert method.gains.grad is not None
        return method.gains.grad

    whole, sizes = gradient(), []
    monkeypatch.setattr("coldframe.methods.head_gains.pear._LOGITS", 2 * 8 * 63)  # two sequences at once
    losses = ProxyTask.copy_losses

    def counted(self: ProxyTask, ids: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        return losses(self, ids)

    monkeypatch.setattr(ProxyTask, "copy_losses", counted)
    torch.testing.assert_close(gradient(), whole, atol=1e-6, rtol=1e-4)
    assert sizes == [2, 2, 1]
    trainer_of(pear_of(lm))._validate()
    assert sizes[3:] == [2, 2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [8, 7])
def test_an_interrupted_training_ends_with_the_same_gains_to_the_bit(
    lm: FrozenLM, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SHORT.replace(steps=steps)
    whole = pear_of(lm, config)
    losses = [record["validation_loss"] for record in trainer_of(whole).train()]
    assert len(losses) == 3
    original, done = Trainer._step, []

    def counted(self: Trainer, group: Any, number: int) -> Any:
        done.append(number)
        if len(done) == 7:
            raise KeyboardInterrupt
        return original(self, group, number)

    monkeypatch.setattr(Trainer, "_step", counted)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(pear_of(lm, config), tmp_path).train()
    for _ in range(2):  # what is finished is not done again
        resumed = pear_of(lm, config)
        assert [record["validation_loss"] for record in trainer_of(resumed, tmp_path).train()] == losses
        assert torch.equal(resumed.gains, whole.gains)
        assert done == [0, 1, 2, 3, 4, 5, 6, *range(4, steps)]


def test_every_step_has_sequences_of_its_own_and_the_last_look_is_after_the_last_step(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, seen = pear_of(lm, SHORT.replace(steps=5, evaluate_every=2)), []
    losses = PEAR.loss

    def spying(self: PEAR, lm: FrozenLM, batch: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(torch.stack(batch))
        return losses(self, lm, batch)

    monkeypatch.setattr(PEAR, "loss", spying)
    history = trainer_of(method).train()
    assert [record["step"] for record in history] == [0, 2, 4, 5]
    assert len(seen) == 5
    for number, ids in enumerate(seen):
        assert torch.equal(ids, method.proxy.sequences(6, 8, 2, number))


def test_training_stops_when_the_held_out_loss_does_not_fall_and_keeps_the_best(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, 1.5, 1.6, 1.7, 1.4])
    monkeypatch.setattr(Trainer, "_validate", lambda *_: {"validation_loss": next(losses)})
    config, last = SHORT.replace(evaluate_every=1, patience=2), []
    original = Trainer._step

    def watched(self: Trainer, group: Any, number: int) -> Any:
        answer = original(self, group, number)
        last.append(float(method.gains.detach()[SUPPRESSOR]))
        return answer

    monkeypatch.setattr(Trainer, "_step", watched)
    method = pear_of(lm, config)
    history = trainer_of(method).train()
    assert [record["validation_loss"] for record in history] == [2.0, 1.5, 1.6, 1.7]
    assert float(method.gains.detach()[SUPPRESSOR]) == last[0] != last[-1] and len(last) == 3


def test_gains_that_help_nothing_are_an_error(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses = iter([1.0, 2.0, 1.5])
    monkeypatch.setattr(Trainer, "_validate", lambda *_: {"validation_loss": next(losses)})
    for _ in range(2):  # found again in the checkpoint
        with pytest.raises(TrainingError, match=r"no step lowered .* 1\.0000 before, 1\.5000 at the end.*Lower the le"):
            trainer_of(pear_of(lm), tmp_path).train()


def test_a_held_out_loss_that_is_not_finite_is_an_error(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = PEAR.loss

    def poisoned(self: PEAR, lm: FrozenLM, batch: Any) -> torch.Tensor:
        return losses(self, lm, batch) * (1.0 if torch.is_grad_enabled() else torch.nan)

    monkeypatch.setattr(PEAR, "loss", poisoned)
    with pytest.raises(TrainingError, match="not finite.*lower the learning rate"):
        trainer_of(pear_of(lm)).train()


def test_fixed_gains_train_nothing(lm: FrozenLM, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trained"))
    reweighting = reweight(lm, SHORT.replace(fixed=0.0, choose="lowest", heads=1))
    assert reweighting.heads == (COPIER,)
    assert reweighting.gains[COPIER] == 0 and int((reweighting.gains != 1).sum()) == 1
    assert reweighting.loss_before is not None and reweighting.loss_after is not None
    assert reweighting.loss_after > reweighting.loss_before + 1  # nothing copies any more
    assert [record["step"] for record in reweighting.history] == [0, 0]
