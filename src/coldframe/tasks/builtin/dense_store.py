"""A watchman's log whose lines are all alike: two tasks on it, one that a store answers and one that nothing does.

Made up, by a seed (no paper, no download). Each row is one line of the log, and the label is what was heard. Lines
differ in numbers only: their MiniLM vectors have a cosine of 0.89 on average. Labels are drawn independently of the
text, with fixed shares, which a static prompt can learn: its loss is their entropy, 0.94 nats.

- ``dense-store``: rows are lines of other nights, so that nothing does better than the static prompt.
- ``dense-answers``: the store holds every line with what was heard, and a query asks about one of them. MiniLM finds
  the right line first in 999 of 1,000 cases, so that reading it would bring the loss to 0: retrieval could help,
  and the question is whether training learns to let it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table

LINES = 1_000
SHARES = {"rain": 0.1, "music": 0.1, "silence": 0.7, "thunder": 0.1}
"""Label to its share of the rows; each is one token of SmolLM2 after a space."""

QUERY = "What was heard in night {}, round {} of the watch, at gate {} and lamp {}?"
ENTRY = "Night {}, round {} of the watch: gate {} was found shut, lamp {} was found lit."
INSTRUCTION = f"What did the watchman hear? Answer with one of: {', '.join(SHARES)}."
BODY = "{text}\nHeard:"


def line(rng: random.Random) -> str:
    """One line of the log.

    >>> line(random.Random(0))
    'Night 198, round 7 of the watch: gate 3 was found shut, lamp 17 was found lit.'
    """
    return ENTRY.format(*_numbers(rng))


def _numbers(rng: random.Random) -> tuple[int, ...]:
    """Night, round, gate and lamp."""
    return tuple(rng.randint(1, top) for top in (365, 9, 40, 60))


def read(config: TaskConfig) -> Source:
    """Lines and labels; ``config.seed`` decides them."""
    rng = random.Random(config.seed)
    nights: dict[tuple[int, ...], None] = {}
    while len(nights) < LINES:
        nights[_numbers(rng)] = None
    heard = rng.choices(list(SHARES), list(SHARES.values()), k=LINES)
    lines, queries = (
        _table(config.data, [(form.format(*night), sound) for night, sound in zip(nights, heard, strict=True)])
        for form in (ENTRY, QUERY)
    )
    answered = config.data == "dense-answers"
    return Source(
        config.data,
        queries if answered else lines,
        store=lines if answered else None,
        notes=(
            f"Made up, seed {config.seed}. Labels were drawn independently of the text: nothing predicts them"
            + (
                f" but the line itself, one of {LINES:,} in the store, which answers test queries too."
                if answered
                else "."
            ),
        ),
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


def _table(name: str, rows: Sequence[tuple[str, str]]) -> Table:
    values = [{"line": text, "heard": sound} for text, sound in rows]
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    cells = tuple(Row(i, value) for i, value in enumerate(values, start=1))
    return Table(name, ("line", "heard"), cells, {"made by": "coldframe", "sha256": digest})
