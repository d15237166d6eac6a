"""Contract: the same run twice gives the same bytes, on several threads too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from tests.contract.cases import TRAINED, Case, lm_of, task

from coldframe.frozen.model_sources import weight_hash
from coldframe.pipeline.pipeline import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.training.config import TrainingConfig

# torch shares a sum among threads from some 30,000 elements on: batch x k x width must be beyond that.
ROWS, WIDTH = 16, 1024


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def outcome(case: Case) -> tuple[str, list[float]]:
    """The best weights, and the losses of all epochs: the best need not be the last."""
    pipeline = fit(
        case.method(),
        lm_of("llama"),
        task(rows=ROWS),
        retrieval=RetrievalConfig(encoder="tiny"),
        training=TrainingConfig(epochs=2, batch_size=ROWS, warmup=0.0, seed=5),
        quiet=True,
    )
    return weight_hash(pipeline.method), [record["train_loss"] for record in pipeline.history]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.id)
def test_two_trainings_end_with_the_same_bytes(case: Case) -> None:
    if case.settings.get("adapter") is not None:
        case = dataclasses.replace(case, settings={**case.settings, "adapter": WIDTH})
    assert outcome(case) == outcome(case)
