from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import lm as folder
from tests.cli.conftest import run as run
from tests.tiny import tiny

from coldframe.frozen.model import FrozenLM

folder = folder
"""The tiny model in a folder, for the command line."""


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> Path:
    return cache


@pytest.fixture(scope="session")
def lm() -> FrozenLM:
    """Shared among tests, which is only right because nothing may change it."""
    return FrozenLM(*tiny("llama"))
