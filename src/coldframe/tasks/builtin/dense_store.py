"""A log whose lines are all alike: the answer is in the store, and a constant is so much easier to learn.

Made up, by a seed (no paper, no download), after the source article's first cause of collapse, a dense store. Each row
is one line of a watchman's log, and the label is what he heard. What is heard depends on the gate alone, and about 25
lines tell of each gate, so whoever looks up the gate is always right. But lines differ in numbers only: to an encoder
every entry is as near as any other, and four numbers of which one matters hide the entry that answers. A static prompt
learns the shares of the labels at once, and reaches their entropy, 0.94 nats; reading the store would reach 0.
"""

from __future__ import annotations

import hashlib
import random

from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table

LINES = 1_000
GATES = {"rain": 4, "music": 4, "silence": 28, "thunder": 4}
"""Label to the number of gates at which it is heard; each is one token of SmolLM2 after a space."""
SHARES = {sound: gates / sum(GATES.values()) for sound, gates in GATES.items()}
"""Label to its share of the rows, in expectation."""

INSTRUCTION = f"What did the watchman hear? Answer with one of: {', '.join(GATES)}."
BODY = "{text}\nHeard:"


def line(rng: random.Random) -> tuple[str, int]:
    """One line of the log, and its gate.

    >>> line(random.Random(0))
    ('Night 198, round 7 of the watch: gate 3 was found shut, lamp 17 was found lit.', 3)
    """
    night, turn, gate, lamp = (rng.randint(1, top) for top in (365, 9, sum(GATES.values()), 60))
    return f"Night {night}, round {turn} of the watch: gate {gate} was found shut, lamp {lamp} was found lit.", gate


def read(config: TaskConfig) -> Source:
    """Lines and labels; ``config.seed`` decides them."""
    rng = random.Random(config.seed)
    lines: dict[str, int] = {}
    while len(lines) < LINES:
        text, gate = line(rng)
        lines[text] = gate
    sounds = [sound for sound, gates in GATES.items() for _ in range(gates)]
    rng.shuffle(sounds)
    rows = [Row(i, {"line": text, "heard": sounds[gate - 1]}) for i, (text, gate) in enumerate(lines.items(), 1)]
    digest = hashlib.sha256(repr([dict(row.values) for row in rows]).encode()).hexdigest()
    return Source(
        "dense-store",
        Table("dense-store", ("line", "heard"), tuple(rows), {"made by": "coldframe", "sha256": digest}),
        notes=(f"Made up, seed {config.seed}. The gate alone decides the label; the other numbers say nothing.",),
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
