"""Tables of molecules: when a column is one, names behind them, salts across a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coldframe.errors import DataError
from coldframe.tasks import load_task

pytest.importorskip("rdkit")

RINGS = ("c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "C1CCNCC1", "c1ccoc1")


def molecules(count: int, name: str = "") -> list[dict[str, Any]]:
    return [
        {"smiles": "C" * (i // 6 + 1) + RINGS[i % 6] + name.format(i), "active": str(i // 6 % 2)} for i in range(count)
    ]


def test_three_rows_of_molecules_one_of_them_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("smiles,active\nCCO,1\nC1CC,0\nCCN,0\n")
    with pytest.raises(DataError, match="a.csv, row 3: Not a SMILES that RDKit can read. Got: 'C1CC'"):
        load_task(path)
    path.write_text("smiles,active\nCCO,1\nCCC,0\nCCN,0\n")
    task = load_task(path, test=[{"smiles": "CCCC", "active": "1"}], validation_size=0)
    assert (task.schema.domain, task.schema.kind) == ("molecules", "classification")


def test_one_bad_cell_of_sixty_is_named() -> None:
    rows = molecules(60)
    rows[40]["smiles"] = "C1CC"
    with pytest.raises(DataError, match="row 41: Not a SMILES that RDKit can read"):
        load_task(rows)
    task = load_task(rows, on_error="skip")
    assert task.schema.domain == "molecules" and any(note.startswith("Skipped 1") for note in task.notes)


def test_a_column_of_texts_that_is_called_molecules_is_text() -> None:
    rows = [{"smiles": f"what a day {i}", "active": i % 2} for i in range(20)]
    task = load_task(rows)
    assert task.schema.domain == "text"
    assert any(note.startswith("WARNING: Column 'smiles' is named like molecules") for note in task.notes)


def test_names_behind_molecules_are_dropped_when_asked() -> None:
    rows = molecules(60, " compound {}")
    with pytest.raises(DataError, match=r"row 1: A SMILES with something behind it.*--drop-names"):
        load_task(rows)
    task = load_task(rows, drop_names=True)
    plain = load_task(molecules(60))
    assert [(row.text, row.key) for row in task.test] == [(row.text, row.key) for row in plain.test]


def test_numbers_of_atoms_do_not_reach_the_prompt() -> None:
    rows = [{**row, "smiles": "[CH3:1]" + row["smiles"][1:]} for row in molecules(60)]
    task = load_task(rows)
    assert not any(":" in row.text for row in (*task.train, *task.test))


def test_salts_of_molecules_to_learn_from_are_told() -> None:
    test = [{"smiles": "CC(=O)[O-].[Na+]", "active": "1"}, {"smiles": "CCCCN.Cl", "active": "0"}]
    train = [*molecules(60), {"smiles": "CC(=O)O", "active": "1"}]
    (note,) = (note for note in load_task(train, test=test).notes if "salt" in note)
    assert note.startswith(
        "WARNING: 1 of 2 test rows differ from molecules to learn from in their salt or charge alone"
    )
    assert "CC(=O)[O-].[Na+]" in note and "CC(=O)O" in note
    assert not any("salt" in note for note in load_task(molecules(60)).notes)


def test_a_long_chain_is_refused_before_it_takes_time() -> None:
    with pytest.raises(DataError, match="row 61: Not a small molecule"):
        load_task([*molecules(60), {"smiles": "C" * 4_999, "active": "1"}])
