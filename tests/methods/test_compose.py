"""Methods composed by name: each part in a port of its own, trained with the ports of the parts before in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, QUERIES, Case, TinyEncoder, built, corpus, lm_of, task

from coldframe.errors import ArtifactError, ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.compose import Compose
from coldframe.methods.head_gains.pear import PEAR
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.prompt_tuning import PromptTuning
from coldframe.methods.text.icl import RetrievedICL
from coldframe.methods.weight_deltas.lora import LoRA
from coldframe.methods.weight_deltas.prag import PRAG
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Task
from coldframe.training.trainer import Trainer

GAINS: dict[str, Any] = {
    "heads": 2, "repetitions": [[4, 6]], "length": 6, "held_out": 8, "steps": 6, "batch_size": 8, "evaluate_every": 1,
    "learning_rate": 1e-2, "patience": 0,
}  # fmt: skip
MHA = {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 2, "dropout": 0.2}
COMPOSED: dict[str, dict[str, Any]] = {
    "icl+pear": {"icl": {"k": 2}, "pear": GAINS},
    "mha-esp+pear": {"mha-esp": MHA, "pear": GAINS},
    "icl+prag": {"icl": {"k": 3}, "prag": {"k": 1, "stored": "float32"}},
}


@pytest.fixture(autouse=True)
def tiny_encoders(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", TinyEncoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", TinyEncoder)


def fitted(name: str, on: Task | None = None, **options: Any) -> Pipeline:
    options = {"epochs": 2, "batch_size": 4, "quiet": True, "retrieval": RetrievalConfig(encoder="tiny")} | options
    on = on or (corpus() if "prag" in name else task())
    return fit(create(name, COMPOSED[name]), lm_of("llama"), on, **options)


def written(pipeline: Pipeline) -> Any:
    if pipeline.schema.kind == "classification":
        return pipeline.predict_proba(QUERIES).tolist()
    return pipeline.predict(QUERIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSED)
def test_a_composition_is_fitted_saved_loaded_and_predicts(name: str, tmp_path: Path) -> None:
    pipeline = fitted(name, out=tmp_path / "out")
    assert pipeline.method.name == name
    again = load(tmp_path / "out", lm_of("llama"))
    assert repr(again.method) == repr(pipeline.method) and again.method.name == name
    assert written(again) == written(pipeline)
    assert again.method.trained_parameters == pipeline.method.trained_parameters > 0
    alone = [fitted_part for fitted_part in pipeline.method.methods if isinstance(fitted_part, PEAR)]
    assert all(int((part.gains != 1).sum()) == 2 for part in alone)


def test_every_part_sees_as_many_entries_as_its_own_k_says() -> None:
    case = Case("both", "icl+prag", {"icl": {"k": 3}, "prag": {"k": 1, "stored": "float32"}})
    lm = lm_of("llama")
    method = built(case, lm)
    assert method.config.k == 3
    icl, prag = method.methods
    conditioning = method.condition(QUERIES, FOUND)
    nearest = FOUND.ranked().top(1)
    assert conditioning.contexts == icl.condition(QUERIES, FOUND).contexts
    assert [len(texts) for texts in conditioning.contexts or ()] == [3, 3, 3, 2]
    for name, delta in prag.condition(QUERIES, nearest).deltas.items():
        assert torch.equal(delta.b, conditioning.deltas[name].b)


def test_the_order_of_what_is_retrieved_reaches_a_part_that_heeds_it() -> None:
    method = built(Case("both", "icl+pear", {"icl": {"k": 2}, "pear": {**GAINS, "fixed": 0.5}}), lm_of("llama"))
    turned = Retrieved(FOUND.store, FOUND.indices[:, ::-1].copy(), FOUND.scores[:, ::-1].copy())
    straight, reverse = (method.condition(QUERIES, retrieved).contexts for retrieved in (FOUND, turned))
    assert straight is not None and reverse is not None
    assert reverse == tuple(texts[::-1] for texts in straight) and [len(texts) for texts in straight] == [2, 2, 2, 2]
    assert reverse == method.contexts(QUERIES, turned)
    assert not method.order_invariant


@pytest.mark.parametrize(
    ("name", "settings", "parts", "port"),
    [
        ("icl+icl-fixed", {}, "icl and icl-fixed", "text"),
        ("prompt-tuning+mha-esp", {}, "prompt-tuning and mha-esp", "soft tokens"),
        ("icl+mha-esp", {"mha-esp": {"text_exemplars": 1}}, "icl and mha-esp", "text"),
    ],
)
def test_a_port_filled_twice_is_told_when_it_is_composed(
    name: str, settings: dict[str, Any], parts: str, port: str
) -> None:
    with pytest.raises(ConfigError, match=f"{parts} fill the same port.*{port}"):
        create(name, settings)


def test_weights_that_two_parts_change_are_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(ConfigError, match=r"lora and prag fill the same port.*mlp"):
        fit(Compose(LoRA(targets="all"), PRAG()), lm_of("llama"), corpus(), quiet=True)


def test_parts_of_one_name_or_a_part_alone_are_no_composition() -> None:
    for parts in ((PEAR(),), (PEAR(heads=2), PEAR(heads=3))):
        with pytest.raises(ConfigError, match="parts of different names"):
            Compose(*parts)
    with pytest.raises(ConfigError, match="'iclx' is not a part of icl.pear.*Did you mean 'icl'"):
        create("icl+pear", {"iclx": {"k": 3}})


@pytest.mark.slow
def test_a_part_is_trained_with_the_ports_of_the_others_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains first, whatever the order of the names; then the soft tokens, on the reweighted model."""
    lm, seen = lm_of("llama"), list[Conditioning]()
    losses = FrozenLM.label_losses

    def spying(self: FrozenLM, prompts: Any, words: Any, targets: Any, conditioning: Conditioning, **rest: Any) -> Any:
        seen.append(conditioning)
        return losses(self, prompts, words, targets, conditioning, **rest)

    monkeypatch.setattr(FrozenLM, "label_losses", spying)
    composed = fitted("mha-esp+pear")
    assert seen and all(c.head_gains is not None and c.soft_tokens is not None for c in seen)
    assert all(int((c.head_gains != 1).sum()) == 2 for c in seen)
    assert [record["problem"] for record in composed.history] == [0.0] * 7 + [1.0] * 2
    # The same gains, put in from outside, are what the soft tokens were trained under.
    alone = fit(create("mha-esp", MHA), lm, task(), epochs=2, batch_size=4, quiet=True,
                retrieval=RetrievalConfig(encoder="tiny"))  # fmt: skip
    own = composed.method.methods[0].state_dict()
    assert any(not torch.equal(weight, own[name]) for name, weight in alone.method.state_dict().items())


def test_text_stands_in_the_prompt_while_soft_tokens_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[Sequence[int]] = []
    losses = FrozenLM.label_losses

    def spying(self: FrozenLM, prompts: Any, words: Any, targets: Any, conditioning: Conditioning, **rest: Any) -> Any:
        counts.append([len(texts) for texts in conditioning.contexts or ()])
        return losses(self, prompts, words, targets, conditioning, **rest)

    monkeypatch.setattr(FrozenLM, "label_losses", spying)
    method = Compose(PromptTuning(tokens=2), RetrievedICL(k=2))
    assert method.uses_retrieval and method.trainable
    fit(method, lm_of("llama"), task(), epochs=1, batch_size=4, quiet=True, retrieval=RetrievalConfig(encoder="tiny"))
    assert counts and all(set(of_batch) == {2} for of_batch in counts)


@pytest.mark.slow
def test_a_part_is_trained_as_it_is_alone_where_the_others_play_no_part() -> None:
    """PRAG's losses have a prompt of their own; its training settings are its own too."""
    composed = fit(
        create("icl+prag", COMPOSED["icl+prag"]), lm_of("llama"), corpus(), quiet=True, retrieval=RetrievalConfig()
    )
    alone = fit(create("prag", COMPOSED["icl+prag"]["prag"]), lm_of("llama"), corpus(), quiet=True)
    assert composed.training == alone.training
    ids = [entry.id for entry in alone.store.examples]
    adapters = [method.adapters.adapters(ids) for method in (composed.method.methods[1], alone.method)]
    assert torch.equal(*adapters)


@pytest.mark.slow
def test_what_another_run_left_in_the_cache_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(cache: Path, seeds: Sequence[int]) -> list[np.ndarray]:
        monkeypatch.setenv("COLDFRAME_CACHE", str(cache))
        for seed in seeds:
            pipeline = fitted("mha-esp+pear", seed=seed)
        return [weight.numpy() for weight in pipeline.method.state_dict().values()]

    fresh, after = weights(tmp_path / "a", [1]), weights(tmp_path / "b", [0, 1])
    for ours, theirs in zip(after, fresh, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_checkpoint_trained_under_other_gains_is_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = Trainer._step, []

    def stopped(self: Trainer, group: Any, number: int) -> Any:
        done.append(number)
        if len(done) == 6 + 4:  # gains, then an epoch of soft tokens and the first step of the next
            raise KeyboardInterrupt
        return step(self, group, number)

    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        fitted("mha-esp+pear", out=tmp_path)
    other = create("mha-esp+pear", {"mha-esp": MHA, "pear": {**GAINS, "heads": 3}})
    options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "retrieval": RetrievalConfig(encoder="tiny")}
    with pytest.raises(ArtifactError, match="other settings"):
        fit(other, lm_of("llama"), task(), out=tmp_path, quiet=True, **options)
    resumed = fitted("mha-esp+pear", out=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", TinyEncoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", TinyEncoder)
    whole = fitted("mha-esp+pear")
    for name, weight in whole.method.state_dict().items():
        assert torch.equal(weight, resumed.method.state_dict()[name])


def test_settings_of_a_part_may_change_after_training() -> None:
    pipeline = fitted("icl+pear")
    changed = pipeline.replace(**{"icl.k": 1})
    assert changed.method.methods[0].config.k == 1 == changed.method.config.k
    assert pipeline.method.methods[0].config.k == 2 == pipeline.method.config.k
    assert torch.equal(changed.method.methods[1].gains, pipeline.method.methods[1].gains)
    texts = changed.method.condition(QUERIES, changed.retrieve(changed.queries(QUERIES))).contexts
    assert [len(own) for own in texts] == [1] * len(QUERIES)
    for wrong in ("k", "icl.heads", "pear.heads", "lora.rank"):
        with pytest.raises(ConfigError):
            pipeline.replace(**{wrong: 1})


def test_a_composition_retrieves_and_is_ablated_as_its_parts_are() -> None:
    assert create("icl-fixed+prompt-tuning").strategy == "fixed"
    assert create("icl+prag").ablations == create("prag").ablations
    assert set(create("mha-esp+pear").ablations) == set(create("mha-esp").ablations)
    with pytest.raises(ConfigError, match="retrieve in different ways"):
        create("icl-fixed+prag")
