"""The planted model, in memory and in a folder; every test has a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.methods.head_gains.planted import planted, planted_lm

from coldframe.frozen.model import FrozenLM


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> Path:
    return cache


@pytest.fixture(scope="session")
def lm() -> FrozenLM:
    """Shared among tests, which is only right because nothing may change it."""
    return planted_lm()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "planted"
    model, tokens = planted()
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    return path
