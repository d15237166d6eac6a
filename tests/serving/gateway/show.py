"""A gateway over tiny models, for looking at the page: ``python -m tests.serving.gateway.show FOLDER [PORT]``.

One adapter reads molecules, one reads texts, one writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.contract import cases
from tests.serving.gateway import process
from tests.serving.gateway.support import fitted

SMILES = "CCO CCN CCC c1ccccc1 CC(=O)O CCOC CCCl c1ccncc1 CC#N CCS OCCO NCCN c1ccccc1O CC(C)C C1CCCCC1 CCCCO".split()


def molecules() -> cases.Task:
    """Molecules with oxygen and without."""
    schema = cases.TWO.replace(name="oxygen", domain="molecules", labels=("no", "yes"), words=("no", "yes"))
    rows = [cases.example(i, "yes" if "O" in smiles else "no", smiles) for i, smiles in enumerate(SMILES)]
    return cases.Task(schema, tuple(rows[:12]), tuple(rows[12:]), ())


def artifacts(root: Path) -> dict[str, Path]:
    """Folders by name, fitted if they are not there."""
    tasks = {"oxygen": ("mha-esp", molecules()), "mood": ("mha-esp", None), "writes": ("prag", None)}
    for name, (method, task) in tasks.items():
        if not (root / name).exists():
            fitted(method, task).save_pretrained(root / name)
    return {name: root / name for name in tasks}


def main() -> None:
    folders = artifacts(Path(sys.argv[1]))
    settings = {"port": int(sys.argv[2]) if len(sys.argv) > 2 else 0}
    sys.argv[1:] = [json.dumps(settings), *(f"{name}={folder}" for name, folder in folders.items())]
    process.main()


if __name__ == "__main__":
    main()
