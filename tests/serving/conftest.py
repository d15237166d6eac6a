"""Artifacts of many methods on one tiny model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.cases import tiny_encoder
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.serving.gateways import saved


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where artifacts lie."""
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture
def folders(root: Path, tiny_encoders: None) -> dict[str, Path]:
    """An artifact of every kind of method."""
    return saved(root)


__all__ = ["tiny_encoder"]
