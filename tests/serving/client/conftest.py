from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.cases import lm_of
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.serving.soft_server import SoftServer

from coldframe.frozen.model import FrozenLM
from coldframe.serving.remote import RemoteLM


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model's files."""

    def of(architecture: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"checkpoint-{architecture}"
        if not folder.exists():
            lm = lm_of(architecture)
            lm.model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
        return folder

    return of


@pytest.fixture
def here() -> FrozenLM:
    return lm_of("llama")


@pytest.fixture
def server(here: FrozenLM) -> Iterator[SoftServer]:
    with SoftServer.running(here) as running:
        yield running


@pytest.fixture
def remote(server: SoftServer, checkpoint: Callable[[str], Path]) -> Callable[..., RemoteLM]:
    """A client of the server, which knows its dtype unless told otherwise."""

    def of(**settings: Any) -> RemoteLM:
        usual: dict[str, Any] = {"checkpoint": checkpoint("llama"), "dtype": "float32", "wait": 0.0, "retries": 2}
        return RemoteLM(settings.pop("url", server.url), "tiny", **{**usual, **settings})

    return of
