"""A made-up reproduction in a folder: a script, and claims that read what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROW = {"claim": "More is better", "source": "Table 1", "model": "Qwen3-4B", "published": 2.0, "path": "gap"}
SCRIPT = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--gap", type=float, default=3.0)
parser.add_argument("--out", type=pathlib.Path)
options = parser.parse_args()
with open(options.out.parent / "ran.txt", "a") as file:
    file.write("again ")
if options.gap < 0:
    raise SystemExit("the gap is negative")
options.out.mkdir(exist_ok=True)
gap = {"value": options.gap, "low": options.gap - 1, "high": options.gap + 1, "n": 100}
(options.out / "results.json").write_text(json.dumps({"gap": gap, "counted": 4}))
"""


def scripted(**changes: Any) -> dict[str, Any]:
    """A claim of the script."""
    claim = {"paper": "A paper, arXiv 0000.00000", "title": "A table", "claim": "It is so.", "script": {"name": "gap"}}
    return {**claim, "rows": [dict(ROW)], **changes}


def write_claims(folder: Path, claims: dict[str, dict[str, Any]]) -> Path:
    """A folder ``reproduction`` with the script and some claims."""
    home = folder / "reproduction"
    (home / "claims").mkdir(parents=True, exist_ok=True)
    (home / "__init__.py").write_text("")
    (home / "gap.py").write_text(SCRIPT)
    for name, claim in claims.items():
        (home / "claims" / f"{name}.yaml").write_text(yaml.safe_dump(claim, sort_keys=False))
    return home
