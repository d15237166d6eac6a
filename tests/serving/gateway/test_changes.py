"""Adapters and exemplars are added, replaced and taken away while the gateway answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.gateway.support import ADMIN, TEXTS, adapters_of, client_of, model

import coldframe as cf
from coldframe.serving.gateway.adapters import Adapters

pytestmark = pytest.mark.slow


@pytest.fixture
def home(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of adapters of its own: some tests write."""
    for name in ("mha-esp", "knn", "lora", "prag", "prompt-tuning"):
        shutil.copytree(folders[name], tmp_path / "adapters" / name)
    return tmp_path / "adapters"


@pytest.fixture
def adapters(home: Path) -> Adapters:
    return adapters_of({name: home / name for name in ("mha-esp", "knn")}, home)


@pytest.fixture
def client(adapters: Adapters) -> Iterator[Any]:
    with client_of(adapters, {"admin": [ADMIN]}, ADMIN) as client:
        yield client


def shares(client: Any, adapter: str, text: str = TEXTS[0]) -> list[float]:
    answered = client.post("/v1/predict", json={"adapter": adapter, "inputs": [text]})
    assert answered.status_code == 200, answered.text
    return list(answered.json()["answers"][0]["probabilities"].values())


def test_adapters_come_and_go(client: Any, home: Path) -> None:
    assert client.post("/v1/predict", json={"adapter": "lora", "inputs": ["x"]}).status_code == 404
    assert client.put("/v1/adapters/lora", json={"path": "lora"}).json()["version"] == 1
    assert shares(client, "lora") == pytest.approx(
        cf.load(home / "lora", model()).predict_proba(TEXTS[:1])[0], abs=1e-4
    )
    assert client.put("/v1/adapters/lora", json={"path": str(home / "mha-esp")}).json()["version"] == 2
    assert shares(client, "lora") == pytest.approx(shares(client, "mha-esp"), abs=1e-4)
    names = [adapter["name"] for adapter in client.get("/v1/adapters").json()["adapters"]]
    assert names == ["knn", "lora", "mha-esp"]
    assert client.delete("/v1/adapters/lora").status_code == 204
    assert client.post("/v1/predict", json={"adapter": "lora", "inputs": ["x"]}).status_code == 404
    assert client.delete("/v1/adapters/lora").status_code == 404


def test_only_folders_below_the_root_are_loaded(client: Any, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "lora", tmp_path / "elsewhere")
    (home / "link").symlink_to(tmp_path / "elsewhere")
    for path in (str(tmp_path / "elsewhere"), "../elsewhere", "link", "/etc", "."):
        answered = client.put("/v1/adapters/x", json={"path": path})
        assert answered.status_code == (422 if path == "." else 403), path
    for path in ("nothing", "lora/model.safetensors", "a\0b", "x" * 5000, "someone/on-the-hub"):
        answered = client.put("/v1/adapters/x", json={"path": path})
        assert answered.status_code == 422, (path, answered.text)
        assert "Traceback" not in answered.text
    for name in ("..", "a b", "-x", "x" * 65, "%00"):
        assert client.put(f"/v1/adapters/{name}", json={"path": "lora"}).status_code in (404, 405, 422), name


def test_an_adapter_of_another_model_is_refused(client: Any, home: Path) -> None:
    from tests.contract import cases
    from tests.tiny import tiny

    from coldframe.frozen.model import FrozenLM

    other = FrozenLM(*tiny("llama", seed=1), {"name": "another", "source": "memory", "revision": None})
    cf.fit(cf.ZeroShot(), other, cases.task(), quiet=True).save_pretrained(home / "other")
    answered = client.put("/v1/adapters/other", json={"path": "other"})
    assert answered.status_code == 422 and "another base model" in answered.json()["error"]["problem"]


def test_without_a_root_nothing_is_added(folders: dict[str, Path]) -> None:
    with client_of(adapters_of({"knn": folders["knn"]}), {"admin": [ADMIN]}, ADMIN) as client:
        answered = client.put("/v1/adapters/x", json={"path": str(folders["lora"])})
        assert answered.status_code == 403 and "--adapter-root" in answered.json()["error"]["fix"]


@pytest.mark.parametrize("name", ["mha-esp", "knn"])
def test_predictions_follow_the_store(client: Any, adapters: Adapters, name: str) -> None:
    before = shares(client, name)
    route = f"/v1/adapters/{name}/exemplars"
    added = client.post(route, json={"exemplars": [{"text": TEXTS[0] + " indeed", "label": "B", "id": "new"}]})
    assert added.status_code == 200, added.text
    body = {"adapter": name, "inputs": TEXTS[:1]}
    neighbours = client.post("/v1/predict", json=body).json()["answers"][0]["neighbours"]
    assert neighbours[0]["id"] == "new" and neighbours[0]["label"] == "B"
    as_b = shares(client, name)
    assert not np.allclose(as_b, before, atol=1e-4)
    assert client.patch(route, json={"labels": {"new": "A"}}).json()["version"] == 3
    as_a = shares(client, name)
    assert not np.allclose(as_a, as_b, atol=1e-4)
    listed = client.get(route, params={"limit": 1000}).json()
    assert {"id": "new", "text": TEXTS[0] + " indeed", "label": "A"} in listed["exemplars"]
    assert client.delete(route, params={"id": "new"}).json()["exemplars"] == listed["total"] - 1
    assert shares(client, name) == pytest.approx(before, abs=1e-5)


def test_a_store_that_is_saved_is_there_again(client: Any, home: Path) -> None:
    body = {"exemplars": [{"text": "a new row", "label": "B", "id": "new"}], "save": True}
    assert client.post("/v1/adapters/mha-esp/exemplars", json=body).status_code == 200
    again = cf.load(home / "mha-esp", model())
    assert "new" in {entry.id for entry in again.store.examples}
    assert again.predict_proba(TEXTS[:1])[0] == pytest.approx(shares(client, "mha-esp"), abs=1e-4)


def test_what_a_store_cannot_take_is_said(client: Any) -> None:
    def refused(status: int, method: str, name: str = "knn", **options: Any) -> str:
        answered = client.request(method, f"/v1/adapters/{name}/exemplars", **options)
        assert answered.status_code == status, answered.text
        return str(answered.json()["error"]["message"])

    row = {"text": "x", "label": "A"}
    assert "is not a label" in refused(422, "POST", json={"exemplars": [{**row, "label": "C"}]})
    assert "needs its label" in refused(422, "POST", json={"exemplars": [{"text": "x"}]})
    known = client.get("/v1/adapters/knn/exemplars").json()["exemplars"][0]["id"]
    assert "there already" in refused(409, "POST", json={"exemplars": [{**row, "id": known}]})
    assert "no such exemplar" in refused(404, "PATCH", json={"labels": {"nobody": "A"}})
    every = [e["id"] for e in client.get("/v1/adapters/knn/exemplars?limit=1000").json()["exemplars"]]
    assert "fewer rows than k" in refused(422, "DELETE", params={"id": every})
    client.put("/v1/adapters/fixed", json={"path": "prompt-tuning"})
    assert "looks at no exemplars" in refused(409, "POST", "fixed", json={"exemplars": [row]})
    client.put("/v1/adapters/prag", json={"path": "prag"})
    assert "learns something for each entry" in refused(409, "POST", "prag", json={"exemplars": [row]})


def test_traffic_goes_on_while_adapters_come_and_go(client: Any, adapters: Adapters, home: Path) -> None:
    right = {name: shares(client, name) for name in ("mha-esp", "knn")}
    done = []

    def change(turn: int) -> None:
        assert client.put(f"/v1/adapters/more-{turn % 3}", json={"path": "lora"}).status_code == 200
        row = {"text": "far from all", "label": "A", "id": f"new-{turn}"}
        assert client.post("/v1/adapters/mha-esp/exemplars", json={"exemplars": [row]}).status_code == 200
        assert client.delete("/v1/adapters/mha-esp/exemplars", params={"id": row["id"]}).status_code == 200
        client.delete(f"/v1/adapters/more-{turn % 3}")
        done.append(turn)

    def ask(turn: int) -> bool:
        name = ("mha-esp", "knn")[turn % 2]
        return bool(np.allclose(shares(client, name), right[name], atol=1e-3))

    with ThreadPoolExecutor(8) as pool:
        changes = [pool.submit(change, turn) for turn in range(12)]
        answers = [pool.submit(ask, turn) for turn in range(120)]
        assert all(answer.result() for answer in answers)
        for future in changes:
            future.result()
    assert len(done) == 12 and adapters.names() == ["knn", "mha-esp"]


def test_one_model_serves_all(home: Path) -> None:
    adapters = adapters_of({name: home / name for name in ("mha-esp", "lora", "prag")}, home)
    assert len(adapters.models) == 1
    assert len({id(adapters.get(name).pipeline.lm) for name in adapters.names()}) == 1
