"""Servers that fail, lie or lead astray, and inputs that may not leave."""

from __future__ import annotations

import gc
import json
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.cases import FOUND, METHODS, QUERIES, TWO, built, task
from tests.serving.soft_server import SoftServer

import coldframe as cf
from coldframe.errors import ColdframeError, ConfigError, DataError, ModelError, NotFiniteError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.methods.base import prompts
from coldframe.methods.registry import create
from coldframe.serving.remote import RemoteLM

Remote = Callable[..., RemoteLM]
KEY = "sk-a-key-that-nobody-may-see"
PROMPTS = prompts(TWO, QUERIES)
WORDS = TWO.words


def soft(value: float, dim: int) -> Conditioning:
    vectors = torch.zeros(len(QUERIES), 3, dim)
    vectors[2, 1, 5] = value
    return Conditioning(soft_tokens=vectors)


# ---- what may not leave -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), "float32"), (float("inf"), "auto"), (7e4, "float16"), (7e4, "auto"), (-float("inf"), "bfloat16")],
)
@pytest.mark.parametrize("form", ["completions", "sglang", "chat"])
def test_no_row_that_is_not_finite_leaves(
    value: float, dtype: str, form: str, here: FrozenLM, server: SoftServer, remote: Remote
) -> None:
    client = remote(dtype=dtype, form=form)
    calls: list[Callable[[], object]] = [
        lambda: client.label_scores(PROMPTS, WORDS, soft(value, here.d_model)),
        lambda: client.losses(PROMPTS, [["yes"]] * 4, soft(value, here.d_model)),
        lambda: client.generate(PROMPTS, soft(value, here.d_model)),
    ]
    for call in calls:
        with pytest.raises(NotFiniteError, match="soft token 2 of 3 of query 3 is not finite in"):
            call()
    assert not server.requests


def test_what_the_dtype_holds_is_sent(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    remote(dtype="bfloat16").label_scores(PROMPTS, WORDS, soft(7e4, here.d_model))
    assert server.requests


def test_a_request_holds_no_more_than_its_vectors(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    bank = torch.zeros(10_000, 3, here.d_model)
    remote().label_scores(PROMPTS[:1], WORDS, Conditioning(soft_tokens=bank[3:4]))
    ((_, body),) = server.requests
    assert len(json.dumps(body)) < 32_000


def test_a_batch_that_is_too_large_is_sent_in_parts(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    conditioning = Conditioning(soft_tokens=torch.randn(1, 3, here.d_model).expand(4, -1, -1))
    whole = remote(concurrency=1)
    scores = whole.label_scores(PROMPTS, WORDS, conditioning)
    assert len(server.requests) == 1
    size = max(len(json.dumps(body)) for _, body in server.requests)
    server.requests.clear()
    parts = remote(concurrency=1, max_request=size - 1).label_scores(PROMPTS, WORDS, conditioning)
    assert len(server.requests) == len(QUERIES)
    torch.testing.assert_close(parts, scores)
    with pytest.raises(DataError, match="request of query 1 is too large.*at most 100"):
        remote(max_request=100).label_scores(PROMPTS[:1], WORDS, Conditioning(soft_tokens=conditioning.soft_tokens[:1]))


@pytest.mark.parametrize("name", ["pear", "lora", "ms-poe"])
def test_ports_that_no_request_can_fill_are_refused(
    name: str, here: FrozenLM, server: SoftServer, remote: Remote
) -> None:
    case = next(case for case in METHODS if case.id == name)
    conditioning = built(case, here).condition(QUERIES, FOUND)
    with pytest.raises(ConfigError, match="A request to a server cannot carry (head gains|weight deltas|positions)"):
        remote().label_scores(PROMPTS, WORDS, conditioning)
    assert not server.requests


def test_what_needs_weights_says_so(server: SoftServer, remote: Remote) -> None:
    client = remote()
    with pytest.raises(ConfigError, match="prompt-tuning is trained through the model's weights"):
        cf.fit(create("prompt-tuning", {"tokens": 2}), client, task(), quiet=True)
    for use in (lambda: client.body, lambda: client.text_states(client.rows(PROMPTS)), lambda: client.logits(None)):
        with pytest.raises(ConfigError, match="needs its weights.*load_lm"):
            use()
    with pytest.raises(ConfigError, match="none is exact"):
        client.exact = True
    client.exact = False
    assert not server.requests


# ---- a server that fails ----------------------------------------------------------------------------------


def failing(*answers: tuple[int, Any]) -> Callable[[str, Any], tuple[int, Any] | None]:
    """Says these things to questions, one after another, and then nothing more."""
    left = list(answers)
    return lambda route, body: left.pop(0) if body is not None and left else None


def test_a_failure_that_may_pass_is_waited_for(here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    server.trouble = failing((503, {}), (429, (b"{}", {"Retry-After": "0"})))
    scores = remote(concurrency=1).label_scores(PROMPTS, WORDS)
    torch.testing.assert_close(scores.softmax(-1), here.label_scores(PROMPTS, WORDS).softmax(-1), atol=1e-4, rtol=0)
    assert len(server.requests) == 3


def test_a_failure_that_stays_is_told_and_ends_the_batch(server: SoftServer, remote: Remote) -> None:
    server.trouble = lambda route, body: None if body is None else (500, {"error": {"message": "out of memory"}})
    with pytest.raises(ModelError, match="answered 500 3 times. Got: out of memory"):
        remote(concurrency=2).label_scores(PROMPTS * 10, WORDS)
    assert len(server.requests) <= 3 * 2 + 2


def test_a_refusal_is_not_asked_again(server: SoftServer, remote: Remote) -> None:
    server.trouble = failing((400, {"error": {"message": "You must set --enable-prompt-embeds"}}))
    with pytest.raises(ModelError, match="answered 400. Got: You must set --enable-prompt-embeds"):
        remote().label_scores(PROMPTS[:1], WORDS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, here: FrozenLM, server: SoftServer, remote: Remote) -> None:
    with SoftServer.running(here) as other:
        server.trouble = lambda route, body: (status, (b"", {"Location": other.url + "/completions"}))
        with pytest.raises(ModelError, match=f"sends elsewhere \\({status}\\)"):
            remote(api_key=KEY).label_scores(PROMPTS, WORDS)
        assert not other.requests


def test_the_key_is_sent_and_shown_nowhere(server: SoftServer, remote: Remote) -> None:
    server.key = KEY
    remote(api_key=KEY).label_scores(PROMPTS, WORDS)
    assert {headers["Authorization"] for headers in server.headers_seen} == {f"Bearer {KEY}"}
    server.key = "another"
    client = remote(api_key=KEY)
    with pytest.raises(ModelError, match="does not let you in") as refused:
        client.label_scores(PROMPTS, WORDS)
    with pytest.raises(ModelError, match="another answer") as malformed:
        server.trouble = lambda route, body: None if body is None else (200, {"choices": f"for {KEY}"})
        client.label_scores(PROMPTS, WORDS)
    for text in (str(refused.value), str(malformed.value), repr(client), repr(client.backend.client), client.numbers):
        assert KEY not in text
    assert KEY not in json.dumps(client.provenance)


@pytest.mark.slow
def test_no_server_and_no_such_model(server: SoftServer, remote: Remote, checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="Cannot connect to http://127.0.0.1:9"):
        remote(url="http://127.0.0.1:9/v1").label_scores(PROMPTS, WORDS)
    other = RemoteLM(server.url, "other", checkpoint=checkpoint("llama"))
    with pytest.raises(ModelError, match="serves no model 'other'. Expected: one of tiny"):
        other.label_scores(PROMPTS, WORDS)
    alone = RemoteLM(server.url, checkpoint=checkpoint("llama"))
    alone.label_scores(PROMPTS, WORDS)
    assert server.requests[-1][1]["model"] == "tiny"
    server.trouble = lambda route, body: (200, {"data": [{"id": "a"}, {"id": "b"}]}) if body is None else None
    with pytest.raises(ModelError, match="serves 2 models. Expected: one of a, b"):
        RemoteLM(server.url, checkpoint=checkpoint("llama")).label_scores(PROMPTS, WORDS)
    server.trouble = lambda route, body: (404, {}) if body is None else None
    with pytest.raises(ModelError, match="serves no list of models. Pass model="):
        RemoteLM(server.url, checkpoint=checkpoint("llama")).label_scores(PROMPTS, WORDS)
    assert remote().label_scores(PROMPTS, WORDS).shape == (4, 2)  # which is named, and taken for vLLM's


@pytest.mark.parametrize(
    "settings",
    [{"form": "grpc"}, {"concurrency": 0}, {"timeout": 0.0}, {"max_request": 0}, {"url": "tiny"}, {"dtype": "int8"}],
)
def test_settings_out_of_range(settings: dict[str, Any], remote: Remote) -> None:
    with pytest.raises(ConfigError):
        remote(**settings)


def test_a_client_needs_a_checkpoint(server: SoftServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the model's checkpoint"):
        RemoteLM(server.url)
    with pytest.raises(ModelError, match="Cannot read the checkpoint"):
        RemoteLM(server.url, "tiny", checkpoint=tmp_path)


@pytest.mark.slow
def test_no_more_requests_at_a_time_than_allowed(server: SoftServer, remote: Remote) -> None:
    remote(concurrency=3).label_scores(PROMPTS * 8, ["yes", "not at all", "not here"])
    assert 1 < server.most_at_once <= 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("token_id:7"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "index",
                    "token_ids",
                    "logprobs",
                    "top_logprobs",
                    "content",
                    "token",
                    "logprob",
                    "output_ids",
                ]
                + ["meta_info", "output_token_ids_logprobs", "token_id:7", "error"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["completions", "chat", "sglang"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=JSON)
def test_whatever_a_server_answers_is_an_answer_or_an_error(
    form: str, answer: Any, server: SoftServer, remote: Remote
) -> None:
    server.trouble = lambda route, body: None if body is None else (200, answer)
    client = CLIENTS.setdefault(form, remote(form=form, retries=0)) if form not in CLIENTS else CLIENTS[form]
    client.backend.client.url = server.url
    for ask in (
        lambda: client.label_scores(PROMPTS[:1], WORDS),
        lambda: client.generate(PROMPTS[:1], max_new_tokens=2),
    ):
        try:
            result = ask()
        except ColdframeError as error:
            assert "another answer" in str(error) or "JSON" in str(error)
        else:
            assert isinstance(result, list) or bool((result <= 1e-3).all())


CLIENTS: dict[str, RemoteLM] = {}


def test_a_list_of_models_that_is_none(server: SoftServer, remote: Remote) -> None:
    for answer in ({"data": None}, {"data": [{}]}, {}, {"data": [3]}):
        server.trouble = lambda route, body, answer=answer: (200, answer) if body is None else None  # type: ignore[misc]
        with pytest.raises(ModelError, match="another answer|serves no model"):
            remote().label_scores(PROMPTS, WORDS)


# ---- streams ----------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_off_is_an_error_or_ends(server: SoftServer, remote: Remote) -> None:
    server.trouble = lambda route, body: None if body is None else (200, b'data: {"choices": 3}\n\n')
    with pytest.raises(ModelError, match="another answer"):
        list(remote().stream(PROMPTS[0]))
    server.trouble = lambda route, body: None if body is None else (200, b"data: nonsense\n\n")
    with pytest.raises(ModelError, match="does not answer in JSON"):
        list(remote().stream(PROMPTS[0]))
    server.trouble = lambda route, body: None if body is None else (400, {"error": {"message": "too long"}})
    with pytest.raises(ModelError, match="too long"):
        list(remote().stream(PROMPTS[0]))
    server.trouble = lambda route, body: None if body is None else (200, b"data: [DONE]\n\n")
    assert list(remote().stream(PROMPTS[0])) == []


@pytest.mark.slow
def test_a_stream_that_nobody_reads_on_is_closed(server: SoftServer, remote: Remote) -> None:
    pieces = remote().stream(Prompt("Question: what?"), max_new_tokens=64)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    gc.collect()
    assert server.requests[-1][1]["stream"] is True


# ---- https ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_trusts_whom_it_is_told_to(here: FrozenLM, remote: Remote, tmp_path: Path) -> None:
    certificate, key = tmp_path / "localhost.pem", tmp_path / "localhost.key"  # its own authority
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *files, *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with SoftServer.running(here) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http://", "https://")
        with pytest.raises(ModelError, match="CERTIFICATE_VERIFY_FAILED"):
            remote(url=url).label_scores(PROMPTS, WORDS)
        for verify in (str(certificate), False):
            assert remote(url=url, verify=verify).label_scores(PROMPTS, WORDS).shape == (4, 2)
        with pytest.raises(ConfigError, match="Cannot read the authorities"):
            remote(url=url, verify=__file__)
