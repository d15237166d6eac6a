"""Predictions come from scores that are numbers, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.contract.cases import SCHEMA, STORE, TWO, WRITE
from tests.tiny import tiny

from coldframe.errors import NotFiniteError
from coldframe.frozen.model import FrozenLM
from coldframe.inference.run import run
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Schema

QUERIES = ["is CCO", "x"]
NOTHING = Retrieved.nothing(STORE, len(QUERIES))


@pytest.mark.parametrize(
    ("schema", "gold", "message"),
    [
        (TWO, None, "scores of the labels"),
        (SCHEMA, None, "scores of the labels"),
        (WRITE, None, "scores of the first token"),
        (WRITE, ["yes", "no"], "not finite"),
    ],
    ids=["one token", "several tokens", "written", "written and scored"],
)
@pytest.mark.parametrize("broken", ["model", "method"])
def test_weights_that_are_no_numbers_predict_nothing(
    schema: Schema, gold: Sequence[str] | None, message: str, broken: str
) -> None:
    lm = FrozenLM(*tiny("llama"))
    method = create("prompt-tuning", {"tokens": 2}).setup(MethodContext(lm, schema))
    assert np.isfinite(run(method, lm, schema, QUERIES, NOTHING, gold=gold).probabilities).all()
    lm.states.clear()
    weights = next(method.parameters()) if broken == "method" else lm.anatomy.layer(1).mlp.down_proj.weight
    with torch.no_grad():
        weights.view(-1)[0] = float("nan")
    with pytest.raises(NotFiniteError, match=message) as caught:
        run(method, lm, schema, QUERIES, NOTHING, gold=gold)
    assert "fit it again" in str(caught.value)
