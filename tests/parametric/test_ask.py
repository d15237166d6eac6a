"""Questions over an encoded corpus: what reaches the model, what the controls do, what leaves it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coldframe.parametric.encode import encode
from coldframe.parametric.encoded import Encoded, name_of
from coldframe.parametric.evaluate import broken, evaluate, ways
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question
from coldframe.tasks.fact_corpus import fact_corpus
from tests.tiny import tiny

from coldframe.errors import ArtifactError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.weight_deltas.adapters import mean_cosine
from coldframe.methods.weight_deltas.dyprag import DyPRAGConfig
from coldframe.methods.weight_deltas.poly_prag import PolyPRAGConfig
from coldframe.methods.weight_deltas.prag import PRAGConfig

pytest.importorskip("bm25s")
FACTS = fact_corpus(6)
TRAINED = [
    Question.of(qa.question, [qa.answer], [passage.id])
    for passage in FACTS.corpus.passages
    for qa in FACTS.corpus.given[passage.id].qa
]


@pytest.fixture(scope="module")
def prag(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prag")
    encode(FACTS.corpus, lm, PRAGConfig(epochs=40, learning_rate=3e-3, per_step=3), out, stored="float32", quiet=True)
    return out


@pytest.fixture(scope="module")
def poly(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("poly")
    encode(FACTS.corpus, lm, PolyPRAGConfig(adapters=3, epochs=3), out, quiet=True)
    return out


@pytest.fixture(scope="module")
def dyprag(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dyprag")
    config = DyPRAGConfig(
        epochs=60,
        learning_rate=3e-3,
        init_std=0.02,
        teacher_learning_rate=3e-3,
        teacher_epochs=40,
        teacher_per_step=3,
        batch_size=6,
    )
    encode(FACTS.corpus, lm, config, out, stored="float32", quiet=True)
    return out


def ask(**settings: Any) -> AskConfig:
    return AskConfig(**{"k": 1, "max_new_tokens": 24, **settings})


@pytest.mark.slow
def test_the_knowledge_is_in_the_weights(lm: FrozenLM, prag: Path) -> None:
    """Questions as they were trained, of a random model that knows nothing: only the right adapter answers."""
    encoded = Encoded.load(prag, lm)
    found = evaluate(encoded, TRAINED, [ask(mode="closed-book"), ask(), ask(swapped=True)], quiet=True)
    closed, own, swapped = (way.scores["exact_match"].value for way in found.ways)
    assert own > 60 and closed < 5 and swapped < 15
    assert found.recall is not None and found.recall > 0.9 and found.n == 18
    assert [way.name for way in found.ways] == ["closed-book", "prag", "prag (swapped)"]
    assert found.broken is not None and found.broken.value > 70
    assert found.to_dict()["swapping_breaks"]["value"] == found.broken.value


def test_what_swapping_breaks_is_a_share_of_what_was_right(lm: FrozenLM, prag: Path) -> None:
    some = Encoded.load(prag, lm).answer([Question.of(f"Q{i}?", [f"a{i}"]) for i in range(4)], ask(max_new_tokens=1))
    own, swapped = (
        dataclasses.replace(some, generated=said) for said in (("a0", "it is a1.", "a2", "x"), ("a0", "x", "a9", "a3"))
    )
    share = broken(own, swapped)
    assert share is not None and share.value == pytest.approx(200 / 3) and share.low <= share.value <= share.high
    assert broken(dataclasses.replace(own, generated=("x",) * 4), swapped) is None


def test_the_published_cut_damages_answers(lm: FrozenLM, prag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "generate", lambda prompts, *args, **kwargs: [" J. K. Rowling, I think."] * len(prompts))
    encoded = Encoded.load(prag, lm)
    for cut, said in (("line", "J. K. Rowling, I think."), ("published", "J")):
        found = encoded.answer(TRAINED[:2], ask(mode="closed-book", cut=cut))
        assert found.generated == (said, said)
    assert found.method == "closed-book (published cut)"


@pytest.mark.slow
def test_dyprag_generates_what_answers(lm: FrozenLM, dyprag: Path) -> None:
    encoded = Encoded.load(dyprag, lm)
    settings = ways(encoded, ask())
    assert [name_of("dyprag", one) for one in settings] == [
        "closed-book",
        "text-rag",
        "dyprag",
        "dyprag+text",
        "dyprag (swapped)",
        "dyprag+text (swapped)",
    ]
    found = evaluate(encoded, TRAINED, settings, quiet=True)
    closed, _, own, _, swapped, _ = (way.scores["exact_match"].value for way in found.ways)
    assert own > 60 and closed < 5 and swapped < own - 20
    ids = [passage.id for passage in FACTS.corpus.passages]
    assert found.cosine == mean_cosine(encoded.bank.layout, encoded.bank.adapters(ids)) < 0.999
    assert found.to_dict()["adapter_cosine"] == found.cosine
    # Of several passages A and B are averaged, each for itself, unless another way is asked for.
    queries = [ids[:3], ids[3:5], []]
    each = [encoded.bank.layout.factors(encoded.bank.adapters(some)) for some in queries]
    for m, (a, b) in enumerate(encoded.bank.factors(queries, "auto")):
        for query in (0, 1):
            torch.testing.assert_close(a[query], each[query][m][0].mean(0))
            torch.testing.assert_close(b[query], each[query][m][1].mean(0))
        assert not a[2].any() and not b[2].any()
    assert not encoded.bank.factors([[]], "auto")[0][1].any()
    a, b = encoded.bank.factors(queries, "sum")[0]
    torch.testing.assert_close(b[1] @ a[1], sum(b @ a for a, b in zip(*each[1][0], strict=True)), atol=1e-5, rtol=1e-4)
    assert encoded.summary()["bytes"] == sum(path.stat().st_size for path in dyprag.glob("*.safetensors"))


def test_what_each_mode_puts_in(lm: FrozenLM, prag: Path) -> None:
    encoded = Encoded.load(prag, lm)
    questions = FACTS.questions[:3]
    retrieved = encoded.retrieve(questions, ask(k=2))
    filled = {
        mode: encoded.condition(retrieved, ask(k=2, mode=mode))
        for mode in ("closed-book", "passages", "parameters", "both")
    }
    assert filled["closed-book"] == Conditioning()
    assert not filled["passages"].deltas and filled["parameters"].contexts is None
    assert filled["both"].contexts == filled["passages"].contexts
    assert filled["both"].deltas.keys() == filled["parameters"].deltas.keys()
    assert filled["passages"].contexts is not None
    for row, blocks in enumerate(filled["passages"].contexts):
        assert [block.rstrip("\n") for block in reversed(blocks)] == [e.text for e in retrieved.examples(row)]
    name = next(iter(filled["both"].deltas))
    delta = filled["parameters"].deltas[name]
    ids = [[e.id for e in retrieved.examples(row)] for row in range(3)]
    for row in range(3):
        each = [encoded.bank.layout.factors(encoded.bank.adapters([one]))[0] for one in ids[row]]
        torch.testing.assert_close(delta.b[row] @ delta.a[row], sum(b[0] @ a[0] for a, b in each), atol=1e-5, rtol=1e-4)
    assert delta.scale == 16.0


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(lm: FrozenLM, prag: Path) -> None:
    encoded = Encoded.load(prag, lm)
    together = encoded.answer(FACTS.questions, ask(k=3, mode="both", batch_size=8))
    alone = encoded.answer(FACTS.questions, ask(k=3, mode="both", batch_size=1))
    assert together.generated == alone.generated
    assert np.array_equal(together.neighbours, alone.neighbours)


@pytest.mark.slow
def test_poly_prag_and_its_controls(lm: FrozenLM, poly: Path) -> None:
    encoded = Encoded.load(poly, lm)
    settings = ways(encoded, ask(k=2))
    names = [name_of("poly-prag", one) for one in settings]
    assert names == [
        "closed-book",
        "text-rag",
        "poly-prag",
        "poly-prag+text",
        "poly-prag (swapped)",
        "poly-prag+text (swapped)",
        "poly-prag (uniform routing)",
        "poly-prag (random routing)",
    ]
    found = evaluate(encoded, FACTS.questions, settings, quiet=True)
    assert [way.name for way in found.ways] == names and found.to_dict()["n"] == 24
    assert all(set(way.scores) == {"token_f1", "exact_match", "contains"} for way in found.ways)
    for combine in ("rows", "sum", "mean", "average-factors", "ties"):
        encoded.answer(FACTS.questions[:2], ask(k=2, combine=combine))


@pytest.mark.parametrize("combine", ["auto", "mean", "ties"])
@pytest.mark.parametrize("which", ["prag", "poly", "dyprag"])
def test_an_exported_adapter_is_the_same_in_peft(
    which: str, combine: Any, lm: FrozenLM, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    encoded = Encoded.load(request.getfixturevalue(which), lm)
    chosen = [passage.id for passage in FACTS.corpus.passages[:2]]
    encoded.export(chosen, tmp_path / "lora", combine)
    wrapped = peft.PeftModel.from_pretrained(tiny("llama")[0], str(tmp_path / "lora")).eval()
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    deltas = encoded.bank.layout.deltas(encoded.bank.factors([chosen], combine), encoded.bank.scale)
    ours = lm.logits(ids, None, Conditioning(deltas=deltas))
    torch.testing.assert_close(ours, wrapped(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert float((ours - lm.logits(ids)).abs().max()) > 1e-3
    assert sorted(wrapped.peft_config["default"].target_modules) == ["down_proj", "gate_proj", "up_proj"]
    with pytest.raises(ConfigError, match="exists already"):
        encoded.export(chosen, tmp_path / "lora")
    with pytest.raises(DataError, match="no passage 'nobody'"):
        encoded.export(["nobody"], tmp_path / "other")


@pytest.mark.parametrize("config", [PRAGConfig(epochs=1), DyPRAGConfig(epochs=1, teacher_epochs=1, init_std=0.1)])
def test_export_where_names_are_not_unique(config: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lm = FrozenLM(*tiny("gpt2"))
    encode(FACTS.corpus, lm, config, tmp_path / "out", quiet=True)
    encoded = Encoded.load(tmp_path / "out", lm)
    chosen = [FACTS.corpus.passages[0].id]
    encoded.export(chosen, tmp_path / "lora")
    wrapped = peft.PeftModel.from_pretrained(tiny("gpt2")[0], str(tmp_path / "lora")).eval()
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    deltas = encoded.bank.layout.deltas(encoded.bank.factors([chosen], "sum"), encoded.bank.scale)
    torch.testing.assert_close(
        lm.logits(ids, None, Conditioning(deltas=deltas)), wrapped(input_ids=ids).logits, atol=1e-4, rtol=1e-4
    )


def test_bad_input_is_told(lm: FrozenLM, prag: Path) -> None:
    encoded = Encoded.load(prag, lm)
    with pytest.raises(ArtifactError, match="another base model"):
        Encoded.load(prag, FrozenLM(*tiny("llama", seed=1)))
    model, tokenizer = tiny("llama")
    with pytest.raises(ArtifactError, match="another number format"):
        Encoded.load(prag, FrozenLM(model.to(torch.bfloat16), tokenizer))
    with pytest.raises(ConfigError, match="mode is not one of its choices"):
        AskConfig(mode="text")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="made in memory"):
        Encoded.load(prag)
    with pytest.raises(ConfigError, match="Only Poly-PRAG has a routing"):
        encoded.answer(FACTS.questions, ask(routing="uniform"))
    with pytest.raises(ConfigError, match="cannot be combined by 'rows'"):
        encoded.answer(FACTS.questions, ask(combine="rows"))
    with pytest.raises(DataError, match="no question"):
        encoded.answer([], ask())
    with pytest.raises(DataError, match="cannot be swapped"):
        encoded.answer(FACTS.questions[:1], ask(swapped=True, k=6))
    assert encoded.answer(FACTS.questions[:1], ask(swapped=True)).method == "prag (swapped)"
    with pytest.raises(ConfigError, match="k must be positive"):
        ask(k=0)
    assert len(encoded.answer(FACTS.questions[:1], dataclasses.replace(ask(), k=99)).neighbours[0]) == 6
