from __future__ import annotations

import pytest
from tests.contract.cases import tiny_encoder


@pytest.fixture(autouse=True)
def tiny_encoders(cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specs ``tiny``, ``tiny-print`` and ``tiny-bert`` are encoders, wherever encoders are loaded."""
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", tiny_encoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", tiny_encoder)
