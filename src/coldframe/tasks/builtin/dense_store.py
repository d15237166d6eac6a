"""A log whose lines are all alike: nothing that could be retrieved says more than a constant does.

Made up, by a seed (no paper, no download). Each row is one line of a watchman's log, and the label is what he heard.
Lines differ in numbers only, so that every row's neighbours are as near as any others; labels are drawn independently
of the text, with fixed shares. The best that any method can do is to answer with these shares, which a static
prompt can learn: its loss is the entropy of the labels, 0.94 nats.
"""

from __future__ import annotations

import hashlib
import random

from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table

LINES = 1_000
SHARES = {"rain": 0.1, "music": 0.1, "silence": 0.7, "thunder": 0.1}
"""Label to its share of the rows; each is one token of SmolLM2 after a space."""

INSTRUCTION = f"What did the watchman hear? Answer with one of: {', '.join(SHARES)}."
BODY = "{text}\nHeard:"


def line(rng: random.Random) -> str:
    """One line of the log.

    >>> line(random.Random(0))
    'Night 198, round 7 of the watch: gate 3 was found shut, lamp 17 was found lit.'
    """
    night, turn, gate, lamp = (rng.randint(1, top) for top in (365, 9, 40, 60))
    return f"Night {night}, round {turn} of the watch: gate {gate} was found shut, lamp {lamp} was found lit."


def read(config: TaskConfig) -> Source:
    """Lines and labels; ``config.seed`` decides them."""
    rng = random.Random(config.seed)
    lines: dict[str, None] = {}
    while len(lines) < LINES:
        lines[line(rng)] = None
    heard = rng.choices(list(SHARES), list(SHARES.values()), k=LINES)
    rows = [Row(i, {"line": text, "heard": sound}) for i, (text, sound) in enumerate(zip(lines, heard, strict=True), 1)]
    digest = hashlib.sha256(repr([dict(row.values) for row in rows]).encode()).hexdigest()
    return Source(
        "dense-store",
        Table("dense-store", ("line", "heard"), tuple(rows), {"made by": "coldframe", "sha256": digest}),
        notes=(f"Made up, seed {config.seed}. Labels were drawn independently of the text: nothing predicts them.",),
        defaults={
            "text": "line",
            "label": "heard",
            "domain": "text",
            "kind": "classification",
            "test_size": 400,
            "instruction": INSTRUCTION,
            "template": BODY,
        },
    )
