"""A model on a server: one that really scores and writes, in this process, and everything that goes wrong with one."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from tests.diagnosis.server import Handler, Server
from tests.tiny import tiny

from coldframe.diagnosis.endpoint import Endpoint
from coldframe.diagnosis.queries import Query
from coldframe.diagnosis.subject import Subject
from coldframe.diagnosis.text_rag import TextRAG
from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.tasks.task import Template
from coldframe.tasks.text_metrics import TEXT_METRICS

KEY = "sk-very-secret-0123456789"
TEMPLATE = Template("Q: {text}\nA:", separator="\n")
STORE = [f"{name} is in {town}." for name, town in zip("ABCDEFGHIJ", ["Rome", "Oslo", "Zürich"] * 4, strict=False)]
QUERIES = [Query(f"{text[0]}?", text.split()[-1][:-1]) for text in STORE]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


def retrieve(text):
    at = "ABCDEFGHIJ".index(text[0])
    return [STORE[at], STORE[(at + 1) % len(STORE)]]


@pytest.fixture
def server(lm):
    with Server.running(lm) as server:
        yield server


def make(server, model="tiny", **options):
    settings = {"template": TEMPLATE, "wait": 0.01, "retries": 2, "quiet": True, **options}
    return Endpoint(server.url, model, retrieve, settings.pop("queries", QUERIES), **settings)


def by_trouble(answers, times):
    """Trouble for the first requests."""
    left = [answers] * times

    return lambda route, body: left.pop() if left else None


@pytest.mark.parametrize("lists_the_end", [True, False])
@pytest.mark.parametrize("condition", ["full", "empty", "swapped"])
def test_log_probabilities_are_those_of_the_local_model(server, lm, condition, lists_the_end):
    server.lists_the_end = lists_the_end
    subject, local = make(server), TextRAG(lm, retrieve, QUERIES, template=TEMPLATE)
    np.testing.assert_allclose(subject.losses(condition), local.losses(condition), atol=1e-4)
    assert (subject.mode, subject.unit, subject.model) == ("logprobs", "nats", "tiny")
    assert isinstance(subject, Subject)


@pytest.mark.slow
def test_the_written_token_is_told_from_the_answer(server, lm):
    # A model that ends the text at once, on servers that list the end and on one that does not.
    biased = FrozenLM(*tiny("phi"))
    server.lm = biased
    with torch.no_grad():
        biased.model.lm_head.bias[biased.tokenizer.eos_token_id] += 100.0
    expected = TextRAG(biased, retrieve, QUERIES, template=TEMPLATE).losses("full")
    for server.lists_the_end in (True, False):
        np.testing.assert_allclose(make(server).losses("full"), expected, rtol=1e-4)


@pytest.mark.slow
def test_written_answers_are_scored(server, lm):
    server.echoes = False
    cases = make(server, mode="answers").cases("full")
    prompts = ["".join(f"{passage}\n" for passage in case.passages[::-1]) + f"Q: {case.text}\nA:" for case in cases]
    written = [lm.generate([Prompt(prompt)], max_new_tokens=4)[0] for prompt in prompts]
    # Gold answers that the model half knows, so that the scores are neither all 0 nor all 1.
    queries = [
        Query(query.text, f"{text.split()[0]} and more" if i % 2 and text.split() else query.target)
        for i, (query, text) in enumerate(zip(QUERIES, written, strict=True))
    ]
    subject = make(server, queries=queries, generation={"temperature": 0, "max_tokens": 4})
    scores = TEXT_METRICS["token_f1"].statistics(written, [[query.target] for query in queries])[:, 0]
    assert scores.max() > 0 and scores.min() < 1
    np.testing.assert_allclose(subject.losses("full"), 1 - scores)
    assert (subject.mode, subject.unit) == ("answers", "Token F1")
    assert any("1 - Token F1" in note for note in subject.notes)
    exact = make(server, queries=queries, metric="exact_match", generation={"temperature": 0, "max_tokens": 4})
    assert set(exact.losses("full")) <= {0.0, 1.0}


@pytest.mark.parametrize(
    "trouble",
    [
        (404, {"detail": "Not Found"}),
        (400, {"error": "echo is not supported"}),
        (200, {"choices": [{"text": "no logprobs"}]}),
    ],
)
def test_a_server_without_log_probabilities(server, trouble):
    server.trouble = lambda route, body: trouble if route == "completions" else None
    assert make(server).mode == "answers"
    with pytest.raises(ModelError, match="no log-probabilities.*Pass mode='answers'"):
        make(server, mode="logprobs")


@pytest.mark.slow
def test_rate_limits_and_server_errors_are_waited_out(server, lm):
    expected = TextRAG(lm, retrieve, QUERIES, template=TEMPLATE).losses("full")
    subject = make(server)
    for trouble in ((429, {"error": {"message": "slow down"}}), (503, b"busy"), "hang up"):
        server.trouble, server.requests[:] = by_trouble(trouble, 2), []
        subject = make(server)
        assert len(server.requests) == 3
        server.trouble = by_trouble(trouble, 2)
        np.testing.assert_allclose(subject.losses("full"), expected, atol=1e-4)


def test_the_server_says_how_long_to_wait(server, monkeypatch):
    waits, client = [], make(server).client
    answers = [(429, {}, 7), (429, {}, 100_000), (200, {}, 0)]

    def do_post(self):
        status, body, pause = answers.pop(0)
        self.answer(status, body, Retry_After=pause)

    monkeypatch.setattr(Handler, "do_POST", do_post)
    stop = threading.Event()
    stop.wait = lambda seconds: waits.append(seconds)  # patience, without the time
    assert client.post("completions", {}, stop) == {}
    assert waits == [7.0, 120.0]


@pytest.mark.slow
def test_what_fails_for_good_is_told_and_nothing_is_lost(server, lm, tmp_path):
    path = tmp_path / "losses.jsonl"
    subject = make(server, retries=1, resume=path)
    server.trouble = lambda route, body: (500, b"out of memory") if "Q: H?" in body["prompt"] else None
    with pytest.raises(ModelError, match=r"No answer to 'H\?' with 2 passages: .* answered 500 2 times. Got: out of"):
        subject.losses("full")
    server.trouble = lambda route, body: None
    again = make(server, resume=path)  # as the next process would
    server.requests.clear()
    expected = TextRAG(lm, retrieve, QUERIES, template=TEMPLATE).losses("full")
    for resumed in (subject, again):
        np.testing.assert_allclose(resumed.losses("full"), expected, atol=1e-4)
    asked = Counter(body["prompt"].split("Q: ")[-1][0] for _, body in server.requests)
    # Before the failure, all that came in order are answered: asked now are those after it, and two times eight.
    assert asked["A"] == 2 and asked["H"] >= 2 and sum(asked.values()) <= 10 + 16 + 2 * len(QUERIES)
    assert not [note for note in again.notes if "deterministic" in note]


def test_questions_go_out_side_by_side(server):
    server.pause = 0.05
    make(server, concurrency=5).losses("empty")
    assert 2 <= server.most_at_once <= 5
    server.most_at_once = 0
    make(server, concurrency=1).losses("empty")
    assert server.most_at_once == 1


def test_no_server():
    with pytest.raises(ModelError, match=r"Cannot connect to http://127.0.0.1:9/v1.*Check the address"):
        Endpoint("http://127.0.0.1:9/v1", "tiny", retrieve, QUERIES, retries=100, wait=100.0)


def test_a_server_that_does_not_answer(server):
    server.pause = 0.6
    with pytest.raises(ModelError, match="did not answer within 0.1 seconds"):
        make(server, timeout=0.1, retries=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize("mode", ["auto", "logprobs", "answers"])
def test_another_key(server, caplog, mode):
    server.key = "sk-the-right-one"
    with pytest.raises(ModelError, match=r"does not let you in \(401\).*Pass an api_key"):
        make(server, mode=mode)
    with pytest.raises(ModelError, match=r"Incorrect API key provided: Bearer \*\*\*.*Pass another") as error:
        make(server, mode=mode, api_key=KEY)
    assert KEY not in str(error.value) + caplog.text
    assert make(server, api_key=server.key + "\n").mode == "logprobs"


def test_a_key_that_cannot_be_one():
    with pytest.raises(ConfigError, match="API key has letters") as error:
        Endpoint("http://127.0.0.1:9/v1", "tiny", retrieve, QUERIES, api_key=f"{KEY}\nX-Other: 1")
    assert KEY not in str(error.value)


@pytest.mark.parametrize("mode", ["auto", "answers"])
def test_an_unknown_model(server, mode):
    with pytest.raises(ModelError, match="has no model 'tini'.*Did you mean 'tiny'"):
        make(server, "tini", mode=mode)


def test_the_key_does_not_follow_a_redirect(server, monkeypatch):
    monkeypatch.setattr(Handler, "do_POST", lambda self: self.answer(302, {}, Location=server.url + "/models"))
    with pytest.raises(ModelError, match=r"sends elsewhere \(302\)"):
        make(server, api_key=KEY)


def test_a_web_page_is_no_answer(server):
    server.trouble = lambda route, body: (200, b"<html>Log in</html>")
    with pytest.raises(ModelError, match="does not answer in JSON"):
        make(server)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b"null",
        b'{"choices": {"0": 1}}',
        b'{"choices": [[]]}',
        {"choices": [{"message": {"content": 5}, "text": {"a": 1}}]},
        {"choices": [{"message": {"content": ["a"]}, "text": ["a"], "logprobs": None}]},
    ],
)
def test_an_answer_of_any_kind_is_a_text_or_our_error(server, body):
    server.trouble = lambda route, _: (200, body)
    with pytest.raises(ModelError, match="no answer|no text|not answer in JSON"):
        make(server, mode="answers")
    server.trouble = lambda route, _: (400, body)
    with pytest.raises(ModelError, match="answered 400"):
        make(server, mode="answers")


@pytest.mark.parametrize("tokens, values", [([1, 2], [None, -1.0]), (["Q"] * 9, [-1.0] * 8 + [None])])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), "a", 10**400, None])
def test_log_probabilities_that_are_none_are_told(server, tokens, values, value):
    values = [value if number == -1.0 else number for number in values]

    def reply(route, body):
        logprobs = {"tokens": tokens, "token_logprobs": values}
        return 200, {"choices": [{"text": body["prompt"], "logprobs": logprobs}]}

    server.trouble = reply
    with pytest.raises(ModelError, match="no log-probabilities of a text"):
        make(server, mode="logprobs")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://me:secret@host/v1"])
def test_not_an_address(url):
    with pytest.raises(ConfigError, match="address"):
        Endpoint(url, "tiny", retrieve, QUERIES)


def test_wrong_settings(server):
    for options in ({"metric": "bleu4"}, {"mode": "guess"}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(ConfigError):
            make(server, **options)
    assert not server.requests
