"""``coldframe tasks``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.cli.output import print_json
from coldframe.cli.parsing import parse
from coldframe.config import Config

WHAT = {
    "b3db": "does a molecule cross the blood-brain barrier? one row per molecule, scaffold split",
    "bace": "does a molecule inhibit beta-secretase 1? scaffold split, or the published 100-row test with --test",
    "bbbp": "blood-brain barrier, the MoleculeNet set; scaffold split, or the published test with --test",
    "clintox": "did a drug fail in trials for toxicity? see the notes on spelling; scaffold split, or --test",
    "dense-answers": "made up: alike entries that answer, so that retrieval could help and training may not learn to",
    "dense-store": "made up: alike entries that say nothing, so that retrieval cannot help (a negative control)",
    "fact-claims": "made up: claims about the passages of a fact-corpus, true or false; fact-claims:PASSAGES:SEED",
    "fact-corpus": "made up: passages about towns, people and firms, with questions; fact-corpus:PASSAGES:SEED",
    "facts": "made up: what only the store knows, so that retrieval must help (a positive control)",
    "trec": "what kind of answer does a question ask for? text, 6 classes, 500 test questions",
}


@dataclasses.dataclass(frozen=True)
class Tasks(Config):
    """List the built-in tasks; your own is a file or a hub data set.

    Args:
        json: Print the list as JSON.
    """

    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Print names and what they ask."""
    options = parse(Tasks, "tasks", argv)
    if options.json:
        print_json([{"name": name, "description": what} for name, what in WHAT.items()])
        return
    for name, what in WHAT.items():
        print(f"{name:<12} {what}")
    print(
        "\nYour own: coldframe fit FILE.csv --text COL --label COL (TSV, JSON, Parquet, Excel, owner/name on the hub)"
    )
