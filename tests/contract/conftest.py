from __future__ import annotations

import pytest
from tests.contract.cases import tiny_encoder


@pytest.fixture(autouse=True)
def tiny_encoders(cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specs ``tiny``, ``tiny-print`` and ``tiny-bert`` are encoders, wherever encoders are loaded."""
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", tiny_encoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", tiny_encoder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast tier runs every method on one architecture; all others are slow."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "tests/contract/" in item.nodeid and parameters.get("architecture", "llama") != "llama":
            item.add_marker(pytest.mark.slow)
