"""Black-Box Tuning: the paper's loop as a plain one, losses that fall, runs that go on where they stopped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import TWO, WRITE, Case, lm_of, task

from coldframe.errors import ArtifactError, ConfigError, MissingExtraError, TrainingError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.methods.config import MethodContext
from coldframe.methods.soft_tokens.black_box_tuning import BlackBoxTuning
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.storage.files import sha256_of
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

TRAINING = TrainingConfig(batch_size=16, select="loss", seed=5)
SETTINGS = {"tokens": 2, "dimensions": 6, "population": 6, "evaluations": 90}


def searched(on: Task | None = None, **options: Any) -> Pipeline:
    method = BlackBoxTuning(**{**SETTINGS, **options.pop("settings", {})})
    return fit(method, lm_of("llama"), on or task(), **{"training": TRAINING, "quiet": True, **options})


@pytest.mark.slow
def test_it_finds_what_a_plain_loop_finds() -> None:
    """``P = P_0 + A z`` from the paper's equations, one row at a time; all rows are one batch here."""
    import cma

    lm, on = lm_of("llama"), task(rows=6)
    start = BlackBoxTuning(**SETTINGS).setup(MethodContext(lm, on.schema), seed=5).prompt.detach().double()
    norms = lm.embed(torch.arange(0, lm.anatomy.vocab_size, 7)).float().norm(dim=-1)
    scale = float(norms.median()) / lm.d_model**0.5  # an entry of a usual embedding
    a = torch.randn(2 * lm.d_model, 6, generator=torch.Generator().manual_seed(5)).double() * scale / 6**0.5

    def loss(prompt: torch.Tensor) -> float:
        losses = []
        for row in on.train:
            query = Prompt(on.schema.template.query(row.text), on.schema.template.header, on.schema.template.end)
            port = Conditioning(soft_tokens=prompt.float())
            scores = lm.label_scores([query], on.schema.words, port, choices=True).double()
            losses.append(-float(scores.log_softmax(-1)[0, on.schema.labels.index(row.target)]))
        return sum(losses) / len(losses)

    normal = np.random.default_rng(5).standard_normal
    options = {"popsize": 6, "randn": lambda *shape: normal(shape), "seed": np.nan, "verbose": -9}
    strategy, means = cma.CMAEvolutionStrategy(np.zeros(6), 1.0, options), []
    with torch.no_grad():
        for generation in range(10):
            candidates = strategy.ask()
            prompts = [start + (a @ torch.from_numpy(z)).view(2, -1) for z in candidates]
            strategy.tell(candidates, [loss(prompt) for prompt in prompts])
            if generation % 5 == 4:
                means.append(start + (a @ torch.from_numpy(strategy.result.xfavorite)).view(2, -1))
    pipeline = searched(on, select="last", settings={"evaluations": 60})
    torch.testing.assert_close(pipeline.method.prompt.double(), means[-1], atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]
    assert float(means[0].sum()) != float(means[1].sum())


@pytest.mark.slow
def test_the_loss_falls_and_the_best_round_is_taken() -> None:
    pipeline = searched(settings={"evaluations": 300})
    losses = [record["train_loss"] for record in pipeline.history]
    assert losses[-1] < 0.5 * losses[0]
    held_out = [record["validation_loss"] for record in pipeline.history]
    assert [record["epoch"] for record in pipeline.history if record["best"]][-1] == 1 + held_out.index(min(held_out))
    rows = task().validation
    chosen = pipeline.predict_proba([row.text for row in rows])[range(len(rows)), TWO.targets(rows)]
    assert -np.log(chosen).mean() == pytest.approx(min(held_out), abs=1e-5)
    assert pipeline.method.trained_parameters == 6


@pytest.mark.slow
def test_without_validation_rows_the_candidates_choose() -> None:
    history = searched(dataclasses.replace(task(), validation=())).history
    best, losses = [record["best"] for record in history], [record["train_loss"] for record in history]
    assert "validation_loss" not in history[0]
    assert best == [float(loss == min(losses[: i + 1])) for i, loss in enumerate(losses)]


@pytest.mark.slow
def test_it_learns_to_write() -> None:
    losses = [record["validation_loss"] for record in searched(task(WRITE), settings={"evaluations": 300}).history]
    assert losses[-1] < losses[0]


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["suffix", "prefix"])
def test_an_interrupted_search_ends_with_the_same_bytes(placement: str, tmp_path: Path) -> None:
    def third(record: Mapping[str, float]) -> None:
        if record["epoch"] == 2:
            raise Interrupted

    options: dict[str, Any] = {"settings": {"placement": placement}, "training": TRAINING.replace(batch_size=4)}
    with pytest.raises(Interrupted):
        searched(out=tmp_path / "resumed", on_record=third, **options)
    resumed, whole = searched(out=tmp_path / "resumed", **options), searched(out=tmp_path / "whole", **options)
    hashes = [sha256_of(tmp_path / name / "model.safetensors") for name in ("resumed", "whole")]
    assert hashes[0] == hashes[1] and len(resumed.history) == 3
    again = searched(out=tmp_path / "resumed", **options)
    assert again.history == resumed.history  # seconds included: nothing was measured again
    anew = searched(out=tmp_path / "resumed", resume=False, **options)
    assert anew.history != whole.history and torch.equal(anew.method.prompt, whole.method.prompt)  # type: ignore[arg-type]


def test_the_search_of_another_run_is_refused(tmp_path: Path) -> None:
    searched(out=tmp_path, settings={"evaluations": 6})
    with pytest.raises(ArtifactError, match="belongs to a run with other settings"):
        searched(out=tmp_path, settings={"evaluations": 6, "sigma": 0.5})


def test_it_draws_from_a_generator_of_its_own() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    searched(settings={"evaluations": 6})
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


@pytest.mark.slow
def test_beside_text_it_is_searched_with_the_text_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, ports = lm_of("llama"), []
    method = Case("c", "icl+black-box-tuning", {"icl": {"k": 2}, "black-box-tuning": SETTINGS}).method()
    losses = lm.label_losses

    def spying(prompts: Any, words: Any, targets: Any, conditioning: Conditioning, **options: Any) -> torch.Tensor:
        ports.append(conditioning)
        return losses(prompts, words, targets, conditioning, **options)

    monkeypatch.setattr(lm, "label_losses", spying)
    fit(method, lm, task(), training=TRAINING, quiet=True)
    assert len(ports) == SETTINGS["evaluations"]
    assert all(port.contexts is not None and port.soft_tokens is not None for port in ports)


def test_less_than_a_generation_is_refused() -> None:
    with pytest.raises(ConfigError, match="no whole generation.*evaluations=20"):
        BlackBoxTuning(evaluations=19)


def test_losses_that_are_not_finite_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlackBoxTuning, "loss", lambda *_: torch.tensor([1.0, float("nan")]))
    with pytest.raises(TrainingError, match="not finite.*Lower sigma"):
        searched()


def test_without_pycma_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(MissingExtraError, match=r"coldframe\[blackbox\]"):
        searched()
