"""PRAG: many passages in one pass are each what they are alone, and what peft makes of them; and what is kept of it."""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path
from types import SimpleNamespace
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
    share_apart,
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
from coldframe.methods.weight_deltas.passage_adapters import Lesson
from coldframe.methods.weight_deltas.prag import PRAG, training_tokens
from coldframe.storage.folders import MARKER
from coldframe.tasks.task import Passage

pytest.importorskip("bm25s")
FOUR = facts(4)


@pytest.mark.slow
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
def test_together_is_one_by_one(architecture: str, settings: dict[str, Any]) -> None:
    lm = FrozenLM(*tiny(architecture))
    before = lm.weight_hash
    together = fitted(PRAG(stored="float32", **settings), lm, FOUR, epochs=3)
    alone = [fitted(PRAG(stored="float32", **settings), lm, part(FOUR, i, i + 1), epochs=3) for i in range(4)]
    adapters = adapters_of(together, FOUR)
    assert share_apart(adapters, torch.cat([adapters_of(pipeline) for pipeline in alone])) < 0.01
    losses = [pipeline.history[-1]["train_loss"] for pipeline in alone]
    assert together.history[-1]["train_loss"] == pytest.approx(sum(losses) / 4, abs=1e-3)
    assert FrozenLM(lm.model, lm.tokenizer).weight_hash == before
    # What each learned is its own: it helps its own passage more than any other's adapter does.
    method = together.method
    assert isinstance(method, PRAG)
    for row, own in enumerate(sequences_of(lm, FOUR, loss=method.config.loss)):
        by_adapter = [
            loss_with(lm, own, conditioning(method.layout, adapter, method.config.scale)) for adapter in adapters
        ]
        assert min(by_adapter) == by_adapter[row] < loss_with(lm, own)


@pytest.mark.slow
def test_a_passage_is_trained_as_peft_trains_it() -> None:
    """The published way: one passage, batch 1, the whole sequence counts, AdamW, no shuffling."""
    peft = pytest.importorskip("peft")
    lm, on = FrozenLM(*tiny("llama")), part(FOUR, 1, 2)
    method = PRAG(form="published", loss="sequence", stored="float32")
    pipeline = fitted(method, lm, on, epochs=2, learning_rate=3e-4)
    (ours,), layout = adapters_of(pipeline), method.layout
    (own,) = sequences_of(lm, on, form="published", loss="sequence")
    assert len(own) == 5
    wrapped = peft.get_peft_model(
        tiny("llama")[0],
        peft.LoraConfig(r=2, lora_alpha=32, lora_dropout=0, target_modules=list(layout.names), task_type="CAUSAL_LM"),
    )
    modules = [wrapped.base_model.model.get_submodule(name) for name in layout.names]
    pairs = [(m.lora_A["default"].weight, m.lora_B["default"].weight) for m in modules]
    for (a, b), (start_a, start_b) in zip(pairs, layout.factors(layout.start(0)), strict=True):
        a.data.copy_(start_a)
        b.data.copy_(start_b)
    optimizer = torch.optim.AdamW([p for pair in pairs for p in pair], lr=3e-4)
    for _ in range(2):
        for sequence in own:
            ids = torch.tensor([sequence.ids])
            optimizer.zero_grad()
            wrapped(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    theirs = torch.cat([factor.detach().flatten() for pair in pairs for factor in pair])
    assert share_apart(ours, theirs) < 0.01 and float(ours[layout.start(0) == 0].abs().mean()) > 1e-4


@pytest.mark.slow
def test_a_half_precision_model_trains_adapters_in_float32() -> None:
    model, tokenizer = tiny("llama")
    lm, method = FrozenLM(model.bfloat16(), tokenizer), PRAG(stored="float32")
    adapters = adapters_of(fitted(method, lm, FOUR, epochs=3), FOUR)
    assert lm.dtype == torch.bfloat16 and not torch.equal(adapters, adapters.bfloat16().float())
    for own, adapter in zip(sequences_of(lm, FOUR), adapters, strict=True):
        assert loss_with(lm, own, conditioning(method.layout, adapter, 16.0)) < loss_with(lm, own)


def lessons_of(lengths: list[list[int]]) -> list[Lesson]:
    return [
        (Passage.of(f"passage {i}"), [TokenSequence((1,) * n) for n in listed], "") for i, listed in enumerate(lengths)
    ]


def groups_of(lengths: list[list[int]], **settings: Any) -> list[list[int]]:
    lessons, method = lessons_of(lengths), set_up(PRAG(**settings))
    assert isinstance(method, PRAG)
    return [[lessons.index(lesson) for lesson in group] for group in method.groups(lessons)]


def test_groups_hold_passages_of_as_many_sequences() -> None:
    uneven = groups_of([[9, 9, 9], [9, 9], [8, 8, 8], [8, 8]], at_once=8)
    assert sorted(map(sorted, uneven)) == [[0, 2], [1, 3]]
    assert groups_of([[9], [3, 3], [4], [3]], at_once=2) == [[3, 2], [0], [1]]
    assert [len(group) for group in groups_of([[2000]] * 3)] == [2, 1]
    assert [len(group) for group in groups_of([[3]] * 70)] == [64, 6]
    assert [len(group) for group in groups_of([[3]] * 70, at_once=70)] == [70]


def test_a_gpu_takes_as_many_tokens_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    assert training_tokens(lm) == 4096
    per_token = 2 * 4 * sum(linear.d_in + linear.d_out for linear in lm.anatomy.linears())  # bytes, in float32
    monkeypatch.setattr(FrozenLM, "on_gpu", True)
    for tokens, expected in ((10_000, 10_000), (100, 4096)):
        card = SimpleNamespace(total_memory=4 * per_token * tokens)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert training_tokens(lm) == expected
    assert [len(group) for group in groups_of([[3]] * 70)] == [70]


def test_a_loss_that_is_not_finite_names_the_passage() -> None:
    with pytest.raises(TrainingError, match="not finite.*The passage in row 1"):
        fitted(PRAG(), task=FOUR, learning_rate=1e30, epochs=5)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"per_step": 0}, {"at_once": 0}, {"alpha": 0.0}, {"k": 0}])
def test_settings_out_of_range_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PRAG(**wrong)


# ---- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_artifact_holds_the_adapters_and_nothing_else(tmp_path: Path) -> None:
    exact = fitted(PRAG(stored="float32", at_once=3), out=tmp_path / "float32", epochs=2)
    listed = json.loads((tmp_path / "float32" / "coldframe_config.json").read_text())["files"]
    there = {p.relative_to(tmp_path / "float32").as_posix() for p in (tmp_path / "float32").rglob("*") if p.is_file()}
    assert there - {*listed} == {"coldframe_config.json", "README.md", MARKER}
    method = exact.method
    shards = sum(path.stat().st_size for path in (tmp_path / "float32" / "adapters").glob("*.safetensors"))
    assert method.trained_parameters == 7 * method.layout.parameters and method.entry_bytes == shards / 7
    half = fitted(PRAG(at_once=2), out=tmp_path / "bfloat16", epochs=2)
    assert half.method.entry_bytes < 0.7 * method.entry_bytes
    torch.testing.assert_close(adapters_of(half), adapters_of(exact), atol=2e-3, rtol=1e-2)
    again = cf.load(tmp_path / "bfloat16", tiny_lm())
    assert torch.equal(adapters_of(again), adapters_of(half))
    again.save_pretrained(tmp_path / "elsewhere")
    assert torch.equal(adapters_of(cf.load(tmp_path / "elsewhere", tiny_lm())), adapters_of(half))


@pytest.mark.slow
def test_a_killed_run_does_not_train_again_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(PRAG(at_once=3), epochs=2)
    begun = trained_problems(monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        fitted(PRAG(at_once=3), out=tmp_path, epochs=2)
    with pytest.raises(ArtifactError, match="is not a coldframe artifact"):
        cf.load(tmp_path, tiny_lm())
    (tmp_path / "adapters" / ".tmp-1-x.safetensors").write_bytes(b"half")
    monkeypatch.undo()
    rest = trained_problems(monkeypatch)
    pipeline = fitted(PRAG(at_once=3), out=tmp_path, epochs=2)
    assert begun == ["prag: 3 passages"] * 2 and rest == ["prag: 1 passages"]
    assert torch.equal(adapters_of(pipeline), adapters_of(whole))
    fitted(PRAG(at_once=5), out=tmp_path, epochs=2)
    assert len(rest) == 1


@pytest.mark.slow
def test_a_corpus_that_changed_trains_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = trained_problems(monkeypatch)
    before = adapters_of(fitted(PRAG(), task=part(facts(), 0, 5), out=tmp_path, epochs=2), part(facts(), 2, 5))
    later = fitted(PRAG(at_once=1), task=part(facts(), 2, 7), out=tmp_path, epochs=2)
    assert torch.equal(adapters_of(later, part(facts(), 2, 5)), before)
    with pytest.raises(DataError, match="no adapter for passage"):
        adapters_of(later, part(facts(), 0, 1))
    # Another question about a passage makes another adapter of it, and of it alone.
    third = passages_of(facts())[2].id
    train = tuple(dataclasses.replace(e, target="else") if e.gold == (third,) else e for e in facts().train)
    changed = fitted(PRAG(), task=part(dataclasses.replace(facts(), train=train), 2, 7), out=tmp_path, epochs=2)
    assert not torch.equal(adapters_of(changed, part(facts(), 2, 3)), before[:1])
    assert torch.equal(adapters_of(changed, part(facts(), 3, 5)), before[1:])
    assert names == ["prag: 5 passages", *["prag: 1 passages"] * 3]


def test_a_passage_with_an_id_of_its_own_is_known_by_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = trained_problems(monkeypatch)
    passage, other = Passage.of("Ada lives in Rome.", id="ada"), Passage.of("Ada lives in Oslo.", id="ada")
    question = dataclasses.replace(facts().train[0], id="q", gold=("ada",))
    for entry in (passage, other, other):
        on = dataclasses.replace(facts(), store=(entry,), train=(question,), validation=())
        fitted(PRAG(form="published"), task=on, out=tmp_path, epochs=1)
    assert names == ["prag: 1 passages"] * 2


@pytest.mark.slow
def test_other_settings_are_refused(tmp_path: Path) -> None:
    on = part(facts(), 0, 3)
    fitted(PRAG(), task=on, out=tmp_path, epochs=2)
    template = on.schema.template.replace(instruction="Answer.")
    other_template = dataclasses.replace(on, schema=on.schema.replace(template=template))
    for method, lm, task, epochs in (
        (PRAG(), None, on, 3),
        (PRAG(rank=3), None, on, 2),
        (PRAG(stored="float32"), None, on, 2),
        (PRAG(), FrozenLM(*tiny("llama", seed=1)), on, 2),
        (PRAG(), None, other_template, 2),
        (PRAG(rank=3), None, part(facts(), 3, 5), 2),
    ):
        with pytest.raises(ArtifactError, match="another model or other settings"):
            fitted(method, lm, task, out=tmp_path, epochs=epochs)
    fitted(PRAG(k=3, combine="mean", at_once=1), task=on, out=tmp_path, epochs=2)  # which no adapter depends on


@pytest.mark.slow
def test_unusable_passages_are_told_or_left_out(tmp_path: Path) -> None:
    bare, long = Passage.of("nothing is asked", row=9), Passage.of("word " * 300, "Long", row=10)
    about = dataclasses.replace(facts().train[0], id="long", gold=(long.id,))
    on = with_passages(part(facts(), 0, 2), bare, long, questions=[about])
    with pytest.raises(DataError, match="row 9 has no questions.*--on-error skip"):
        fitted(PRAG(form="published"), task=on, epochs=1)
    with pytest.raises(DataError, match="row 10 does not fit .*at most 256"):
        fitted(PRAG(form="published"), task=dataclasses.replace(on, store=(long,)), epochs=1)
    skipping = dataclasses.replace(on, options={**on.options, "on_error": "skip"})
    for method, task in ((PRAG(form="published", skip_unusable=True), on), (PRAG(form="published"), skipping)):
        model = FrozenLM(*tiny("llama"))
        pipeline = fitted(method, model, task, epochs=1)
        assert set(method.left_out) == {bare.id, long.id} and len(pipeline.store) == 2
        assert model.dropped_contexts == 0
    both = cf.Compose(cf.RetrievedICL(k=1), PRAG(form="published"))
    assert len(fitted(both, task=skipping, epochs=1).store) == 2
    with pytest.raises(DataError, match="No passage can be learned"):
        fitted(PRAG(skip_unusable=True), task=dataclasses.replace(on, store=(bare,)), epochs=1)


def test_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on = part(facts(), 0, 3)
    fitted(PRAG(), task=on, out=tmp_path, epochs=2)
    (shard,) = (tmp_path / "adapters").glob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(ArtifactError, match="not the file that was saved"):
        cf.load(tmp_path, tiny_lm())
    with pytest.raises(ArtifactError, match="is damaged.*Delete it"):
        fitted(PRAG(), task=on, out=tmp_path, epochs=2)
    shard.unlink()
    with pytest.raises(ArtifactError, match="lacks adapters/"):
        cf.load(tmp_path, tiny_lm())
    names = trained_problems(monkeypatch)
    fitted(PRAG(), task=on, out=tmp_path, epochs=2)
    assert names == ["prag: 3 passages"] and shard.read_bytes() == whole


# ---- growth, and copies -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grown_corpus_trains_the_new_passages_and_writes_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, lm = part(facts(), 0, 5), tiny_lm()
    fitted(PRAG(), task=start, out=tmp_path / "a", epochs=2)
    files = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    pipeline = cf.load(tmp_path / "a", lm)
    before = adapters_of(pipeline, start)
    names = trained_problems(monkeypatch)
    assert cf.grow(pipeline, facts(), quiet=True) == 2 and cf.grow(pipeline, facts(), quiet=True) == 0
    assert names == ["prag: 2 passages"] and len(pipeline.store) == 7
    assert torch.equal(adapters_of(pipeline, start), before)
    # In memory alone: the artifact is what it was.
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == files
    pipeline.save_pretrained(tmp_path / "b")
    assert torch.equal(adapters_of(cf.load(tmp_path / "b", lm)), adapters_of(pipeline))
    # k may be larger than what is new.
    three = cf.load(tmp_path / "a", lm).replace(k=3)
    assert cf.grow(three, facts(), tmp_path / "a", quiet=True) == 2
    torch.testing.assert_close(adapters_of(cf.load(tmp_path / "a", lm)), adapters_of(pipeline))


@pytest.mark.slow
def test_a_killed_growth_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(PRAG(at_once=1), task=part(facts(), 0, 4), out=tmp_path, epochs=2)
    trained_problems(monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        cf.grow(cf.load(tmp_path, tiny_lm()), facts(), tmp_path, quiet=True)
    assert len(cf.load(tmp_path, tiny_lm()).store) == 4
    monkeypatch.undo()
    rest = trained_problems(monkeypatch)
    assert cf.grow(cf.load(tmp_path, tiny_lm()), facts(), tmp_path, quiet=True) == 3
    assert rest == ["prag: 1 passages"] and len(cf.load(tmp_path, tiny_lm()).store) == 7


@pytest.mark.slow
def test_a_copy_with_other_settings_outlives_what_it_was_made_from(tmp_path: Path) -> None:
    pipeline = fitted(PRAG(), task=FOUR, epochs=1).replace(k=2, combine="mean")
    gc.collect()
    assert pipeline.method.entry_bytes and pipeline.predict([FOUR.test[0].text])
    pipeline.save_pretrained(tmp_path)
    again = cf.load(tmp_path, tiny_lm())
    assert again.method.config == pipeline.method.config and torch.equal(adapters_of(again), adapters_of(pipeline))
    scratch = pipeline.method.scratch
    folder = Path(scratch.folder)
    assert folder.is_dir()
    del pipeline, scratch
    gc.collect()
    assert not folder.exists()


@pytest.mark.slow
def test_what_a_query_gets() -> None:
    """The sum of its passages' updates, or that of others; both ports, or one."""
    layout = Layout.of(tiny_lm().anatomy, 2, "mlp")
    pipeline = fitted(PRAG(k=2, stored="float32"), task=FOUR, epochs=2)
    texts = [question.text for question in FOUR.test[:3]]
    retrieved = pipeline.retrieve(pipeline.queries(texts))
    found = pipeline.method.condition(texts, retrieved)
    assert found.contexts is None and found.deltas.keys() == {*layout.names}
    delta = found.deltas[layout.names[0]]
    assert delta.scale == 16.0
    for row in range(3):
        ids = [entry.id for entry in retrieved.examples(row)]
        pairs = [layout.factors(adapter)[0] for adapter in pipeline.method.adapters.adapters(ids)]
        torch.testing.assert_close(delta.b[row] @ delta.a[row], sum(b @ a for a, b in pairs), atol=1e-5, rtol=1e-4)
    others = pipeline.replace(k=1, source="others").method
    for text in texts:
        (drawn,) = others._swapped(text, ["somebody"])
        assert others._swapped(text, [drawn]) != [drawn] and others._swapped(text, ["somebody"]) == [drawn]
    with pytest.raises(DataError, match="cannot be swapped"):
        pipeline.replace(k=4, source="others").predict(texts)
    with pytest.raises(ConfigError, match="cannot be combined by 'rows'"):
        pipeline.replace(combine="rows").predict(texts)
    with pytest.raises(ConfigError, match="'rank' cannot be changed"):
        pipeline.replace(rank=3)
    together = cf.Compose(cf.RetrievedICL(k=2), PRAG(k=2, stored="float32"))
    assert fitted(together, task=FOUR, epochs=2).replace(prag={"combine": "mean"}, icl={"k": 1}).predict(texts)


def test_another_model_or_dtype_is_refused(tmp_path: Path) -> None:
    fitted(PRAG(), task=FOUR, out=tmp_path, epochs=1)
    model, tokenizer = tiny("llama")
    for lm in (FrozenLM(*tiny("llama", seed=1)), FrozenLM(model.to(torch.bfloat16), tokenizer)):
        with pytest.raises(ArtifactError, match="another base model.*loaded as torch.float32"):
            cf.load(tmp_path, lm)
    with pytest.raises(ArtifactError, match="made in memory"):
        cf.load(tmp_path)
