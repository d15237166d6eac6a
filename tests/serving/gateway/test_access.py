"""Keys, limits, refusals, logs: who may ask, how much, and what nobody gets to see."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.gateway.support import ADMIN, KEY, adapters_of, client_of

from coldframe.errors import ConfigError
from coldframe.serving.gateway.access import Access, Gate, check_address, digest
from coldframe.serving.gateway.adapters import Adapters
from coldframe.serving.gateway.logs import JsonLines
from coldframe.serving.gateway.problems import HttpProblem
from coldframe.serving.gateway.server import gateway_app
from coldframe.serving.gateway.settings import GatewaySettings

BBB, INTENT = "the key of adapter bbb", "the key of adapter intent"


@pytest.fixture
def adapters(folders: dict[str, Path]) -> Adapters:
    return adapters_of({"bbb": folders["knn"], "intent": folders["zero-shot"]})


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def body(adapter: str = "bbb", *inputs: str) -> dict[str, Any]:
    return {"adapter": adapter, "inputs": list(inputs or ("yes",))}


# ---- without a gateway ------------------------------------------------------------------------------------


def test_an_outside_address_needs_keys() -> None:
    nobody, keyed = Access(), Access.from_dict({"keys": [KEY]})
    for host in ("0.0.0.0", "192.168.1.4", "example.org", "::"):
        with pytest.raises(ConfigError, match="reached from outside"):
            check_address(host, nobody, False)
        assert check_address(host, keyed, False) is True
        assert check_address(host, nobody, True) is False
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert check_address(host, nobody, False) is False


def test_keys_are_kept_as_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    access = Access.from_dict({"keys": ["env:A_KEY"], "admin": digest(ADMIN), "adapters": {"bbb": {"keys": [BBB]}}})
    assert not any(key in repr(access) for key in (KEY, ADMIN, BBB))
    gate = Gate(access)
    gate.enter("bbb", BBB, 1)
    gate.enter("other", KEY, 1)
    gate.admin(ADMIN)
    for wrong in (None, "", BBB, KEY + " ", digest(KEY)):
        with pytest.raises(HttpProblem) as refused:
            gate.enter("other", wrong, 1)
        assert refused.value.status == 401


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keys": ["short"]}, "too short"),
        ({"keys": ["env:NO_SUCH_VARIABLE"]}, "holds no key"),
        ({"keys": 5}, "a text or a list"),
        ({"adapters": {"bbb": 5}}, "are a mapping"),
        ({"adapters": {"bbb": {"key": BBB}}}, "Unknown key 'key'"),
        ({"adapters": {"bbb": {"requests_per_minute": 0}}}, "at least 1"),
    ],
)
def test_an_access_file_that_cannot_be_meant(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        Access.from_dict(values)
    assert BBB not in str(error.value)


def test_a_bucket_fills_up_evenly() -> None:
    now = [0.0]
    gate = Gate(Access.from_dict({"adapters": {"bbb": {"requests_per_minute": 30}}}), clock=lambda: now[0])
    for _ in range(30):
        gate.enter("bbb", None, 1)
    with pytest.raises(HttpProblem) as refused:
        gate.enter("bbb", None, 1)
    assert refused.value.status == 429 and refused.value.retry_after == pytest.approx(2.0)
    gate.enter("other", None, 1)
    now[0] += 2.01
    gate.enter("bbb", None, 1)
    with pytest.raises(HttpProblem):
        gate.enter("bbb", None, 1)


def test_a_client_that_has_no_key_may_do_nothing_outside() -> None:
    gate = Gate(Access.from_dict({"adapters": {"bbb": {"keys": [BBB]}}}), every_client=True)
    gate.enter("bbb", BBB, 1)
    for key in (None, BBB):  # an adapter without keys of its own is open to nobody there
        with pytest.raises(HttpProblem):
            gate.enter("intent", key, 1)


# ---- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(adapters: Adapters) -> Iterator[Any]:
    limits = {"bbb": {"keys": [BBB], "requests_per_minute": 5, "inputs_per_request": 2}, "intent": {"keys": [INTENT]}}
    with client_of(adapters, {"admin": [ADMIN], "adapters": limits}) as client:
        yield client


@pytest.mark.slow
def test_each_adapter_has_its_own_keys(guarded: Any) -> None:
    assert guarded.post("/v1/predict", json=body(), headers=auth(BBB)).status_code == 200
    for headers in ({}, auth(INTENT), auth(ADMIN), {"Authorization": f"Basic {BBB}"}):
        answered = guarded.post("/v1/predict", json=body(), headers=headers)
        assert answered.status_code == 401 and answered.headers["www-authenticate"] == "Bearer"
    assert [m["id"] for m in guarded.get("/v1/models", headers=auth(BBB)).json()["data"]] == ["bbb"]
    assert guarded.get("/v1/models").json()["data"] == []
    for key in (BBB, INTENT):
        assert guarded.delete("/v1/adapters/bbb", headers=auth(key)).status_code == 401
        assert guarded.get("/v1/adapters/bbb/exemplars", headers=auth(key)).status_code == 401


@pytest.mark.slow
def test_limits(guarded: Any) -> None:
    too_many = guarded.post("/v1/predict", json=body("bbb", "a", "b", "c"), headers=auth(BBB))
    assert too_many.status_code == 413 and too_many.json()["error"]["expected"] == "at most 2"
    statuses = [guarded.post("/v1/predict", json=body(), headers=auth(BBB)) for _ in range(6)]
    assert [answered.status_code for answered in statuses] == [200] * 5 + [429]
    assert 1 <= int(statuses[-1].headers["retry-after"]) <= 12
    assert guarded.post("/v1/predict", json=body("intent"), headers=auth(INTENT)).status_code == 200


@pytest.mark.slow
def test_nobody_is_administrator_unless_there_is_one(adapters: Adapters) -> None:
    with client_of(adapters) as client:
        answered = client.delete("/v1/adapters/bbb", headers=auth(ADMIN))
        assert answered.status_code == 403 and "COLDFRAME_ADMIN_KEY" in answered.json()["error"]["fix"]


@pytest.mark.slow
def test_a_page_of_another_site_cannot_ask(adapters: Adapters) -> None:
    with client_of(adapters) as client:
        for host in ("evil.example", "127.0.0.1.evil.example:8080", "", "localhost.evil"):
            answered = client.post("/v1/predict", json=body(), headers={"Host": host})
            assert answered.status_code == 421, host
        assert client.post("/v1/predict", json=body(), headers={"Host": "LOCALHOST:8080"}).status_code == 200
        # What a form or a script without leave can send: not JSON by its type.
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answered = client.post("/v1/predict", content=json.dumps(body()), headers={"Content-Type": kind})
            assert answered.status_code == 415, kind
        assert "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": "null"}).headers


@pytest.mark.slow
def test_what_is_no_request_is_said_in_words(adapters: Adapters) -> None:
    nested = b'{"adapter": "bbb", "inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    cases: list[tuple[Any, int, str]] = [
        (b"{", 400, "not valid JSON"),
        (b"", 422, "the body"),
        (b"[]", 422, "the body"),
        (b"null", 422, "the body"),
        (b'{"adapter": "bbb"}', 422, "inputs"),
        (b'{"adapter": "bbb", "inputs": []}', 422, "inputs"),
        (b'{"adapter": "bbb", "inputs": "CCO"}', 422, "inputs"),
        (b'{"adapter": "bbb", "inputs": [5]}', 422, "inputs.0"),
        (b'{"adapter": "bbb", "inputs": [NaN]}', 422, "inputs.0"),
        (b'{"adapter": "bbb", "inputs": [""]}', 422, "inputs.0"),
        (b'{"adapter": "bbb", "inputs": ["  "]}', 422, "Query 1 is empty"),
        (b'{"adapter": "bbb", "inputs": ["\\ud800"]}', 422, "inputs.0"),
        (b'{"adapter": "bbb", "inputs": ["x"], "input": "y"}', 422, "input"),
        (b'{"adapter": ' + b"9" * 6000 + b', "inputs": ["x"]}', 400, ""),
        (b'\xff\xfe{"adapter"', 400, ""),
        (nested, 400, ""),
        (b'{"adapter": "' + b"x" * (1 << 20) + b'"}', 413, "too large"),
    ]
    with client_of(adapters) as client:
        for content, status, words in cases:
            answered = client.post("/v1/predict", content=content, headers={"Content-Type": "application/json"})
            assert answered.status_code == status, (content[:60], answered.text[:300])
            error = answered.json()["error"]
            assert words in error["message"] and error["problem"] and "Traceback" not in answered.text
        assert client.get("/nowhere").status_code == 404 and client.get("/v1/predict").status_code == 405


@pytest.mark.slow
def test_texts_and_keys_are_in_no_log(
    adapters: Adapters, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a secret of the user"
    caplog.set_level(logging.DEBUG)
    knn = type(adapters.get("bbb").pipeline.method)
    with client_of(adapters, {"keys": [KEY], "admin": [ADMIN]}, KEY) as client:
        for path in ("/v1/predict", f"/v1/{secret}", f"/?q={secret}"):
            client.post(path, json=body("bbb", secret))
            client.post(path, json=body(secret, secret))
            client.post(path, json={"adapter": "bbb", "inputs": secret})
        client.post("/v1/chat/completions", json={"model": "bbb", "messages": [{"role": "user", "content": secret}]})
        client.post("/v1/predict", json=body("bbb", secret), headers={"X-Request-ID": secret, **auth(secret)})
        client.request(secret.replace(" ", "-"), "/v1/predict")

        def failing(self: Any, texts: Any, retrieved: Any) -> Any:
            raise ZeroDivisionError(str(texts))

        monkeypatch.setattr(knn, "condition", failing)
        answered = client.post("/v1/predict", json=body("bbb", secret))
        assert answered.status_code == 500 and secret not in answered.text and answered.headers["x-request-id"]
        assert answered.headers["x-request-id"] in answered.json()["error"]["fix"]
    ours = [record for record in caplog.records if record.name != "httpx"]  # the test's own client
    lines = [JsonLines().format(record) for record in ours]
    for shown in (*lines, caplog.handler.format(ours[-1])):
        assert secret not in shown and KEY not in shown
    failure = next(json.loads(line) for line in lines if '"failed"' in line)
    assert failure["error"] == "ZeroDivisionError" and any("test_access" in place for place in failure["at"])
    request = [json.loads(line) for line in lines if '"request"' in line][0]
    assert {"time", "request", "route", "status", "ms", "adapter", "inputs", "tokens"} <= set(request)


@pytest.mark.slow
def test_health_ready_metrics(folders: dict[str, Path], adapters: Adapters) -> None:
    with client_of(adapters) as client:
        assert client.get("/health").json()["status"] == "alive" and client.get("/ready").status_code == 200
        client.post("/v1/predict", json=body("bbb", "yes", "no"))
        client.get("/something/unknown")
        figures = client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain")
        for line in (
            'coldframe_requests_total{adapter="bbb",route="/v1/predict",status="200"} 1.0',
            'coldframe_inputs_total{adapter="bbb"} 2.0',
            "coldframe_adapters 2.0",
            "coldframe_waiting_inputs 0.0",
            'coldframe_requests_total{adapter="-",route="-",status="404"} 1.0',
        ):
            assert line in figures.text, line
    with client_of(Adapters(root=folders["knn"].parent)) as client:
        answered = client.get("/ready")
        assert answered.status_code == 503 and answered.headers["retry-after"]


@pytest.mark.slow
def test_outside_nothing_is_told_without_a_key(adapters: Adapters) -> None:
    with client_of(adapters, {"keys": [KEY]}, host="0.0.0.0") as client:
        assert client.get("/v1/models").json()["data"] == []
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=auth(KEY)).status_code == 200
        for adapter in ("bbb", "no such"):
            assert client.post("/v1/predict", json=body(adapter)).status_code == 401
        assert client.get("/health").status_code == 200
    with pytest.raises(ConfigError, match="reached from outside"):
        gateway_app(adapters, Access(), GatewaySettings(host="0.0.0.0"))
