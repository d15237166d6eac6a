"""Gateways in processes of their own: what they accepted they answer, and no client holds them up."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.gateway.support import KEY, TEXTS, Process, model

import coldframe as cf

pytestmark = pytest.mark.slow
NAMES = ("mha-esp", "knn", "zero-shot")


@pytest.fixture(scope="module")
def started(folders: dict[str, Path]) -> dict[str, Path]:
    return {name: folders[name] for name in NAMES}


@pytest.fixture(scope="module")
def gateway(started: dict[str, Path]) -> Iterator[Process]:
    with Process.of(started, body_seconds=1.0, connections=64) as process:
        yield process


def body(adapter: str = "mha-esp", *texts: str) -> dict[str, Any]:
    return {"adapter": adapter, "inputs": list(texts or TEXTS[:1])}


def ask(gateway: Process, adapter: str = "mha-esp", *texts: str) -> list[list[float]]:
    status, answer = gateway.post("/v1/predict", body(adapter, *texts))
    assert status == 200, answer
    return [list(record["probabilities"].values()) for record in answer["answers"]]


def raw(content: bytes, length: int | None = None) -> bytes:
    head = "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content) if length is None else length}\r\n\r\n".encode() + content


def ended(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_a_gateway_that_is_stopped_answers_what_it_accepted(started: dict[str, Path]) -> None:
    expected = cf.load(started["mha-esp"], model()).predict_proba(TEXTS)
    with Process.of(started, queue=4096) as gateway:
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(gateway.post, "/v1/predict", body("mha-esp", *TEXTS * 20)) for _ in range(8)]
            time.sleep(0.3)
            status, lines = gateway.stop(signal.SIGTERM)
            answers = []
            for future in futures:
                try:
                    answers.append(future.result())
                except OSError:
                    answers.append(None)
        assert status == 0
        answered = [answer for answer in answers if answer is not None]
        assert answered and all(code == 200 for code, _ in answered)
        for _, answer in answered:
            shares = [list(record["probabilities"].values()) for record in answer["answers"][:4]]
            assert np.allclose(shares, expected, atol=1e-4)
        done = sum(line["event"] == "request" and line["route"] == "/v1/predict" for line in lines)
        assert done == len(answered)  # none was accepted and then dropped
        assert [line["event"] for line in lines][-1] == "stopped"
        assert "Traceback" not in gateway.rest


def test_ctrl_c_is_no_error(started: dict[str, Path]) -> None:
    with Process.of(started) as gateway:
        ask(gateway)
        status, _ = gateway.stop(signal.SIGINT)
        assert status == 0 and "Traceback" not in gateway.rest


def test_a_gateway_that_is_killed_is_there_again(started: dict[str, Path]) -> None:
    with Process.of(started) as gateway:
        before = ask(gateway)
        assert gateway.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    with Process.of(started, port=gateway.port) as again:
        assert np.allclose(ask(again), before, atol=1e-6)


def test_slow_and_half_open_clients_hold_nobody_up(gateway: Process) -> None:
    silent = [gateway.connect() for _ in range(20)]
    half_head = [gateway.connect() for _ in range(10)]
    half_body = [gateway.connect() for _ in range(10)]
    for connection in half_head:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConte")
    for connection in half_body:
        connection.sendall(raw(b'{"adapter": "mha-', 200))
    started = time.monotonic()
    assert len(ask(gateway, "mha-esp", *TEXTS)) == 4
    assert time.monotonic() - started < 30
    for connection in half_body:
        assert b" 408 " in ended(connection).splitlines()[0]
    for connection in (*silent, *half_head):
        assert ended(connection) == b""  # the gateway has hung up
    ask(gateway)


def test_a_head_that_drips_is_not_waited_for(gateway: Process) -> None:
    connection = gateway.connect()
    with pytest.raises(OSError):
        for letter in "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n" * 10:
            connection.sendall(letter.encode())
            time.sleep(0.05)
    ask(gateway)


def test_a_body_without_an_end_is_cut_off(gateway: Process) -> None:
    connection = gateway.connect()
    head = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
    answer: list[bytes] = []
    reader = threading.Thread(target=lambda: answer.append(connection.recv(65536)))
    reader.start()
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    try:
        for _ in range(100):
            connection.sendall(piece)
    except OSError:
        pass
    reader.join(30)
    assert b" 413 " in answer[0].splitlines()[0]
    ask(gateway)


def test_a_client_that_goes_away_takes_nobody_along(gateway: Process) -> None:
    expected = ask(gateway)
    for _ in range(20):
        connection = gateway.connect()
        connection.sendall(raw(json.dumps(body("mha-esp", *TEXTS * 10)).encode()))
        connection.close()
    assert np.allclose(ask(gateway), expected, atol=1e-4)


def test_too_many_connections_are_refused(started: dict[str, Path]) -> None:
    with Process.of(started, connections=8) as gateway:
        idle = [gateway.connect() for _ in range(12)]
        time.sleep(0.5)
        request = urllib_status(gateway)
        assert request == 503
        for connection in idle:
            connection.close()
        time.sleep(0.5)
        ask(gateway)


def urllib_status(gateway: Process) -> int:
    connection = gateway.connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    return int(ended(connection).split()[1])


def test_a_crowd_gets_answers_or_a_reason(started: dict[str, Path]) -> None:
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 50)]
    right = dict(zip(texts, cf.load(started["mha-esp"], model()).predict_proba(texts), strict=True))
    with Process.of(started, queue=8, batch=4) as gateway:
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda text: gateway.post("/v1/predict", body("mha-esp", text)), texts))
    statuses = {status for status, _ in answers}
    assert statuses == {200, 503}
    for text, (status, answer) in zip(texts, answers, strict=True):
        if status == 200:
            assert np.allclose(list(answer["answers"][0]["probabilities"].values()), right[text], atol=1e-4)
        else:
            assert "waiting" in answer["error"]["problem"]


def test_what_a_process_logs_has_no_text_and_no_key(started: dict[str, Path]) -> None:
    secret = "asecretoftheuser"
    with Process.of(started, {"COLDFRAME_API_KEY": KEY}) as gateway:
        for path in ("/v1/predict", f"/{secret}?{secret}"):
            assert gateway.post(path, body(secret, secret))[0] in (401, 404)
        for garbage in (secret.encode() + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + secret.encode() + b"\r\n\r\n"):
            connection = gateway.connect()
            connection.sendall(garbage)
            ended(connection)
        gateway.stop()
        logged = json.dumps(gateway.lines) + gateway.rest
        assert secret not in logged and KEY not in logged and "request" in logged


def test_a_port_that_is_taken_is_one_line(gateway: Process, started: dict[str, Path]) -> None:
    from coldframe.errors import ConfigError
    from coldframe.serving.gateway.server import serve
    from coldframe.serving.gateway.settings import GatewaySettings

    with pytest.raises(ConfigError, match="Cannot listen"):
        serve([], GatewaySettings(port=gateway.port))
