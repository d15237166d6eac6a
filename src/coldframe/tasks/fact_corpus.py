"""Passages about towns, people and firms that do not exist: whoever answers has read them.

Made up, by a seed (no paper, no download). Every passage states three facts about one entity: an attribute, another
one, and a link to another entity of the corpus. It brings its own augmentation, the same facts in other words with
one question for each; the questions to be answered ask for the same facts in yet other words, or for two facts in a
row ("Which instrument does the mayor of Lovokor play?"). Attributes are dealt out at random, so a model that has not
read the passage can only guess, and a passage of the same kind says the same words about somebody else.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple

from coldframe.config import check
from coldframe.tasks.corpus import QA, Augmentation, Corpus, Passage, Question, source_of

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


class Relation(NamedTuple):
    """A fact that an entity of some kind has; ``{s}`` is who it is about, ``{o}`` the answer."""

    values: str  # a list of words, "years", or the kind of entity that it links to
    sentence: str
    reworded: str
    trained: str
    asked: str
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


@dataclasses.dataclass(frozen=True)
class FactCorpus:
    """A corpus, and the questions that it answers."""

    corpus: Corpus
    questions: tuple[Question, ...]


class _Entity(NamedTuple):
    kind: str
    name: str
    values: tuple[str, str, str]  # in the order of its relations


def fact_corpus(passages: int = 200, seed: int = 0, *, distractors: int = 0, two_facts: bool = True) -> FactCorpus:
    r"""A corpus of invented facts, the same for the same arguments.

    Args:
        passages: Entities that are asked about, at least 3; one passage each.
        seed: Of names and facts.
        distractors: Further passages of the same kinds that nothing is asked about.
        two_facts: Also ask one question for each passage that takes a second passage to answer.

    Example:
        >>> found = fact_corpus(6)
        >>> print(found.corpus.passages[0].text.replace(". ", ".\n"))
        The mayor of Lovokor is Nivo Budel.
        The animal on the coat of arms of Lovokor is the owl.
        Lovokor was founded in 1894.
        >>> [question.text for question in found.questions if question.hops == 2][0]
        'What instrument is played by the mayor of Lovokor?'
    """
    check(passages >= 3, "A fact corpus needs an entity of each kind", got=passages, expected="passages >= 3")
    check(distractors >= 0, "There cannot be fewer than no distractors", got=distractors)
    rng = random.Random(f"facts {seed}")
    entities = _entities(rng, passages + distractors)
    texts = [_passage(entity) for entity in entities]
    given = {passage.id: _augmentation(entity) for passage, entity in zip(texts, entities, strict=True)}
    ids = {entity.name: passage.id for entity, passage in zip(entities, texts, strict=True)}
    questions = [one for entity in entities[:passages] for one in _one_fact(entity, ids)]
    if two_facts:
        by_name = {entity.name: entity for entity in entities}
        questions += [_two_facts(entity, by_name, ids, rng) for entity in entities[:passages]]
    notes = (f"Made up, seed {seed}: no model can know these facts before it has read them.",)
    name = f"fact-corpus-{passages}" + (f"+{distractors}" if distractors else "")
    return FactCorpus(Corpus(name, tuple(texts), given, notes, source_of(name, texts)), tuple(questions))


def _entities(rng: random.Random, count: int) -> list[_Entity]:
    kinds = [list(RELATIONS)[i % len(RELATIONS)] for i in range(count)]
    names: dict[str, None] = {}
    for kind in kinds:
        while (name := _name(rng, kind)) in names:
            pass
        names[name] = None
    listed = list(names)
    of_kind = {kind: [n for n, k in zip(listed, kinds, strict=True) if k == kind] for kind in RELATIONS}
    found = []
    for kind, name in zip(kinds, listed, strict=True):
        values = []
        for relation in RELATIONS[kind]:
            if relation.values == "years":
                values.append(str(rng.randint(1100, 1899)))
            else:
                values.append(rng.choice(of_kind.get(relation.values) or relation.values.split()))
        found.append(_Entity(kind, name, (values[0], values[1], values[2])))
    return found


def _name(rng: random.Random, kind: str) -> str:
    def syllables(count: int) -> str:
        return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(count))

    if kind == "person":
        return f"{syllables(2).capitalize()} {(syllables(2) + rng.choice(ENDS)).capitalize()}"
    name = (syllables(3) + rng.choice(ENDS)).capitalize()
    return f"{name} Works" if kind == "firm" else name


def _passage(entity: _Entity) -> Passage:
    facts = zip(RELATIONS[entity.kind], entity.values, strict=True)
    return Passage.of(" ".join(r.sentence.format(s=entity.name, o=value) for r, value in facts), entity.name)


def _augmentation(entity: _Entity) -> Augmentation:
    facts = list(zip(RELATIONS[entity.kind], entity.values, strict=True))
    rewrite = " ".join(r.reworded.format(s=entity.name, o=value) for r, value in reversed(facts))
    qa = tuple(
        QA(r.trained.format(s=entity.name), value, r.sentence.format(s=entity.name, o=value)) for r, value in facts
    )
    return Augmentation(rewrite, qa)


def _one_fact(entity: _Entity, ids: dict[str, str]) -> list[Question]:
    facts = zip(RELATIONS[entity.kind], entity.values, strict=True)
    return [Question.of(r.asked.format(s=entity.name), [value], [ids[entity.name]]) for r, value in facts]


def _two_facts(entity: _Entity, by_name: dict[str, _Entity], ids: dict[str, str], rng: random.Random) -> Question:
    """Over the entity's link: a fact about the entity that it leads to."""
    link, other = RELATIONS[entity.kind][0], by_name[entity.values[0]]
    place = rng.randrange(3)
    relation, answer = RELATIONS[other.kind][place], other.values[place]
    asked = relation.asked.format(s=link.phrase.format(s=entity.name))
    return Question.of(asked, [answer], [ids[entity.name], ids[other.name]], hops=2)


def as_asked(spec: str) -> tuple[int, int] | None:
    """Passages and seed of a spec such as ``fact-corpus``, ``fact-corpus:40`` or ``fact-corpus:40:7``; None for others.

    >>> as_asked("fact-corpus:40"), as_asked("passages.jsonl")
    ((40, 0), None)
    """
    name, *numbers = spec.split(":")
    if name != "fact-corpus" or len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        return None
    passages, seed = (*map(int, numbers), *(200, 0)[len(numbers) :])
    return passages, seed


def spread(questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    """``count`` of the questions, evenly over their order: the same ones every time.

    Passages have several questions in a row, each of another kind. So where the step is a whole number the place within
    it moves on: else all questions were of one kind.

    >>> [question.text for question in spread([Question.of(str(i), ["x"]) for i in range(10)], 3)]
    ['0', '3', '6']
    >>> [question.text for question in spread([Question.of(str(i), ["x"]) for i in range(9)], 3)]
    ['0', '4', '8']
    """
    if count >= len(questions):
        return tuple(questions)
    step, rest = divmod(len(questions), count)
    return tuple(questions[i * len(questions) // count + (0 if rest else i % step)] for i in range(count))
