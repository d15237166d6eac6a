"""Anybody's pipeline: what each condition puts before the question, what is remembered, what is refused."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from coldframe.diagnosis.contexts import ContextSubject, Query
from coldframe.diagnosis.memory import Memory
from coldframe.diagnosis.queries import Case
from coldframe.diagnosis.subject import CONDITIONS, Subject
from coldframe.errors import ConfigError, DataError
from coldframe.tasks.task import Example

N = 24
TOWNS = ["Rome", "Oslo", "Lima", "Cairo", "Quito", "Bern"]
STORE = [f"Person {i} lives in\n{TOWNS[i * 5 % 6]}, near person {(i + 1) % N}." for i in range(N)]
QUERIES = [Query(f"Where does person {i} live?", TOWNS[i * 5 % 6], id=f"p{i}") for i in range(N)]


def number(text):
    return int(text.split()[3])


class Pipeline:
    """Retrieves the fact and the one after it; its loss is low if the fact is there, and it counts its calls."""

    def __init__(self):
        self.retrieved, self.asked = [], []

    def retrieve(self, text):
        self.retrieved.append(text)
        return [STORE[number(text)], STORE[(number(text) + 1) % N]]

    def loss(self, text, passages, answer):
        self.asked.append((text, passages, answer))
        return 0.5 + 0.01 * number(text) if STORE[number(text)] in passages else 2.0 + 0.01 * number(text)


def make(pipeline=None, **options):
    pipeline = pipeline or Pipeline()
    return ContextSubject(QUERIES, pipeline.retrieve, pipeline.loss, **options)


def passages(subject, condition, seed=0):
    return [case.passages for case in subject.cases(condition, seed)]


def test_it_is_a_subject():
    subject = make(store=STORE, oracle=lambda text: [STORE[number(text)]])
    assert isinstance(subject, Subject) and len(subject) == N and subject.groups is None
    assert set(subject.missing()) == {"swapped-conditioning", "gaussian", "mean"}
    for condition in set(CONDITIONS) - set(subject.missing()):
        losses = subject.losses(condition)
        assert losses.shape == (N,) and losses.dtype == np.float64
        assert [case.text for case in subject.cases(condition)] == [query.text for query in QUERIES]


def test_losses_are_those_of_the_pipeline():
    pipeline = Pipeline()
    subject = make(pipeline, store=STORE, oracle=lambda text: [STORE[number(text)]])
    own = 0.01 * np.arange(N)
    np.testing.assert_allclose(subject.losses("full"), 0.5 + own)
    np.testing.assert_allclose(subject.losses("oracle"), 0.5 + own)
    for condition in ("empty", "random", "shuffled"):
        np.testing.assert_allclose(subject.losses(condition), 2.0 + own)
    there = [STORE[i] in found for i, found in enumerate(passages(subject, "swapped"))]
    np.testing.assert_allclose(subject.losses("swapped"), np.where(there, 0.5, 2.0) + own)


def test_pairs_and_examples_are_queries_too():
    pairs = [(query.text, query.target) for query in QUERIES]
    examples = [Example(text, answer, f"row {i}", text) for i, (text, answer) in enumerate(pairs)]
    for queries in (pairs, examples):
        subject = ContextSubject(queries, Pipeline().retrieve, Pipeline().loss)
        np.testing.assert_array_equal(subject.losses("swapped"), make().losses("swapped"))


def test_a_score_is_a_loss_with_the_sign_turned():
    pipeline = Pipeline()
    subject = ContextSubject(QUERIES, pipeline.retrieve, score=lambda *case: -pipeline.loss(*case))
    assert subject.unit == "score"
    np.testing.assert_array_equal(subject.losses("swapped"), make().losses("swapped"))
    zero = ContextSubject(QUERIES, pipeline.retrieve, score=lambda *case: 0.0).losses("full")
    assert not np.signbit(zero).any()


def test_losses_in_batches_are_the_same():
    pipeline, sizes = Pipeline(), []

    def losses(cases):
        sizes.append(len(cases))
        return [pipeline.loss(*case) for case in cases]

    subject = ContextSubject(QUERIES, pipeline.retrieve, losses=losses)
    np.testing.assert_array_equal(subject.losses("swapped"), make().losses("swapped"))
    assert sizes == [N]


def test_swapped_is_a_derangement_without_equal_sets():
    # Two sets for 24 queries, in both orders: another query's passages may be the very same.
    def retrieve(text):
        found = STORE[:2] if number(text) % 3 else STORE[3:5]
        return found if number(text) % 2 else found[::-1]

    subject = ContextSubject(QUERIES, retrieve, lambda *case: 0.0)
    full = [frozenset(found) for found in subject.retrieved]
    assert sorted(Counter(full).values()) == [8, 16]
    for seed in range(5):
        swapped = [frozenset(found) for found in passages(subject, "swapped", seed)]
        assert sum(a == b for a, b in zip(full, swapped, strict=True)) == 8  # 2 * 16 - 24: the fewest possible
        assert Counter(full) == Counter(swapped)
    assert any("8 of 24 queries keep passages of theirs" in note for note in subject.notes)

    different = make()
    for seed in range(5):
        swapped = passages(different, "swapped", seed)
        assert Counter(swapped) == Counter(different.retrieved)
        assert not any(a == b for a, b in zip(swapped, different.retrieved, strict=True))


@pytest.mark.parametrize("store", [STORE * 2, None])
def test_random_passages_are_others(store):
    subject = make(store=store)
    for found, own in zip(passages(subject, "random"), subject.retrieved, strict=True):
        assert len(found) == len(set(found)) == len(own) == 2
        assert set(found) <= set(STORE) - set(own)
    assert len(set(passages(subject, "random"))) > N / 2
    assert any("No store was given" in note for note in subject.notes) == (store is None)


def test_random_takes_fewer_where_there_are_fewer():
    subject = ContextSubject(QUERIES, lambda text: STORE[:3], lambda *case: 0.0, store=STORE[:4])
    assert set(passages(subject, "random")) == {(STORE[3],)}


def test_fixed_is_one_retrieved_set_for_all():
    subject = make()
    sets = {passages(subject, "fixed", seed)[0] for seed in range(8)}
    assert len(set(passages(subject, "fixed"))) == 1
    assert len(sets) > 1 and sets <= set(subject.retrieved)


def test_shuffled_deals_out_the_words_anew():
    subject = make()
    new = dict(
        pair
        for own, found in zip(subject.retrieved, passages(subject, "shuffled"), strict=True)
        for pair in zip(own, found, strict=True)
    )
    assert set(new) == set(subject.pool) and set(new).isdisjoint(new.values())
    assert Counter(" ".join(new).split()) == Counter(" ".join(new.values()).split())
    for own, found in new.items():
        # Spaces and line breaks are where they were.
        assert ["\n" in gap for gap in own.split(" ")] == ["\n" in gap for gap in found.split(" ")]
        assert len(own.split()) == len(found.split())


@pytest.mark.parametrize("condition", ["swapped", "random", "fixed", "shuffled"])
def test_the_seed_decides_what_is_drawn(condition):
    subject = make(store=STORE)
    assert passages(subject, condition, 3) == passages(make(store=STORE), condition, 3)
    assert passages(subject, condition, 3) != passages(subject, condition, 4)


def test_nothing_is_asked_twice_but_a_few():
    pipeline = Pipeline()
    subject = make(pipeline)
    for _ in range(2):
        for condition in ("full", "empty", "swapped"):
            subject.losses(condition)
    assert len(pipeline.retrieved) == N
    counts = Counter(pipeline.asked)
    assert sorted(set(counts.values())) == [1, 2] and sum(count == 2 for count in counts.values()) == 8
    assert not [note for note in subject.notes if "deterministic" in note]


def test_noise_is_noticed_and_told():
    rng = np.random.default_rng(0)
    subject = ContextSubject(QUERIES, Pipeline().retrieve, lambda *case: float(rng.normal()))
    first = subject.losses("full")
    assert any("Not deterministic" in note and "8 queries" in note for note in subject.notes)
    np.testing.assert_array_equal(first, subject.losses("full"))


def test_what_was_measured_before_a_failure_is_kept():
    pipeline = Pipeline()
    patience = 7

    def loss(*case):
        if len(pipeline.asked) == patience:
            raise ConnectionError("the line is dead")
        return pipeline.loss(*case)

    subject = ContextSubject(QUERIES, pipeline.retrieve, loss)
    with pytest.raises(ConnectionError, match="the line is dead"):
        subject.losses("empty")
    patience = -1
    subject.losses("empty")
    assert len(pipeline.asked) == len(set(pipeline.asked)) == N


def test_losses_in_a_file_outlive_the_process(tmp_path):
    path, first, second, other = tmp_path / "deep" / "losses.jsonl", Pipeline(), Pipeline(), Pipeline()
    expected = make(first, resume=path).losses("empty")
    with path.open("a") as file:
        file.write('{"case": "cut o')  # as a crash leaves it
    np.testing.assert_array_equal(make(second, resume=path).losses("empty"), expected)
    assert len(first.asked) == N and not second.asked
    make(second, resume=path).losses("swapped")
    assert len(Memory(path)._losses) == 2 * N
    make(other, resume=path, model="another").losses("empty")
    assert len(other.asked) == N
    assert "Person" not in path.read_text()


def test_a_file_that_cannot_be_used_is_told(tmp_path):
    with pytest.raises(ConfigError, match="Cannot .* losses"):
        make(resume=tmp_path).losses("empty")


def test_order_and_passages_tell_cases_apart():
    memory = Memory()
    memory.update({Case("q", ("a", "b"), "x"): 1.0})
    for other in (("b", "a"), ("a",), ("a b",), ()):
        assert Case("q", other, "x") not in memory


def test_groups():
    queries = [Query(f"Question {i}?", "x", group=f"document {i // 4}" if i < 12 else "") for i in range(N)]
    groups = ContextSubject(queries, lambda text: ["p"], lambda *case: 0.0).groups
    assert groups[:12].tolist() == [i // 4 for i in range(12)]
    assert groups[12:].tolist() == list(range(3, 15))


def test_identical_passages_for_all_are_told():
    subject = ContextSubject(QUERIES, lambda text: STORE[:1], lambda *case: 1.0)
    assert any("All queries retrieved the same passages" in note for note in subject.notes)
    assert set(passages(subject, "swapped")) == {(STORE[0],)}
    assert {"random", "shuffled"} <= set(subject.missing())
    with pytest.raises(ConfigError, match="'random' cannot be run: there are no passages but"):
        subject.losses("random")


def test_a_query_without_passages_is_counted():
    subject = ContextSubject(QUERIES, lambda text: STORE[: number(text) % 2], lambda *case: 1.0)
    assert "12 of 24 queries retrieved nothing." in subject.notes
    assert set(passages(subject, "fixed")) == {(STORE[0],)}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("one text", "What retrieve returned for query p0 .* not a list of texts"),
        (None, "not a list of texts"),
        ([SimpleNamespace(page_content="text")], "SimpleNamespace.*page_content for document"),
        ([], "Nothing was retrieved for any query"),
    ],
)
def test_what_is_retrieved_is_checked(returned, message):
    subject = ContextSubject(QUERIES, lambda text: returned, lambda *case: 0.0)
    with pytest.raises(DataError, match=message):
        subject.losses("full")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"loss of query p5 \('Where does person 5 live\?'\) under 'empty' is not finite"),
        (float("inf"), "p5.*not finite"),
        (None, "p5.*not a number"),
        ("good", "p5.*not a number. Got: 'good'"),
    ],
)
@pytest.mark.parametrize("way", ["loss", "score"])
def test_an_unusable_loss_names_its_query(value, message, way):
    subject = ContextSubject(
        QUERIES, Pipeline().retrieve, **{way: lambda text, *rest: value if number(text) == 5 else 1.0}
    )
    with pytest.raises(DataError, match=message):
        subject.losses("empty")


@pytest.mark.parametrize(
    ("change", "message"), [(-1, "no loss for query p23 .*Got: 23 losses. Expected: 24"), (1, "more losses")]
)
def test_a_wrong_number_of_losses_is_told(change, message):
    subject = ContextSubject(QUERIES, Pipeline().retrieve, losses=lambda cases: [1.0] * (len(cases) + change))
    with pytest.raises(DataError, match=message):
        subject.losses("empty")


@pytest.mark.parametrize("queries", [[], QUERIES[:1]])
def test_too_few_queries_to_swap(queries):
    with pytest.raises(DataError, match="at least 2"):
        ContextSubject(queries, Pipeline().retrieve, Pipeline().loss)


def test_few_queries_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        ContextSubject(QUERIES[:10], Pipeline().retrieve, Pipeline().loss)
        assert not caplog.messages
        ContextSubject(QUERIES[:9], Pipeline().retrieve, Pipeline().loss)
    assert "9 queries are too few" in caplog.text


@pytest.mark.parametrize("text, answer", [("", "x"), ("x", " "), ("x", None)])
def test_empty_queries_are_refused(text, answer):
    with pytest.raises(DataError, match="is empty"):
        Query(text, answer)


def test_wrong_arguments():
    with pytest.raises(DataError, match=r"Pass Query\(text, answer\)"):
        ContextSubject([("a", "b"), ["c", "d"]], Pipeline().retrieve, Pipeline().loss)
    with pytest.raises(DataError, match="answer is empty"):
        ContextSubject([("a", "b"), ("c", "")], Pipeline().retrieve, Pipeline().loss)
    with pytest.raises(ConfigError, match="exactly one of loss, score and losses"):
        ContextSubject(QUERIES, Pipeline().retrieve)
    with pytest.raises(ConfigError, match="exactly one"):
        ContextSubject(QUERIES, Pipeline().retrieve, Pipeline().loss, score=Pipeline().loss)
    with pytest.raises(DataError, match="store is empty"):
        make(store=[])
    with pytest.raises(ConfigError, match="Did you mean 'swapped'"):
        make().losses("swap")
