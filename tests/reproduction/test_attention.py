"""The ablation of MHA-ESP's attention: what is fitted, kept and compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction.attention import VERSIONS, Ablation, table, vote
from tests.contract.cases import lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders

from coldframe.methods.registry import create
from reproduction import attention

METHOD = {"heads": 2, "k": 3, "adapter": 8, "encoder": "tiny"}


def test_every_version_is_a_setting_of_the_method() -> None:
    assert len({repr(create("mha-esp", settings)) for settings in VERSIONS.values()}) == len(VERSIONS)


@pytest.mark.slow
@pytest.mark.parametrize("headed", [True, False])
def test_versions_are_fitted_once_and_compared(headed: bool, tmp_path: Path) -> None:
    ablation = Ablation(
        task(rows=24, validation=8), lm_of("llama"), METHOD, {"epochs": 1, "batch_size": 4}, headed, True, tmp_path
    )
    runs = []
    for version in ("averaging", "ours"):
        run, predictions = ablation.run(version, 0)
        assert predictions is not None and len(predictions) == 2
        again, _ = ablation.run(version, 0)
        assert again == run
        runs.append(run)
    averaging, ours = runs
    assert averaging.entropy > ours.entropy
    assert averaging.gradient < ours.gradient
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert len(table(runs, "accuracy").rows) == 2


@pytest.mark.slow
def test_the_command_writes_tables_and_the_paired_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = task(rows=24, validation=8)
    monkeypatch.setattr(attention, "load_lm", lambda name: lm_of("llama"))
    monkeypatch.setattr(attention, "load_task", lambda name: rows)
    monkeypatch.setitem(attention.TASKS, "facts", ({}, METHOD, {"epochs": 1, "batch_size": 4}))
    out = tmp_path / "out"
    attention.main(["facts", "--model", "none", "--versions", "averaging", "ours", "--test", "--out", str(out)])
    page = (out / "attention.md").read_text()
    assert (
        "| averaging |" in page and "Ours minus averaging" in page and "python -m reproduction.attention facts" in page
    )


def test_votes_are_of_entries_that_are_not_validation_rows() -> None:
    assert 0 <= vote(task(rows=24, validation=8), 3) <= 100
