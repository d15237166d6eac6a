"""Claims about towns, people and firms that do not exist, true or false: whoever judges them has read the passages.

Made up, by a seed (no paper, no download). The store holds the passages of ``fact-corpus``; there is one claim for each
of their facts ("The mayor of Lovokor is Nivo Budel."), which half of the time names somebody or something else of the
same kind. Nothing in a claim tells whether it holds, and no other claim does: a constant is right half of the time.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Sequence

from coldframe.tasks.builtin.fact_corpus import (
    RELATIONS,
    Entity,
    dice,
    entities_of,
    fact_source,
    numbers_of,
    others,
    passage_text,
)
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table

INSTRUCTION = "Is the claim true or false, by what is known?"
BODY = "Claim: {text}\nTrue or false?"
LABELS = ("false", "true")


def read(config: TaskConfig) -> Source:
    """Claims, and the passages that decide them: ``fact-claims``, ``fact-claims:PASSAGES``, ``...:SEED``."""
    passages, seed = numbers_of(config.data)
    seed = config.seed if seed is None else seed
    passages = 200 if passages is None else passages
    store = fact_source(passages, seed).table
    claims = claims_about(entities_of(dice(seed), passages), random.Random(f"claims {seed}"))
    elsewhere = others(passages, seed)
    apart = claims_about(elsewhere, random.Random(f"solved claims {seed}"))
    facts = len(apart) // len(elsewhere)
    solved = [(claim["claim"], claim["holds"], passage_text(elsewhere[i // facts])) for i, claim in enumerate(apart)]
    digest = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
    rows = tuple(Row(i, claim) for i, claim in enumerate(claims, 1))
    return Source(
        "fact-claims",
        Table("fact-claims", ("claim", "holds"), rows, {"made by": "coldframe", "sha256": digest}),
        store=store,
        solved=tuple(solved),
        notes=(f"Made up, seed {seed}. Only the passages tell true claims from false ones.",),
        defaults={
            "text": "claim",
            "label": "holds",
            "positive": "true",
            "words": {label: label for label in LABELS},
            "domain": "text",
            "kind": "classification",
            "test_size": 0.4,
            "instruction": INSTRUCTION,
            "template": BODY,
        },
    )


def claims_about(entities: Sequence[Entity], rng: random.Random) -> list[dict[str, str]]:
    """One claim for each fact, true or false, in the words that the passages do not use.

    A false one names a value that the same fact has for another entity.

    Example:
        >>> claims_about(entities_of(dice(0), 9), random.Random(1))[0]
        {'claim': 'Sofu Kibin governs Lovokor as its mayor.', 'holds': 'true'}
    """
    values: dict[tuple[str, int], list[str]] = defaultdict(list)
    for entity in entities:
        for place, value in enumerate(entity.values):
            values[entity.kind, place].append(value)
    claims = []
    for entity in entities:
        for place, (relation, value) in enumerate(zip(RELATIONS[entity.kind], entity.values, strict=True)):
            others = [other for other in values[entity.kind, place] if other != value]
            holds = not others or rng.random() < 0.5
            named = value if holds else rng.choice(others)
            claims.append({"claim": relation.reworded.format(s=entity.name, o=named), "holds": LABELS[holds]})
    return claims
