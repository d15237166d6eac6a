"""Tests against a real vLLM: skipped where its environment is absent (``python -m tests.vllm.server make``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vllm import server

import coldframe as cf
from coldframe.frozen.model import FrozenLM
from coldframe.serving.remote import RemoteLM


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are such tests."""
    absent = pytest.mark.skip(reason=f"no vLLM in {server.home()}: python -m tests.vllm.server make")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.xdist_group("vllm"))  # one server, in one of the processes
            if not server.ready():
                item.add_marker(absent)


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of smollm2 in float32, whose numbers can be compared."""
    with server.running("smollm2", "float32", tmp_path_factory.mktemp("vllm")) as address:
        yield address


@pytest.fixture(scope="session")
def here() -> FrozenLM:
    return cf.load_lm("smollm2", dtype="float32")


@pytest.fixture(scope="session")
def there(url: str) -> RemoteLM:
    return RemoteLM(url, "smollm2", dtype="float32", timeout=300)
