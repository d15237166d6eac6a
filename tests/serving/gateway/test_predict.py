"""Answers of the gateway are those of the pipelines, whatever is asked beside them."""

from __future__ import annotations

import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.gateway.support import METHODS, TEXTS, adapters_of, client_of

from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.retrieval.store import Store
from coldframe.serving.gateway.adapters import Adapters
from coldframe.serving.gateway.jobs import Answers, Query
from coldframe.serving.gateway.together import answer
from coldframe.tasks.questions import QUESTION

pytestmark = pytest.mark.slow
CLASSIFYING = [name.replace("/", "-") for name in METHODS if name != "prag"]


@pytest.fixture
def adapters(folders: dict[str, Path]) -> Adapters:
    return adapters_of(folders)


def query(adapters: Adapters, name: str, texts: list[str]) -> Query:
    return Query(size=len(texts), deadline=float("inf"), adapter=adapters.get(name), texts=texts)


def answered(jobs: list[Query]) -> list[Answers]:
    for job in jobs:
        job.future.set_running_or_notify_cancel()
    answer(jobs)
    return [job.future.result(timeout=0) for job in jobs]


def right(adapters: Adapters, name: str, texts: list[str]) -> Any:
    pipeline = adapters.get(name).pipeline
    return pipeline.predict_proba(texts) if pipeline.schema.kind == "classification" else pipeline.predict(texts)


def test_all_methods_in_one_batch_each_its_own_answer(adapters: Adapters) -> None:
    names = [*adapters.names(), *adapters.names()]
    random.Random(0).shuffle(names)
    texts = [[TEXTS[i % 4], f"{name} {i}"] for i, name in enumerate(names)]
    answers = answered([query(adapters, name, own) for name, own in zip(names, texts, strict=True)])
    for name, own, result in zip(names, texts, answers, strict=True):
        expected = right(adapters, name, own)
        if isinstance(expected, list):
            assert result.words == expected, name
        else:
            assert np.allclose(result.probabilities, expected, atol=1e-4), name


def test_rows_of_many_adapters_stand_in_one_forward_pass(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = adapters.get("mha-esp").pipeline.lm
    sizes: list[int] = []
    label_scores = lm.label_scores

    def counting(prompts: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return label_scores(prompts, *args, **options)

    monkeypatch.setattr(lm, "label_scores", counting)
    # Two soft tokens after the text, and one query; three tokens of prompt tuning stand apart.
    answered([query(adapters, name, [text]) for name in ("mha-esp", "idpg", "prompt-tuning") for text in TEXTS])
    assert sorted(sizes) == [4, 8]


def test_the_requests_of_one_adapter_are_one_call_of_its_method(
    adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = adapters.get("mha-esp").pipeline.method
    calls: list[int] = []
    condition = type(method).condition

    def counting(self: Any, texts: Any, retrieved: Any) -> Any:
        calls.append(len(texts))
        return condition(self, texts, retrieved)

    monkeypatch.setattr(type(method), "condition", counting)
    answered([query(adapters, "mha-esp", [text]) for text in TEXTS])
    assert calls == [4]


def test_a_request_that_fails_harms_no_other(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    method = type(adapters.get("mha-esp").pipeline.method)
    condition = method.condition

    def failing(self: Any, texts: Any, retrieved: Any) -> Any:
        if "poison" in texts:
            raise ZeroDivisionError("poison")
        return condition(self, texts, retrieved)

    expected = right(adapters, "mha-esp", TEXTS[:1]), right(adapters, "idpg", TEXTS[:1])
    monkeypatch.setattr(method, "condition", failing)
    jobs = [query(adapters, "mha-esp", ["poison"]), query(adapters, "mha-esp", TEXTS[:1])]
    jobs += [query(adapters, "idpg", TEXTS[:1]), query(adapters, "lora", ["x " * 4000])]
    answer(jobs)
    assert isinstance(jobs[0].future.exception(), ZeroDivisionError)
    assert "longer" in str(jobs[3].future.exception())
    for job, probabilities in zip(jobs[1:3], expected, strict=True):
        assert np.allclose(job.future.result().probabilities, probabilities, atol=1e-4)


def test_predict_tells_label_neighbours_attention_tokens(adapters: Adapters) -> None:
    with client_of(adapters) as client:
        body = {"adapter": "mha-esp", "inputs": TEXTS, "attention": True}
        answered = client.post("/v1/predict", json=body)
        assert answered.status_code == 200, answered.text
        result = answered.json()
        pipeline = adapters.get("mha-esp").pipeline
        outcome, retrieved = pipeline.run(TEXTS)
        for row, record in enumerate(result["answers"]):
            shares = dict(zip(pipeline.schema.labels, outcome.probabilities[row], strict=True))
            assert record["probabilities"] == pytest.approx(shares, abs=1e-4)
            assert record["label"] == max(shares, key=shares.__getitem__)
            assert [n["id"] for n in record["neighbours"]] == [e.id for e in retrieved.examples(row)]
            assert [n["label"] for n in record["neighbours"]] == [e.target for e in retrieved.examples(row)]
            assert outcome.attention is not None
            assert np.allclose(record["attention"], outcome.attention[row], atol=1e-4)
            assert np.sum(record["attention"], axis=1) == pytest.approx(np.ones(2), abs=1e-4)
        lm = pipeline.lm
        text = pipeline.schema.template.header + pipeline.schema.template.query(TEXTS[0])
        assert result["answers"][0]["tokens"] == len(lm.bos) + len(lm.tokenize(text)) + 2
        assert result["milliseconds"] > 0
        plain = client.post("/v1/predict", json={**body, "neighbours": False, "attention": False}).json()
        assert {"neighbours", "attention"} & set(plain["answers"][0]) == set()


def test_many_clients_of_many_adapters_at_once(adapters: Adapters) -> None:
    pairs = [(name, f"{text} {i}") for i, text in enumerate(TEXTS * 3) for name in CLASSIFYING]
    random.Random(1).shuffle(pairs)
    expected = [right(adapters, name, [text])[0] for name, text in pairs]
    with client_of(adapters, batch=16) as client:

        def ask(pair: tuple[str, str]) -> Any:
            answered = client.post("/v1/predict", json={"adapter": pair[0], "inputs": [pair[1]]})
            return list(answered.json()["answers"][0]["probabilities"].values())

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, pairs))
        figures = client.get("/metrics").text
    assert np.allclose(answers, expected, atol=1e-4)
    count = float(figures.split("coldframe_batch_inputs_count ")[1].split()[0])
    assert count < len(pairs)  # some were answered together


def test_overrides_move_the_answer_of_their_request_alone(adapters: Adapters) -> None:
    with client_of(adapters) as client:

        def ask(**overrides: Any) -> Any:
            body = {"adapter": "knn", "inputs": [TEXTS[0]], "overrides": overrides}
            return client.post("/v1/predict", json=body)

        plain = ask().json()["answers"][0]
        ids = [neighbour["id"] for neighbour in plain["neighbours"]]
        dropped = ask(drop=ids[:2]).json()["answers"][0]
        assert [n["id"] for n in dropped["neighbours"]][0] == ids[2] and len(dropped["neighbours"]) == 3
        pipeline = adapters.get("knn").pipeline
        other = {"A": "B", "B": "A"}
        labels = {n["id"]: other[n["label"]] for n in plain["neighbours"]}
        turned = ask(relabel=labels).json()["answers"][0]
        shares = plain["probabilities"]
        assert turned["probabilities"] == pytest.approx({other[label]: share for label, share in shares.items()})
        assert ask().json()["answers"][0] == plain and adapters.get("knn").pipeline is pipeline
        assert ask(drop=["nobody"]).status_code == 404
        unknown = ask(relabel={ids[0]: "C"})
        assert unknown.status_code == 422 and "is not a label" in unknown.json()["error"]["problem"]


def test_dropping_gives_what_a_store_without_them_gives(adapters: Adapters) -> None:
    pipeline = adapters.get("mha-esp").pipeline
    ids = [entry.id for entry in pipeline.retrieve(pipeline.queries(TEXTS[:1])).examples(0)][:2]
    smaller = Store.of([entry for entry in pipeline.store.examples if entry.id not in ids])
    expected = dataclasses.replace(pipeline, store=smaller).predict_proba(TEXTS[:1])[0]
    with client_of(adapters) as client:
        body = {"adapter": "mha-esp", "inputs": TEXTS[:1], "overrides": {"drop": ids}}
        shares = client.post("/v1/predict", json=body).json()["answers"][0]["probabilities"]
    assert np.allclose(list(shares.values()), expected, atol=1e-4)
    assert not np.allclose(expected, pipeline.predict_proba(TEXTS[:1])[0], atol=1e-3)


def test_side_by_side(adapters: Adapters) -> None:
    with client_of(adapters) as client:
        ways = client.post("/v1/compare", json={"adapter": "mha-esp", "input": TEXTS[0]}).json()["ways"]
        assert [way["way"] for way in ways] == ["adapter", "zero-shot", "icl"]
        for way in ways[:2]:
            name = "mha-esp" if way["way"] == "adapter" else "zero-shot"
            assert list(way["probabilities"].values()) == pytest.approx(right(adapters, name, TEXTS[:1])[0], abs=1e-4)
        assert ways[2]["tokens"] > 3 * ways[1]["tokens"] and ways[0]["tokens"] == ways[1]["tokens"] + 2
        assert [w["way"] for w in client.post("/v1/compare", json={"adapter": "knn", "input": "x"}).json()["ways"]] == [
            "adapter"
        ]


def test_rag_without_each_passage(adapters: Adapters) -> None:
    passages = ["the molecule is yes", "no answer", "Question is the"]
    with client_of(adapters) as client:
        body = {"adapter": "zero-shot", "question": "what is it", "passages": passages, "max_tokens": 5}
        cases = client.post("/v1/rag", json=body).json()["cases"]
    assert [(case["left_out"], case["passages"]) for case in cases] == [(None, 3), (None, 0), (0, 2), (1, 2), (2, 2)]
    lm = adapters.get("zero-shot").pipeline.lm
    contexts = (tuple(QUESTION.passage(text) for text in (passages[2], passages[0])),)
    (expected,) = lm.generate(
        [Prompt(QUESTION.query("what is it"), "", QUESTION.end)], Conditioning(contexts=contexts), max_new_tokens=5
    )
    assert cases[3]["answer"] == expected.strip()
    assert all(0 < case["probability"] <= 1 for case in cases) and cases[0]["probability"] >= cases[1]["probability"]
