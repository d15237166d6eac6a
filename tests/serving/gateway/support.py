"""Gateways over tiny random models: adapters of many methods, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.contract import cases
from tests.tiny import tiny

import coldframe as cf
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline.pipeline import Pipeline
from coldframe.serving.gateway.access import Access
from coldframe.serving.gateway.adapters import Adapters
from coldframe.serving.gateway.server import gateway_app
from coldframe.serving.gateway.settings import GatewaySettings
from coldframe.tasks.task import Task

ADMIN = "an administrator's key"
KEY = "a key for everybody"
METHODS = ("zero-shot", "icl", "mha-esp", "mha-esp/paper", "idpg", "prompt-tuning", "lora", "pear", "knn", "prag")
TEXTS = ["the answer is yes", "CC(=O)O the no", "what is the molecule", "yes"]


@functools.cache
def model() -> FrozenLM:
    """One for all adapters."""
    tiny_model, tokenizer = tiny("llama")
    return FrozenLM(tiny_model, tokenizer, {"name": "tiny llama", "source": "memory", "revision": None}, 64 << 20)


@contextlib.contextmanager
def tiny_encoders() -> Iterator[None]:
    """The spec ``tiny`` is an encoder while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("pipeline.setup", "retrieval.retriever"):
            patch.setattr(f"coldframe.{module}.load_encoder", cases.tiny_encoder)
        yield


def fitted(name: str, task: Task | None = None, seed: int = 0) -> Pipeline:
    """A pipeline of a method on the tiny model."""
    case = next(case for case in cases.ALL if case.id == name)
    method = case.method()
    training = {"epochs": 1, "batch_size": 4, "seed": seed} if method.trainable else None
    retrieval = cf.RetrievalConfig(encoder="tiny")
    with tiny_encoders():
        return cf.fit(method, model(), task or cases.task_of(case), retrieval=retrieval, training=training, quiet=True)


def saved(root: Path, names: Sequence[str] = METHODS) -> dict[str, Path]:
    """Artifacts by the names of their adapters."""
    folders = {}
    for name in names:
        folder = root / name.replace("/", "-")
        if not folder.exists():
            with tiny_encoders():  # an artifact holds the vectors of its store
                fitted(name).save_pretrained(folder)
        folders[name.replace("/", "-")] = folder
    return folders


def adapters_of(folders: Mapping[str, Path], root: Path | None = None) -> Adapters:
    """Adapters that are loaded."""
    adapters = Adapters(models=[model()], root=root)
    for name, folder in folders.items():
        adapters.load(name, folder)
    return adapters


@contextlib.contextmanager
def client_of(
    adapters: Adapters, access: Mapping[str, Any] | None = None, key: str | None = None, **settings: Any
) -> Iterator[Any]:
    """A client of a gateway in this process."""
    from starlette.testclient import TestClient

    app = gateway_app(adapters, Access.from_dict(access or {}), GatewaySettings(**settings))
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with TestClient(app, base_url="http://127.0.0.1:8080", headers=headers, raise_server_exceptions=False) as client:
        yield client


class Process:
    """A gateway in a process of its own, started by the arguments of ``python -m``."""

    def __init__(self, module: str, *words: str, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", module, *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[dict[str, Any]] = []
        assert self.process.stderr is not None
        before = []
        for line in self.process.stderr:
            before.append(line)
            if line.startswith("{"):
                self.lines.append(json.loads(line))
                if "address" in self.lines[-1]:
                    break
        else:
            raise AssertionError(f"the gateway did not start: {''.join(before)}")
        self._rest: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)  # a full pipe would stop the gateway
        self._reader.start()
        self.url = self.lines[-1]["address"]
        self.port = int(self.url.rpartition(":")[2])
        self._until_alive()

    @classmethod
    def of(cls, folders: Mapping[str, Path], env: Mapping[str, str] | None = None, **settings: Any) -> Process:
        """Over the tiny model, at a free port of this machine."""
        words = [f"{name}={folder}" for name, folder in folders.items()]
        return cls("tests.serving.gateway.process", json.dumps(settings), *words, env=env)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._rest.extend(self.process.stderr)

    def _until_alive(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).read()
                return
            time.sleep(0.05)
        raise AssertionError("the gateway does not answer")

    def post(self, route: str, body: Any, timeout: float = 60) -> tuple[int, Any]:
        """Status and body of an answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, list[dict[str, Any]]]:
        """The exit status and all that was logged."""
        self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(60)
        self.rest = "".join(self._rest)
        self.lines += [json.loads(line) for line in self._rest if line.startswith("{")]
        return self.process.returncode, self.lines

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
