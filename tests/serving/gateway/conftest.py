"""Artifacts of many methods on one tiny model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.serving.gateway.support import saved


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where artifacts lie."""
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="session")
def folders(root: Path) -> dict[str, Path]:
    """An artifact of every kind of method."""
    return saved(root)
