"""Bodies that no client would send: every answer is one that the schema knows, in words, and the gateway goes on.

``python -m tests.serving.gateway.test_fuzz 100000`` asks for longer.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.serving.gateway.support import ADMIN, TEXTS, adapters_of, client_of, saved, tiny_encoders

from coldframe.serving.gateway.access import Access
from coldframe.serving.gateway.server import gateway_app
from coldframe.serving.gateway.settings import GatewaySettings

pytestmark = pytest.mark.slow
NAMES = ("zero-shot", "icl", "mha-esp", "knn", "prag")
ROUTES = (
    "/v1/predict",
    "/v1/compare",
    "/v1/rag",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/adapters/knn/exemplars",
)
SEEDS: tuple[Any, ...] = (
    {"adapter": "mha-esp", "inputs": ["yes", "CCO"], "attention": True, "overrides": {"drop": [], "relabel": {}}},
    {"adapter": "knn", "input": "yes", "overrides": {"drop": ["row-000"], "relabel": {"row-001": "A"}}},
    {"adapter": "zero-shot", "question": "yes", "passages": ["the", "no"], "max_tokens": 2},
    {"model": "icl", "prompt": ["yes", "no"], "max_tokens": 2, "stream": True, "n": 1, "temperature": 0.5},
    {"model": "knn", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
    {"exemplars": [{"text": "x", "label": "A", "id": "new"}], "save": False},
)
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 2**64, "", " ", "\0", "\ud800", "x" * 5000, [], {}, [[]], {"": None}, float("nan"),
    float("inf"), "knn", "A", "row-000", ["a"] * 300, {"drop": 1}, "../../etc/passwd", "\u202e\U0001f9ca",
)  # fmt: skip


@pytest.fixture
def client(folders: dict[str, Path]) -> Iterator[Any]:
    logging.getLogger("coldframe.gateway").setLevel(logging.CRITICAL)
    adapters = adapters_of({name: folders[name] for name in NAMES})
    with client_of(adapters, {"admin": [ADMIN]}, ADMIN) as client:
        yield client
    logging.getLogger("coldframe.gateway").setLevel(logging.NOTSET)


def changed(value: Any, rng: random.Random) -> Any:
    """A value with something odd somewhere in it."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(ODD)
    value = value.copy()
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    what = rng.random()
    if what < 0.15:
        del value[key]
    elif what < 0.25 and isinstance(value, dict):
        value[rng.choice(("unknown", "adapter", "model", "overrides", "\ud800"))] = rng.choice(ODD)
    else:
        value[key] = changed(value[key], rng)
    return value


def bodies(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Routes and bodies: values changed, then some bytes."""
    rng = random.Random(seed)
    for _ in range(count):
        value = rng.choice(SEEDS)
        for _ in range(rng.randint(0, 3)):
            value = changed(value, rng)
        content = bytearray(json.dumps(value).encode())
        if rng.random() < 0.2:
            for _ in range(rng.randint(1, 8)):
                place = rng.randrange(len(content) + 1)
                content[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        yield rng.choice(ROUTES), bytes(content)


def ask(client: Any, count: int, seed: int = 0) -> Counter[int]:
    """Statuses of that many requests; an answer without words is an error."""
    statuses: Counter[int] = Counter()
    before = client.post("/v1/predict", json={"adapter": "mha-esp", "inputs": TEXTS}).json()["answers"]
    kinds = {"Content-Type": "application/json"}
    for number, (route, content) in enumerate(bodies(count, seed)):
        answered = client.post(route, content=content, headers=kinds)
        statuses[answered.status_code] += 1
        assert answered.status_code < 500, (number, route, content[:300], answered.text[:300])
        if answered.status_code != 200:
            error = answered.json()["error"]
            assert error["message"] and error["problem"] and "Traceback" not in answered.text
    after = client.post("/v1/predict", json={"adapter": "mha-esp", "inputs": TEXTS}).json()["answers"]
    for first, last in zip(before, after, strict=True):
        assert np.allclose([*first["probabilities"].values()], [*last["probabilities"].values()], atol=1e-4)
    return statuses


def test_odd_bodies_are_answered_in_words(client: Any) -> None:
    statuses = ask(client, 2000)
    assert statuses[200] > 50 and statuses[422] > 500 and statuses[400] > 50


def test_answers_are_those_of_the_schema(folders: dict[str, Path]) -> None:
    """Requests that schemathesis makes of the OpenAPI schema, right ones and wrong ones."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import CHECKS, load_all_checks
    from schemathesis.generation import GenerationMode

    load_all_checks()
    checks = CHECKS.get_by_names(["not_a_server_error", "status_code_conformance", "response_schema_conformance"])
    access = Access.from_dict({"admin": [ADMIN]})
    app = gateway_app(
        adapters_of({name: folders[name] for name in NAMES}), access, GatewaySettings(allow_unauthenticated=True)
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    requests = 0

    def check(case: Any) -> None:
        nonlocal requests
        requests += 1
        case.call_and_validate(headers={"Authorization": f"Bearer {ADMIN}"}, checks=checks)

    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode == GenerationMode.NEGATIVE and not operation.body and not operation.path_parameters:
                continue  # there is nothing to be wrong
            few = settings(max_examples=60, database=None, deadline=None, derandomize=True,
                           suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
            few(given(operation.as_strategy(generation_mode=mode))(check))()
    assert len(operations) >= 14 and requests > 1000


def main(count: int, folder: Path) -> None:
    """The same for longer."""
    logging.disable(logging.CRITICAL)
    with tiny_encoders(), client_of(adapters_of(saved(folder, NAMES)), {"admin": [ADMIN]}, ADMIN) as client:
        statuses: Counter[int] = Counter()
        for seed in range(-(-count // 1000)):
            statuses += ask(client, min(1000, count - 1000 * seed), seed + 1)
        print(json.dumps({"bodies": count, "statuses": dict(sorted(statuses.items()))}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(scratch))
