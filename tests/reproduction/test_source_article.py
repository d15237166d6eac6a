"""The study of the source article's three causes, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reproduction.source_article import CAUSES, Centred, method_with, run
from tests.tiny import tiny

from coldframe.frozen.model import FrozenLM
from coldframe.methods.soft_tokens.latent_memory import LatentMemory
from coldframe.storage.files import to_json
from reproduction import source_article

TEXTS = ["Night 1, gate 2.", "Night 3, gate 4.", "Night 5, gate 6."]


@pytest.mark.slow
def test_centring_leaves_nothing_that_all_entries_share() -> None:
    vectors = Centred(TEXTS).encode(TEXTS)
    cosines = (vectors @ vectors.T)[np.triu_indices(3, 1)]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert cosines.mean() == pytest.approx(-0.5, abs=0.1)  # three vectors whose sum is about nothing


@pytest.mark.slow
def test_each_cause_is_one_setting() -> None:
    centred = Centred(TEXTS)
    at_work = method_with(CAUSES, centred).config.to_dict()
    for cause, setting in zip(CAUSES, ("encoder", "static_learning_rate", "slope"), strict=True):
        without = method_with([name for name in CAUSES if name != cause], centred).config.to_dict()
        assert {name for name in at_work if at_work[name] != without[name]} == {setting}


@pytest.mark.slow
def test_all_cells_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is not run again, and gives the same table."""
    lm = FrozenLM(*tiny("llama"))
    table = run(lm, [0, 1], 1, tmp_path, rows=40)
    assert len(table["cells"]) == 9 and table["cells"]["prompt-tuning"]["entropy"] is None
    assert all(cell["gain"][1] <= cell["gain"][2] for cell in table["cells"].values())
    assert len(list(tmp_path.glob("*.json"))) == 18

    def refused(*_: object) -> None:
        raise AssertionError("a cell was run again")

    monkeypatch.setattr(source_article, "losses_of", refused)
    assert to_json(run(lm, [0, 1], 1, tmp_path, rows=40)) == to_json(table)


def test_the_slope_is_where_the_scores_start() -> None:
    with pytest.raises(Exception, match="slope"):
        LatentMemory(slope=-1.0)
