"""One model, sixteen threads, all kinds of methods at once: every answer is the one that a single thread gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.faults.stress import METHODS, pipelines, rounds
from tests.tiny import tiny

from coldframe.frozen.model import FrozenLM


@pytest.mark.slow
def test_sixteen_threads_get_the_answers_of_one(cache: Path) -> None:
    pytest.importorskip("bm25s")
    shared, alone = (pipelines(FrozenLM(*tiny("llama"))) for _ in range(2))
    assert [pipeline.method.name for pipeline in shared] == [*METHODS]
    wrong, answers = rounds(shared, alone, threads=16, turns=3)
    assert answers == 16 * 3 * 3 and not wrong
    lm = shared[0].lm
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
