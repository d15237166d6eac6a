"""The small model that a checkout trains for itself: a folder that load_lm reads, the same for the same seed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from coldframe.frozen.model import load_lm
from coldframe.frozen.ports import Prompt
from coldframe.tasks.builtin import dense_store, facts
from reproduction import small_gpt2


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script itself, with a smaller model and a few steps."""
    for name, value in {"WIDTH": 32, "LAYERS": 1, "BATCH": 4, "SAMPLE": 300}.items():
        monkeypatch.setattr(small_gpt2, name, value)
    monkeypatch.setattr("sys.argv", ["small_gpt2", str(tmp_path / "small"), "--steps", "20"])
    small_gpt2.main()
    return tmp_path / "small"


@pytest.mark.slow
def test_it_is_a_checkpoint_whose_answer_words_are_single_tokens(made: Path) -> None:
    lm = load_lm(str(made), dtype="float32")
    assert lm.anatomy.d_model == 32 and lm.bos == (0,)
    words = [*facts.COLOURS, *dense_store.SHARES]
    assert all(len(lm.tokenize(" " + word)) == 1 for word in words)
    scores = lm.label_scores([Prompt("Which colour is the flag of Zovobis?\nColour:")], facts.COLOURS)
    assert scores.shape == (1, 8) and bool(scores.isfinite().all())


@pytest.mark.slow
def test_it_learns_and_the_same_seed_gives_the_same_weights(made: Path) -> None:
    written = load_lm(str(made), dtype="float32").model.state_dict()
    again, tokenizer = small_gpt2.train(20, seed=0)
    assert all(torch.equal(written[name], weight) for name, weight in again.state_dict().items())
    ids, mask = small_gpt2.batch(tokenizer, random.Random(9))
    with torch.no_grad():
        trained, fresh = (small_gpt2.loss_of(model, ids, mask) for model in (again, type(again)(again.config)))
    assert trained < fresh - 0.5
