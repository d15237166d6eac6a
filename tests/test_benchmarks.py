"""Every benchmark at its smallest setting, on a tiny random model: they run, and what they tell is whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import TWO, TinyEncoder, task
from tests.tiny import tiny, tiny_tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.prefill import text_states
from coldframe.frozen.states import Row
from coldframe.pipeline.fit import fit
from coldframe.pipeline.setup import training_settings
from coldframe.tasks.task import Task

pytest.importorskip("peft", reason="the training benchmark's peer comes with the extra train")
pytestmark = pytest.mark.slow

from benchmarks import __main__ as every  # noqa: E402
from benchmarks import (  # noqa: E402
    backbone,
    common,
    compare,
    gpu,
    growth,
    labels,
    memory_plan,
    parametric,
    prediction,
    reweighting,
    shapes,
    training,
)


@pytest.fixture
def lm() -> FrozenLM:
    model, tokenizer = tiny("llama")
    return FrozenLM(model, tokenizer, {"name": "tiny"})


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task of molecules' kind, so that BM25 and MiniLM are not asked for; its encoder is the tiny one."""
    for module in ("coldframe.pipeline.setup", "coldframe.retrieval.retriever"):
        monkeypatch.setattr(f"{module}.load_encoder", lambda spec: TinyEncoder(spec))
    return task(TWO, rows=8, validation=2)


def whole(result: dict[str, Any], goals: int) -> None:
    """As many goals as ways to reach them, each with a positive number; and it can be written down."""
    assert len(result["goals"]) == goals and all(line["value"] > 0 for line in result["goals"])
    json.dumps(result, allow_nan=False)


def test_training(lm: FrozenLM, rows: Task, capsys: pytest.CaptureFixture[str]) -> None:
    result = training.measure(lm, common.first(rows, 8, 2), batches=[4], rounds=1)
    whole(result, 6)
    assert [line["way"] for line in result["epoch, batch 4"]][:2] == [training.PEER, "prompt-tuning, prefix"]
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert capsys.readouterr().out == ""  # standard output is for the result


def test_labels(lm: FrozenLM) -> None:
    assert len(set(labels.LABELS)) == 150
    result = labels.measure(lm, labels=4, batch=2, tokens=20, rounds=1, highest=lambda *way: 1.0)
    whole(result, 4)
    assert len(result["training"]["seconds"]) == 2


SIZES = {"rows": [10, 100], "labels": [2, 20], "store": [10, 100, 10**9], "passages": [100, 1000]}


def test_growth(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": 512}
    monkeypatch.setattr(growth, "SHAPES", {"small": shape, "large": {**shape, "num_hidden_layers": 30}})
    result = growth.measure(lm, "tiny", SIZES, ["small", "large"], lambda way, n, *of: (n**2 / 1e6, 5.0 + n))
    json.dumps(result, allow_nan=False)
    tables = {line["of"]: line for line in result["growth"]}
    assert len(tables) == 10
    for line in tables.values():
        assert len(line["n"]) == len(line["seconds"]) == len(line["memory_mb"]) == len(line["how"])
    assert tables["rows: duplicates"]["exponent"] == pytest.approx(2)
    assert tables["store: cosine"]["how"] == ["measured", "measured", "simulated"]
    stored = tables["passages: prag, stored"]
    assert stored["memory_exponent"] == pytest.approx(1) and stored["exponent"] is None
    assert set(tables["model: reading"]["how"]) == {"one layer"}


def test_growth_turns_where_what_is_spent_once_no_longer_decides() -> None:
    line = growth.told("x", [1, 10, 100, 1000], [(5.0, 1.0), (5.0, 1.0), (6.0, 1.0), (60.0, 1.0)], ["measured"] * 4)
    assert line["turns"] == 100 and line["exponent"] == pytest.approx(1) and line["memory_exponent"] == 0


@pytest.mark.parametrize("way", ["reading", "duplicates", "tanimoto", "cosine", "bm25"])
def test_what_grows_runs(way: str) -> None:
    if way == "bm25":
        pytest.importorskip("bm25s")
    growth.WAYS[way](200)()


@pytest.mark.parametrize("phase", labels.PHASES)
def test_labels_grow(phase: str, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "load_lm", lambda name: lm)
    monkeypatch.setattr(growth, "TOKENS", 20)
    growth.labels(3, "tiny", phase)()


def test_a_page_is_filled_between_its_marks() -> None:
    page = every.filled("a <x>\nold\n<y> b", ("<x>", "<y>"), "new")
    assert page == "a <x>\nnew\n<y> b"


def test_compare(lm: FrozenLM, rows: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SEEDS", (0, 1))
    monkeypatch.setattr(compare, "METHODS", ("prompt-tuning", "mha-esp"))
    whole(compare.measure(lm, rows, rounds=1), 1)


def test_prediction(lm: FrozenLM, rows: Task) -> None:
    result = prediction.measure(
        lm, dataclasses.replace(rows, test=(*rows.train, *rows.validation)), many=1, single=1, rounds=1
    )
    whole(result, 6)
    tokens = {name: cost["context_tokens"] for name, cost in result["cost"].items()}
    assert tokens["mha-esp, prefix"] == tokens["mha-esp, suffix"] < tokens[prediction.RIVAL]


def test_backbone(lm: FrozenLM) -> None:
    result = backbone.measure(lm, batch=2, tokens=6, rounds=1)
    whole(result, 3)
    for name in ("prefix", "suffix", "reading"):
        assert sum(result[name]["shares"].values()) == pytest.approx(1)
        assert all(result[name]["shares"][place] > 0 for place in ("matrix products of the linears", "attention"))


def test_reweighting(tmp_path: Path) -> None:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_lm(str(tmp_path), dtype="float32")
    result = reweighting.measure(found, sequences=3, length=4, heads=2, rounds=1, prompt=10, written=2)
    json.dumps(result, allow_nan=False)
    assert [line["value"] > 0 for line in result["goals"] if "largest difference" not in line["what"]] == [True] * 3
    assert result["discovery"]["heads_timed_naively"] == 2
    assert result["discovery"]["largest_difference_of_an_effect"] < 1e-4
    assert len(set(result["folding"]["bytes_of_weights"].values())) == 1
    assert [line["way"] for line in result["rivals"]["ways"]] == ["base", "ms-poe", "moice", "attention-buckets"]
    assert all(line["time_of_base"] > 0 < line["memory_of_base"] for line in result["rivals"]["ways"])


def test_a_model_of_a_shape_is_searched() -> None:
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = shapes.of_shape({**shape, "num_key_value_heads": 1, "vocab_size": 32})
    result = reweighting.streamed(lm, sequences=2, length=4)
    whole(result, 1)
    assert result["heads"] == 4 and result["highest_memory_gb"] > result["weights_gb"]


def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = tiny("llama")[1]
    shape = {**small, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    monkeypatch.setattr(gpu, "SHAPES", dict.fromkeys(shapes.SHAPES, shape))
    monkeypatch.setattr(gpu, "PASSAGES", 4)
    monkeypatch.setattr(gpu, "PROMPT", 20)
    parts = [name for name in gpu.PARTS if name not in ("training", "discovery")]  # rows and words these have not
    result = gpu.measure(parts, 1, "cpu", tokenizer)
    json.dumps(result, allow_nan=False)
    assert list(result) == parts and all(one["highest_memory_gb"] > 0 for one in result.values())


def test_parametric(lm: FrozenLM, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bm25s")
    result = parametric.measure(lm, passages=6, peers=1, stored=20, rows=30, queries=2, rounds=1)
    whole(result, 8)
    read = result["lookup"]
    assert read["rows"] == 30 and 0 < read["microseconds"] <= read["microseconds_p95"]
    ways = {line["way"]: line["passages"] for line in result["encoding"]["ways"]}
    assert ways == {parametric.PEER: 1, parametric.PEER_OWN: 1, "prag": 6, "poly-prag": 6}
    files, shapes = result["storage"]["bfloat16, files"], result["storage"]["bfloat16, by shapes"]
    counted = next(one for one in shapes if one["passages"] == 20)
    # A file is its numbers and a head of names.
    for method in ("prag", "poly-prag"):
        assert counted[method] <= files[method] <= counted[method] + 10_000
    assert len(result["query"]["1 at a time"]) == len(result["query"]["16 at a time"]) == 6
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert capsys.readouterr().out == ""


def test_the_peer_trains_what_we_train(lm: FrozenLM) -> None:
    task = parametric.load_task("fact-corpus:4")
    task = dataclasses.replace(task, store=(task.store or ())[:1])
    training = training_settings(parametric.PRAG(), {"epochs": 2})
    peer = parametric.Peer(lm, parametric.PRAGConfig(), training, torch.float32)
    pipeline = fit(parametric.PRAG(stored="float32"), lm, task, training=training, quiet=True)
    layout = pipeline.method.layout
    pieces = layout.start(training.seed).split(layout.pieces)
    peer.start = [piece.reshape(p.shape) for piece, p in zip(pieces, peer.trained, strict=True)]
    peer.encode(parametric.sequences_of(parametric.PRAG(), lm, task))
    (ours,) = pipeline.method.adapters.adapters([entry.id for entry in pipeline.store.examples])
    theirs = torch.cat([p.detach().flatten() for p in peer.trained])
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-3)


def test_ratios_are_taken_within_a_round() -> None:
    times = {"base": [common.Time(2, 4), common.Time(20, 4)], "way": [common.Time(1, 1), common.Time(10, 1)]}
    base, way = common.rates(times, rows=10, base="base")
    assert (base["ratio"], way["ratio"], way["ratio_processor"]) == (1, 2, 4)
    assert way["rows_per_s"] == pytest.approx(10 / 5.5)


def test_the_table_has_a_line_for_every_goal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "RESULTS", tmp_path)
    (tmp_path / "compare.json").write_text(
        json.dumps({"goals": [common.goal("all", 2.6, 2.5, least=False), common.goal("one", 3.0, 3.0)]})
    )
    search = [{"way": "coldframe exact", "rows": 200_000, "store": "s", "median_ms": 1.5}]
    (tmp_path / "retrieval.json").write_text(json.dumps({"top": 5, "search": search, "lists": []}))
    lines = every.table().splitlines()[2:]
    assert [line.rpartition("| ")[2].strip(" |") for line in lines] == ["**missed**", "reached", "reached"]


def test_the_page_keeps_its_place_for_the_table() -> None:
    page = every.PAGE.read_text(encoding="utf-8")
    assert all(page.count(mark) == 1 for mark in (*every.MARKS, *every.GROWTH_MARKS))


def test_flush_of_a_way_is_not_timed() -> None:
    taken = common.Time.of(common.Way(lambda ready: None, lambda: torch.randn(300, 300) @ torch.randn(300, 300)))
    assert 0 <= taken.wall < 1


def test_the_check_says_which_ratios_fell() -> None:
    earlier = {
        "goals": [
            common.goal("faster", 4.0, 3.0),
            common.goal("smaller", 0.5, 1.0, least=False),
            common.goal("seconds", 1.0, 2.0, unit="s", least=False),
            common.goal("gone", 1.0, 1.0),
        ]
    }
    same = {"goals": [common.goal("faster", 3.5, 3.0), common.goal("smaller", 0.57, 1.0, least=False)]}
    worse = {
        "goals": [
            common.goal("faster", 3.3, 3.0),
            common.goal("smaller", 0.6, 1.0, least=False),
            common.goal("seconds", 9.0, 2.0, unit="s", least=False),
            common.goal("new", 0.1, 1.0),
        ]
    }
    assert every.fallen("prediction", earlier, same) == []
    lines = every.fallen("prediction", earlier, worse)
    assert [line.split(": ")[1] for line in lines] == ["faster", "smaller"] and "4.00 before, 3.30 now" in lines[0]


def test_the_memory_plan_counts_what_a_real_pass_keeps() -> None:
    """On the meta device nothing has numbers; the bytes are those of a model that has them."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, head_dim=8,
    )  # fmt: skip
    shapes = memory_plan.model_of(config)
    real = LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH):  # the attention that keeps its weights; others keep less
        assert memory_plan.saved_bytes(shapes, 3, 7) == memory_plan.saved_bytes(real, 3, 7)
    assert memory_plan.saved_bytes(shapes, 3, 7) > memory_plan.saved_bytes(real, 3, 7) > 0
    read = memory_plan.Job("", batch=3, read=5, trained=0)
    lm = FrozenLM(real, tiny_tokenizer())
    state = text_states(lm, [Row((), (1, 2, 3, 4, 5))])[0]
    assert memory_plan.plan(config, read)["states"] * 1e9 == pytest.approx(3 * state.kv.nbytes)
    low_rank = memory_plan.Job("", 1, 0, 7, rank=2)
    counted = sum(
        2 * sum(at.weight.shape) for name, at in real.model.named_modules() if isinstance(at, torch.nn.Linear)
    )
    assert low_rank.parameters(real, config) == counted
