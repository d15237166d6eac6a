from __future__ import annotations

import pytest
from tests.contract.cases import TinyEncoder


@pytest.fixture(autouse=True)
def tiny_encoders(cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specs ``tiny`` and ``tiny-print`` are encoders, wherever encoders are loaded."""
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", TinyEncoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", TinyEncoder)
