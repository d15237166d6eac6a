"""The client of a server that does what it likes: bodies without end, bytes now and then, JSON of any kind."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.diagnosis.endpoint import Endpoint
from coldframe.errors import ModelError
from coldframe.inference import client as clients
from coldframe.inference.client import Client, Refusal

KEY = "sk-a-key-that-nobody-may-see"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "text", "logprobs", "tokens", "token_logprobs", "error", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that says what ``talk`` says to whoever comes; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                with suppress(OSError):
                    talk(connection)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # what is left unread would be answered by a reset
                        pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        server.close()


def drip(connection: socket.socket, before: bytes, byte: bytes) -> None:
    connection.sendall(before)
    for _ in range(200):
        connection.sendall(byte)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("before", "byte"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{", b" "),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n", b"x"),
    ],
    ids=["body", "header", "error"],
)
def test_a_byte_now_and_then_is_no_answer(before: bytes, byte: bytes) -> None:
    """No single pause is longer than the time-out, and the whole would take four seconds."""
    with talking(lambda connection: drip(connection, before, byte)) as url:
        with pytest.raises(ModelError, match="did not answer within 0.3 seconds"):
            Client(url, "tiny", KEY, timeout=0.3, retries=0).post("completions", {})


def test_a_body_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_BODY", 100_000)
    sent = [0]

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * 10_000)
            sent[0] += 10_000

    with talking(talk) as url, pytest.raises(ModelError, match="answers without end"):
        Client(url, "tiny", None, retries=0).post("completions", {})
    assert sent[0] < 50_000_000


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"[]", b'"words"', b"\xff\xfe", b"", b"{" * 3_000]
)
def test_what_is_no_mapping_is_told(body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
    with talking(lambda connection: connection.sendall(answer)) as url:
        with pytest.raises(ModelError, match="does not answer in JSON"):
            Client(url, "tiny", None, retries=0).post("completions", {})


def test_the_key_comes_back_in_no_error() -> None:
    """Whatever of an answer is quoted: its status line, its words, its JSON."""
    echoes = [
        f"{KEY} and nothing else\r\n\r\n",
        f"HTTP/1.1 400 {KEY}\r\nConnection: close\r\n\r\n",
        f"HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{KEY}",
        'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"choices": "' + KEY + '"}',
        f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{KEY}",
    ]
    for echo in echoes:
        with talking(lambda connection, echo=echo: connection.sendall(echo.encode())) as url:  # type: ignore[misc]
            with pytest.raises(ModelError) as caught:
                Client(url, "tiny", KEY, retries=0).chat("Q", {})
        error: BaseException | None = caught.value
        while error is not None:
            assert KEY not in str(error), echo
            error = error.__cause__


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(JSON)
def test_answers_of_any_kind_are_answers_or_errors_of_ours(reply: Any) -> None:
    client = Client("http://127.0.0.1:9/v1", "tiny", None)
    client._exchange = lambda request: (200, json.dumps(reply).encode(), 0.0)  # type: ignore[method-assign]
    shapes = [reply, {"choices": [reply]}, {"choices": [{"message": {"content": reply}}]}]
    for shape in shapes:
        client._exchange = lambda request, shape=shape: (200, json.dumps(shape).encode(), 0.0)  # type: ignore[method-assign, misc]
        try:
            assert isinstance(client.chat("Q", {}), str)
        except ModelError:
            continue


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(JSON, st.lists(JSON, max_size=4), st.lists(JSON, max_size=4))
def test_scored_texts_of_any_kind_are_numbers_or_refusals(reply: Any, tokens: list[Any], values: list[Any]) -> None:
    subject = object.__new__(Endpoint)
    subject.client = client = Client("http://127.0.0.1:9/v1", "tiny", None)
    shapes = [reply, {"choices": [{"text": "Q A", "logprobs": {"tokens": tokens, "token_logprobs": values}}]}]
    for shape in shapes:
        client._exchange = lambda request, shape=shape: (200, json.dumps(shape).encode(), 0.0)  # type: ignore[method-assign, misc]
        try:
            echoed, scores = subject._echo("Q A", threading.Event())
            assert len(echoed) == len(scores) and all(isinstance(token, str) for token in echoed)
        except ModelError as error:
            assert isinstance(error, Refusal) or "JSON" in str(error)
