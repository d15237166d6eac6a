"""What all tests share: no network, and the optional evaluation data beside the checkout."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from coldframe import progress

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The test runner's own log handlers would count as the program's, and progress would not reach standard error.
progress.to_stderr()

ROOT = Path(__file__).resolve().parents[1]
# The fast tier runs tests over all architectures on these: usual, learned positions, windows, ALiBi, a projection.
FAST = ("llama", "gpt2", "gemma3_text", "bloom", "opt-projected")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other architectures are slow; tests of every method are so on all but one."""
    for item in items:
        architecture = getattr(getattr(item, "callspec", None), "params", {}).get("architecture", "llama")
        if architecture not in (FAST[:1] if "tests/contract/" in item.nodeid else FAST):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails, unless it is one with a real model, which may have to be fetched."""
    if request.node.get_closest_marker("e2e") or request.node.get_closest_marker("vllm"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise OSError(f"tests do not use the network (asked for {address!r})")

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory for this test alone, apart from what it writes."""
    folder = tmp_path_factory.mktemp("cache") / "coldframe"
    monkeypatch.setenv("COLDFRAME_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The evaluation data kept beside the checkout; tests that need it skip where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no evaluation data at {path}")
    return path
