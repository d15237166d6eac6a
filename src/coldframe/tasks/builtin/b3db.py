"""B3DB: does a molecule cross the blood-brain barrier?

Paper: Meng et al., Scientific Data 8 (2021) 289. Data: CC0-1.0, from the PyPI package ``qc-B3DB``.

The table counts stereoisomers: its 7,807 rows are 4,022 molecules by connectivity, and under a random split
two of three test rows have their twin in train. Here each molecule stands once (the shortest SMILES), those
with conflicting labels are dropped, and test rows have scaffolds that train does not: 3,113 and 779 rows.
"""

from __future__ import annotations

from coldframe.storage.downloads import pypi_file
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import Problems, Table

PACKAGE, VERSION, MEMBER = "qc-B3DB", "1.1.1", "B3DB/B3DB_classification.tsv"
SHA256 = "47a160aea1551423ead2aab70b301fb1646aea03cf151fd614eb37c78fa55b82"


def read(config: TaskConfig) -> Source:
    """The classification table; a test file, if given, needs the same columns."""
    # `import B3DB` would parse 80 MB of tables; only this one file is read.
    table = read_table(pypi_file(PACKAGE, VERSION, MEMBER, SHA256), Problems())
    origin = {"package": PACKAGE, "version": VERSION, "member": MEMBER, "sha256": SHA256, "licence": "CC0-1.0"}
    return Source(
        "b3db",
        Table(table.name, table.columns, table.rows, origin),
        test=read_table(config.test, Problems(config.on_error)) if config.test is not None else None,
        notes=(
            "Most molecules of BBBP, and three of four of ClinTox, are in B3DB too: it is no held-out set for them.",
        ),
        defaults={
            "text": "SMILES",
            "label": "BBB+/BBB-",
            "positive": "BBB+",
            "words": {"BBB+": "Yes", "BBB-": "No"},
            "domain": "molecules",
            "kind": "classification",
            "deduplicate": True,
            "instruction": "Does the molecule cross the blood-brain barrier? Answer Yes or No.",
            "template": "SMILES: {text}\nAnswer:",
        },
    )
