"""PRAG: many passages in one pass are each what they are alone, and what peft makes of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.tiny import tiny
from torch import Tensor

from coldframe.errors import ConfigError, DataError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.passage_prompts import PassagePrompts
from coldframe.methods.weight_deltas.prag import PRAGConfig, batches, train_adapters, training_tokens
from coldframe.tasks.corpus import Augmentation, Passage
from coldframe.tasks.fact_corpus import fact_corpus

FACTS = fact_corpus(4).corpus


def sequences(lm: FrozenLM, form: str = "closed-book", loss: str = "answer") -> list[list[TokenSequence]]:
    prompts = PassagePrompts(form, loss)  # type: ignore[arg-type]
    return [prompts.of(lm, passage, FACTS.given[passage.id]) for passage in FACTS.passages]


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Share of numbers that differ; where a gradient is nearly zero, Adam's sign of it is chance."""
    return float(((ours - theirs).abs() > 1e-4).float().mean())


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"per_step": 2}),
        ("llama", {"per_step": 3, "loss": "sequence", "targets": "all"}),
        ("gpt2", {"loss": "sequence"}),
        ("phi3", {}),
        ("opt", {}),
    ],
)
def test_together_is_one_by_one(architecture: str, settings: dict[str, object]) -> None:
    lm = FrozenLM(*tiny(architecture))
    before = lm.weight_hash
    config = PRAGConfig(epochs=3, **settings)  # type: ignore[arg-type]
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    some = sequences(lm, loss=config.loss)
    together, losses = train_adapters(lm, layout, config, some)
    alone = [train_adapters(lm, layout, config, [one]) for one in some]
    assert apart(together, torch.cat([flat for flat, _ in alone])) < 0.01
    torch.testing.assert_close(losses, torch.cat([loss for _, loss in alone]), atol=1e-3, rtol=1e-3)
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    # What each learned is its own: it helps its own passage more than any other's adapter does.
    for row, own in enumerate(some):
        by_adapter = [float(mean_nll(lm, own, given(layout, flat, config)).mean()) for flat in together]
        assert min(by_adapter) == by_adapter[row] < float(mean_nll(lm, own, EMPTY).mean())


def given(layout: Layout, flat: Tensor, config: PRAGConfig) -> Conditioning:
    return Conditioning(deltas=layout.deltas(layout.factors(flat), config.scale))


def test_a_passage_is_trained_as_peft_trains_it() -> None:
    """The published way: one passage, batch 1, the whole sequence counts, AdamW, no shuffling."""
    peft = pytest.importorskip("peft")
    lm = FrozenLM(*tiny("llama"))
    config = PRAGConfig(epochs=2, form="published", loss="sequence", learning_rate=3e-4)
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    own = sequences(lm, "published", "sequence")[1]
    assert len(own) == 5
    (flat,), _ = train_adapters(lm, layout, config, [own])

    wrapped = peft.get_peft_model(
        tiny("llama")[0],
        peft.LoraConfig(r=2, lora_alpha=32, lora_dropout=0, target_modules=list(layout.names), task_type="CAUSAL_LM"),
    )
    modules = [wrapped.base_model.model.get_submodule(name) for name in layout.names]
    pairs = [(m.lora_A["default"].weight, m.lora_B["default"].weight) for m in modules]
    for (a, b), (start_a, start_b) in zip(pairs, layout.factors(layout.start(config.seed)), strict=True):
        a.data.copy_(start_a)
        b.data.copy_(start_b)
    optimizer = torch.optim.AdamW([p for pair in pairs for p in pair], lr=3e-4)
    for _ in range(2):
        for one in own:
            ids = torch.tensor([one.ids])
            optimizer.zero_grad()
            wrapped(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    theirs = torch.cat([factor.detach().flatten() for pair in pairs for factor in pair])
    assert apart(flat, theirs) < 0.01 and float(flat[layout.start(0) == 0].abs().mean()) > 1e-4


def test_a_half_precision_model_trains_adapters_in_float32() -> None:
    model, tokenizer = tiny("llama")
    lm = FrozenLM(model.bfloat16(), tokenizer)
    config = PRAGConfig(epochs=3)
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    some = sequences(lm)
    flat, _ = train_adapters(lm, layout, config, some)
    assert flat.dtype == torch.float32 and lm.dtype == torch.bfloat16
    for own, adapter in zip(some, flat, strict=True):
        assert float(mean_nll(lm, own, given(layout, adapter, config)).mean()) < float(mean_nll(lm, own, EMPTY).mean())


def test_batches_hold_passages_of_as_many_sequences() -> None:
    lm = FrozenLM(*tiny("llama"))
    some = sequences(lm)
    uneven = [some[0], some[1][:2], some[2], some[3][:2]]
    groups = list(batches(lm, uneven, PRAGConfig(at_once=8)))
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 3]]
    of_like_length = [[TokenSequence((1,) * n)] * k for n, k in [(9, 1), (3, 2), (4, 1), (3, 1)]]
    assert list(batches(lm, of_like_length, PRAGConfig(at_once=2))) == [[3, 2], [0], [1]]
    long = [[TokenSequence((1,) * 2000)], [TokenSequence((1,) * 2000)], [TokenSequence((1,) * 2000)]]
    assert [len(group) for group in batches(lm, long, PRAGConfig())] == [2, 1]
    short = [[TokenSequence((1, 2, 3))]] * 70
    assert [len(group) for group in batches(lm, short, PRAGConfig())] == [64, 6]
    assert [len(group) for group in batches(lm, short, PRAGConfig(at_once=70))] == [70]


def test_a_gpu_takes_as_many_tokens_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = FrozenLM(*tiny("llama"))
    assert training_tokens(lm) == 4096
    one = 2 * 4 * sum(linear.d_in + linear.d_out for linear in lm.anatomy.linears())  # bytes of a token in float32
    monkeypatch.setattr(FrozenLM, "on_gpu", True)
    for tokens, expected in ((10_000, 10_000), (100, 4096)):
        card = SimpleNamespace(total_memory=4 * one * tokens)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert training_tokens(lm) == expected
    assert [len(group) for group in batches(lm, [[TokenSequence((1, 2, 3))]] * 70, PRAGConfig())] == [70]


def test_sequences_are_those_of_the_paper() -> None:
    lm = FrozenLM(*tiny("llama"))
    passage = FACTS.passages[0]
    augmentation = FACTS.given[passage.id]
    texts = [lm.tokenizer.decode(one.ids) for one in PassagePrompts("published").of(lm, passage, augmentation)]
    held = [(passage.text in text, augmentation.rewrite in text) for text in texts]
    assert held == [(True, False), (False, True), (True, False), (False, True), (False, False)]
    for text, qa in zip(texts, [augmentation.qa[i] for i in (0, 0, 1, 1, 2)], strict=True):
        assert text.endswith(f"Question: {qa.question}\nAnswer: {qa.answer}\n") and text.startswith("<bos>")
    for one in PassagePrompts("closed-book").of(lm, passage, augmentation):
        assert lm.tokenizer.decode(one.ids[one.start :]).startswith(" ")
    bare = PassagePrompts("published").of(lm, passage, Augmentation("", augmentation.qa))
    assert len(bare) == 3
    whole = PassagePrompts(full_answers=True).of(lm, passage, augmentation)[0]
    assert lm.tokenizer.decode(whole.ids[whole.start :]).strip() == augmentation.qa[0].full_answer


def test_a_passage_longer_than_the_context_is_told() -> None:
    lm = FrozenLM(*tiny("llama"))
    augmentation = FACTS.given[FACTS.passages[0].id]
    long = Passage.of("word " * 300, "Long", row=7)
    with pytest.raises(DataError, match=r"does not fit .*row 7.*at most 256"):
        PassagePrompts("published").of(lm, long, augmentation)
    assert lm.dropped_contexts == 0
    assert len(PassagePrompts("closed-book").of(lm, long, augmentation)) == 3


def test_a_loss_that_is_not_finite_names_the_passage() -> None:
    lm = FrozenLM(*tiny("llama"))
    config = PRAGConfig(learning_rate=1e30, epochs=5)
    layout = Layout.of(lm.anatomy, 2, "mlp")
    with pytest.raises(TrainingError, match="The loss of passage (a|b|c|d) is not finite"):
        train_adapters(lm, layout, config, sequences(lm), ["a", "b", "c", "d"])


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"epochs": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}])
def test_settings_out_of_range_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", ".")):
        PRAGConfig(**wrong)  # type: ignore[arg-type]
