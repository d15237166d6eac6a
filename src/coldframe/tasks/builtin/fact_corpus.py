"""Passages about towns, people and firms that do not exist: whoever answers has read them.

Made up, by a seed (no paper, no download). Every passage states three facts about one entity: an attribute, another
one, and a link to another entity of the corpus. It brings its own augmentation, the same facts in other words with
one question for each; the questions to be answered ask for the same facts in yet other words, or for two facts in a
row ("Which instrument does the mayor of Lovokor play?"). Attributes are dealt out at random, so a model that has not
read the passage can only guess, and a passage of the same kind says the same words about somebody else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from typing import Any, NamedTuple

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.table import Row, Table
from coldframe.tasks.task import Passage

CONSONANTS, VOWELS, ENDS = "bdfgklmnprstvz", "aeiou", "lnrs"
ANIMALS = (
    "badger bear beaver boar crane crow deer dolphin eagle falcon fox goat hare heron horse lion lynx otter owl "
    "peacock pike ram raven salmon seal stork swan tiger turtle whale wolf"
)
INSTRUMENTS = (
    "accordion banjo bassoon bugle cello clarinet cornet drum fiddle flute gong guitar harmonica harp horn lute "
    "lyre mandolin oboe organ piano piccolo saxophone tambourine trombone trumpet tuba viola violin zither"
)
TRADES = (
    "baker barber brewer butcher carpenter chemist cobbler cook dentist fisherman gardener glazier hunter "
    "jeweller lawyer locksmith mason miller miner nurse painter pilot plumber potter printer saddler sailor "
    "shepherd tailor weaver"
)
GOODS = (
    "anchors baskets bells bicycles blankets bottles boots bricks brushes buttons candles carpets chairs clocks "
    "combs cups gloves hats kettles knives ladders lamps locks mirrors needles paper pencils ropes saws scissors "
    "soap tents"
)


SOLVED = 200
"""Most passages of the corpus that solved examples are about."""


class Relation(NamedTuple):
    """A fact that an entity of some kind has; ``{s}`` is who it is about, ``{o}`` the answer."""

    values: str  # a list of words, "years", or the kind of entity that it links to
    sentence: str
    reworded: str
    trained: str
    tested: str
    phrase: str = ""  # stands for the answer of a link in a question of two facts


RELATIONS: dict[str, tuple[Relation, Relation, Relation]] = {
    "town": (
        Relation(
            "person",
            "The mayor of {s} is {o}.",
            "{o} governs {s} as its mayor.",
            "Who is the mayor of {s}?",
            "What is the name of the mayor who governs {s}?",
            "the mayor of {s}",
        ),
        Relation(
            ANIMALS,
            "The animal on the coat of arms of {s} is the {o}.",
            "The coat of arms of {s} shows the {o}.",
            "Which animal is on the coat of arms of {s}?",
            "What animal does the coat of arms of {s} show?",
        ),
        Relation(
            "years",
            "{s} was founded in {o}.",
            "The year {o} saw the founding of {s}.",
            "In which year was {s} founded?",
            "When was {s} founded?",
        ),
    ),
    "person": (
        Relation(
            "town",
            "{s} was born in {o}.",
            "The birthplace of {s} is {o}.",
            "Where was {s} born?",
            "What is the birthplace of {s}?",
            "the town where {s} was born",
        ),
        Relation(
            INSTRUMENTS,
            "{s} plays the {o}.",
            "The {o} is the instrument of {s}.",
            "Which instrument does {s} play?",
            "What instrument is played by {s}?",
        ),
        Relation(
            TRADES,
            "{s} works as a {o}.",
            "By trade {s} is a {o}.",
            "What is the trade of {s}?",
            "As what does {s} work?",
        ),
    ),
    "firm": (
        Relation(
            "person",
            "{s} was set up by {o}.",
            "{o} is the founder of {s}.",
            "Who set up {s}?",
            "What is the name of the founder of {s}?",
            "the founder of {s}",
        ),
        Relation(
            GOODS,
            "{s} makes {o}.",
            "The goods that leave the works of {s} are {o}.",
            "What does {s} make?",
            "Which goods come from {s}?",
        ),
        Relation(
            "years",
            "{s} opened its works in {o}.",
            "Work at {s} began in {o}.",
            "In which year did {s} open its works?",
            "When did {s} begin to work?",
        ),
    ),
}


class Entity(NamedTuple):
    """A town, a person or a firm, and the values of its facts."""

    kind: str
    name: str
    values: tuple[str, str, str]  # in the order of its relations


def read(config: TaskConfig) -> Source:
    """Passages and questions of a name such as ``fact-corpus``, ``fact-corpus:40`` or ``fact-corpus:40:7``.

    The numbers are passages and seed; without the second, ``config.seed`` decides the facts.
    """
    passages, seed = numbers_of(config.data)
    passages, seed = 200 if passages is None else passages, config.seed if seed is None else seed
    # All passages of the corpus itself are asked about.
    solved = [
        (qa["question"], qa["answer"], passage_text(e)) for e in others(passages, seed) for qa in _passage(e)["qa"]
    ]
    return dataclasses.replace(fact_source(passages, seed), solved=tuple(solved))


def numbers_of(name: str) -> tuple[int | None, int | None]:
    """Passages and seed of a name; None for what it does not say.

    >>> numbers_of("fact-corpus"), numbers_of("fact-corpus:40:7")
    ((None, None), (40, 7))
    """
    _, *numbers = name.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"{name!r} is no name of a fact corpus", expected="fact-corpus[:PASSAGES[:SEED]]")
    passages, seed = (*map(int, numbers), None, None)[:2]
    return passages, seed


def fact_source(passages: int = 200, seed: int = 0, *, distractors: int = 0, two_facts: bool = True) -> Source:
    r"""A corpus of invented facts, the same for the same arguments.

    Args:
        passages: Entities that are asked about, at least 3; one passage each.
        seed: Of names and facts.
        distractors: Further passages of the same kinds that nothing is asked about.
        two_facts: Also ask one question for each passage that takes a second passage to answer.

    Raises:
        ConfigError: There are too few passages.

    Example:
        >>> source = fact_source(6)
        >>> print(source.table.rows[0].values["text"].replace(". ", ".\n"))
        The mayor of Lovokor is Nivo Budel.
        The animal on the coat of arms of Lovokor is the owl.
        Lovokor was founded in 1894.
        >>> [row.values["question"] for row in source.questions.rows if row.values["hops"] == 2][0]
        'What instrument is played by the mayor of Lovokor?'
    """
    check(passages >= 3, "A fact corpus needs an entity of each kind", got=passages, expected="passages >= 3")
    check(distractors >= 0, "There cannot be fewer than no distractors", got=distractors)
    rng = dice(seed)
    entities = entities_of(rng, passages + distractors)
    questions = [question for entity in entities[:passages] for question in _one_fact(entity)]
    if two_facts:
        by_name = {entity.name: entity for entity in entities}
        questions += [_two_facts(entity, by_name, rng) for entity in entities[:passages]]
    rows = [_passage(entity) for entity in entities]
    name = f"fact-corpus-{passages}" + (f"+{distractors}" if distractors else "")
    digest = hashlib.sha256(json.dumps([rows, questions]).encode()).hexdigest()
    origin = {"made by": "coldframe", "name": name, "sha256": digest}
    return Source(
        name,
        Table(name, tuple(rows[0]), tuple(Row(i, row) for i, row in enumerate(rows, 1)), origin),
        notes=(f"Made up, seed {seed}: no model can know these facts before it has read them.",),
        questions=Table(name, tuple(questions[0]), tuple(Row(i, row) for i, row in enumerate(questions, 1)), origin),
    )


def dice(seed: int) -> random.Random:
    """What decides the facts of a seed."""
    return random.Random(f"facts {seed}")


def entities_of(rng: random.Random, count: int) -> list[Entity]:
    """Entities with their facts, kinds in turn; links lead to entities among them."""
    kinds = [list(RELATIONS)[i % len(RELATIONS)] for i in range(count)]
    names: dict[str, None] = {}
    for kind in kinds:
        while (name := _name(rng, kind)) in names:
            pass
        names[name] = None
    listed = list(names)
    of_kind = {kind: [n for n, k in zip(listed, kinds, strict=True) if k == kind] for kind in RELATIONS}
    entities = []
    for kind, name in zip(kinds, listed, strict=True):
        values = []
        for relation in RELATIONS[kind]:
            if relation.values == "years":
                values.append(str(rng.randint(1100, 1899)))
            else:
                values.append(rng.choice(of_kind.get(relation.values) or relation.values.split()))
        entities.append(Entity(kind, name, (values[0], values[1], values[2])))
    return entities


def others(passages: int, seed: int) -> list[Entity]:
    """Entities of another seed that are not called like any of this one: solved examples are about them."""
    names = {entity.name for entity in entities_of(dice(seed), passages)}
    return [entity for entity in entities_of(dice(seed + 1), min(passages, SOLVED)) if entity.name not in names]


def passage_text(entity: Entity) -> str:
    """An entity's passage as it stands in a prompt."""
    passage = _passage(entity)
    return Passage.of(passage["text"], passage["title"]).text


def _name(rng: random.Random, kind: str) -> str:
    def syllables(count: int) -> str:
        return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(count))

    if kind == "person":
        return f"{syllables(2).capitalize()} {(syllables(2) + rng.choice(ENDS)).capitalize()}"
    name = (syllables(3) + rng.choice(ENDS)).capitalize()
    return f"{name} Works" if kind == "firm" else name


def _passage(entity: Entity) -> dict[str, Any]:
    """Title, text, the same facts in other words, and a question for each."""
    facts = list(zip(RELATIONS[entity.kind], entity.values, strict=True))
    sentences = [relation.sentence.format(s=entity.name, o=value) for relation, value in facts]
    return {
        "title": entity.name,
        "text": " ".join(sentences),
        "rewrite": " ".join(relation.reworded.format(s=entity.name, o=value) for relation, value in reversed(facts)),
        "qa": [
            {"question": relation.trained.format(s=entity.name), "answer": value, "full_answer": sentence}
            for (relation, value), sentence in zip(facts, sentences, strict=True)
        ],
    }


def _one_fact(entity: Entity) -> list[dict[str, Any]]:
    facts = zip(RELATIONS[entity.kind], entity.values, strict=True)
    return [_question(r.tested.format(s=entity.name), value, [entity.name]) for r, value in facts]


def _two_facts(entity: Entity, by_name: dict[str, Entity], rng: random.Random) -> dict[str, Any]:
    """Over the entity's link: a fact about the entity that it leads to."""
    link, other = RELATIONS[entity.kind][0], by_name[entity.values[0]]
    place = rng.randrange(3)
    relation, answer = RELATIONS[other.kind][place], other.values[place]
    question = relation.tested.format(s=link.phrase.format(s=entity.name))
    return _question(question, answer, [entity.name, other.name])


def _question(question: str, answer: str, titles: list[str]) -> dict[str, Any]:
    return {"question": question, "answer": answer, "passages": titles, "hops": len(titles)}
