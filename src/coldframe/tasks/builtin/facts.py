"""Facts about places that do not exist: the answer is in the store and nowhere else.

Made up, by a seed (no paper, no download). Every place has a flag of one of eight colours. The store is a list of its
own, with one entry for each place; a query asks for the flag of one place. Colours are dealt out at random and
equally often, and no place is asked about in more than one of train, validation and test: neither the query nor
what was learned about other places tells the colour. A method that beats 1 in 8 on test queries has read the store.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table

PLACES = 1_000
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "purple", "orange")
"""Each is one token of SmolLM2 after a space."""

INSTRUCTION = f"Answer with one of: {', '.join(COLOURS)}."
BODY = "{text}\nColour:"
QUERY, ENTRY = "Which colour is the flag of {}?", "The flag of {}"
CONSONANTS, VOWELS, ENDS = "bdfgklmnprstvz", "aeiou", "lnrs"


def place(rng: random.Random) -> str:
    """The name of a place, of three syllables.

    >>> place(random.Random(0))
    'Zovobis'
    """
    return ("".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(3)) + rng.choice(ENDS)).capitalize()


def facts(rng: random.Random, count: int = PLACES) -> list[tuple[str, str]]:
    """Places, all different, each with the colour of its flag; all colours equally often."""
    places: dict[str, None] = {}
    while len(places) < count:
        places[place(rng)] = None
    colours = [COLOURS[i % len(COLOURS)] for i in range(count)]
    rng.shuffle(colours)
    return list(zip(places, colours, strict=True))


def read(config: TaskConfig) -> Source:
    """Queries, and the store that answers them; ``config.seed`` decides names and colours."""
    flags = facts(random.Random(config.seed))
    digest = hashlib.sha256(repr(flags).encode()).hexdigest()
    queries, entries = (_table(name, form, flags, digest) for name, form in (("facts", QUERY), ("entries", ENTRY)))
    return Source(
        "facts",
        queries,
        store=entries,
        notes=(
            f"Made up, seed {config.seed}. The store has {PLACES:,} entries and answers test queries: that is what is "
            "tested. No place is asked about both in train and in test.",
        ),
        defaults={
            "text": "text",
            "label": "colour",
            "domain": "text",
            "kind": "classification",
            "test_size": 400,
            "instruction": INSTRUCTION,
            "template": BODY,
        },
    )


def _table(name: str, form: str, flags: Sequence[tuple[str, str]], digest: str) -> Table:
    rows = (Row(i, {"text": form.format(place), "colour": colour}) for i, (place, colour) in enumerate(flags, start=1))
    return Table(name, ("text", "colour"), tuple(rows), {"made by": "coldframe", "sha256": digest})
