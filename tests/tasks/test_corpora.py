"""A corpus is a task: passages are its store, questions about them its training rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coldframe.errors import ConfigError, DataError
from coldframe.tasks import load_task
from coldframe.tasks.builtin.fact_corpus import RELATIONS, fact_source
from coldframe.tasks.corpora import build_corpus, spread
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.passages import read_passages, write_passages
from coldframe.tasks.questions import read_questions, write_questions
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import Problems, Row, Table
from coldframe.tasks.task import Example, Passage, Task


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def passages_in(task: Task) -> list[Passage]:
    return [entry for entry in task.store or () if isinstance(entry, Passage)]


QA = [{"question": "Who?", "answer": ["Ada", "A."], "full_answer": "It is Ada."}]


def test_a_corpus_and_its_questions_are_a_task(tmp_path: Path) -> None:
    corpus = written(
        tmp_path / "towns.jsonl",
        {"title": "Ball", "text": "Ada is red.", "rewrite": "Red is Ada.", "qa": QA},
        {"title": "Box", "text": "It is blue."},
    )
    questions = written(
        tmp_path / "qa.jsonl", {"question": "Who is red?", "answers": ["Ada"], "passages": "Ball", "hops": 2, "id": 7}
    )
    task = load_task(corpus, questions=questions)
    ball, box = passages_in(task)
    assert (ball.title, ball.body, ball.rewrite) == ("Ball", "Ada is red.", "Red is Ada.")
    assert ball.text == "Ball: Ada is red."
    assert box.id == box.key == Passage.of("It is blue.", "Box").id and box.row == 2
    (trained,) = task.train
    assert (trained.text, trained.target, trained.references, trained.gold) == ("Who?", "Ada", ("A.",), (ball.id,))
    assert trained.full_target == "It is Ada."
    (test,) = task.test
    assert (test.id, test.text, test.target, test.gold, test.hops) == ("7", "Who is red?", "Ada", (ball.id,), 2)
    assert (task.schema.kind, task.schema.metric, task.schema.name) == ("generation", "token_f1", "towns")
    assert task.schema.template.query("Who?") == "Question: Who?\nAnswer:" and task.schema.template.end == "\n"
    assert task.source["questions_file"] == "qa.jsonl"
    again = load_task(TaskConfig.from_dict(json.loads(json.dumps(dict(task.options)))))
    assert again == task


def test_a_corpus_alone_is_a_task_without_test_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("title,text\nParis,It lies on the Seine.\nRome,It is old.\n")
    task = load_task(tmp_path / "a.csv")
    assert len(passages_in(task)) == 2 and not task.train and not task.test
    assert any("questions='FILE'" in note for note in task.notes)


def test_options_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,what\nParis,It lies on the Seine.\n")
    (tmp_path / "q.tsv").write_text("question\tanswer\nWhere?\tParis\n")
    options = {"text": "what", "title": "name", "questions": tmp_path / "q.tsv", "metric": "exact_match"}
    task = load_task(tmp_path / "a.csv", **options, template="Q: {text}\\nA:", end="<end of turn>")
    assert passages_in(task)[0].text == "Paris: It lies on the Seine."
    assert task.schema.template.query("Where?") == "Q: Where?\nA:" and task.schema.template.end == "<end of turn>"
    assert task.schema.metric == "exact_match"
    for wrong in ({"label": "name"}, {"test": tmp_path / "q.tsv"}, {"kind": "classification"}, {"metric": "accuracy"}):
        with pytest.raises(ConfigError):
            load_task(tmp_path / "a.csv", **{**options, **wrong})


def test_own_ids_are_kept_and_name_passages(tmp_path: Path) -> None:
    corpus = written(
        tmp_path / "c.jsonl",
        {"id": "doc-1", "title": "Springfield", "text": "A town in Illinois."},
        {"id": "doc-2", "title": "Springfield", "text": "A town in Ohio."},
        {"id": "doc-3", "title": "Springfield", "text": "A town in Ohio."},
    )
    question = {"question": "Where is it?", "answer": "Ohio", "passages": ["doc-3"]}
    task = load_task(corpus, questions=written(tmp_path / "q.jsonl", question))
    assert [passage.id for passage in passages_in(task)] == ["doc-1", "doc-2"]
    assert task.test[0].gold == ("doc-2",), "the passage that was left out is the same as doc-2"
    twice = written(tmp_path / "d.jsonl", {"id": "a", "text": "one"}, {"id": "a", "text": "two"})
    with pytest.raises(DataError, match=r"d\.jsonl, row 2: the id 'a' is that of the passage in row 1"):
        load_task(twice)


def test_passages_given_with_a_question_are_its_own(tmp_path: Path) -> None:
    corpus = written(tmp_path / "c.jsonl", {"title": "It", "text": "It is old.", "qa": QA})
    own = {"question": "Where?", "answers": ["Rome"], "passages": [{"title": "It", "text": "It is in Rome."}]}
    known = {"question": "When?", "answer": "old", "contexts": ["It is new.", {"title": "It", "text": "It is old."}]}
    whole = {"question": "Who?!", "answer": "Ada"}
    task = load_task(corpus, questions=written(tmp_path / "q.jsonl", own, known, whole))
    old, rome, new = passages_in(task)
    assert [question.contexts for question in task.test] == [(rome.id,), (new.id, old.id), None]


def test_empty_passages_are_told_and_repeated_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tid\nred\t1\n \t2\nred\t3\nblue\t4\nblue\t5\n")
    with pytest.raises(DataError, match=r"a\.tsv, row 3: the passage is empty"):
        load_task(path)
    task = load_task(path, on_error="skip")
    assert [passage.text for passage in passages_in(task)] == ["red", "blue"]
    assert any("Skipped 1" in note and "row 3" in note for note in task.notes)
    assert any("Left out 2" in note and "row 4 (the same as row 2)" in note for note in task.notes)
    with pytest.raises(DataError, match="no column 'body'"):
        load_task(path, text="body")


def test_questions_that_come_along_are_checked(tmp_path: Path) -> None:
    for wrong in ([{"question": "Who?"}], ["Who?"], []):
        with pytest.raises(DataError, match=r"row 1: .*qa"):
            load_task(written(tmp_path / "b.jsonl", {"text": "Ada is red.", "qa": wrong}))


def test_bad_questions_are_told(tmp_path: Path) -> None:
    passages = [Passage.of("Ada is red.", "Ada"), Passage.of("Eve is tall.", "Eve"), Passage.of("Eve is old.", "Eve")]
    write_passages(tmp_path / "c.jsonl", passages)
    rows = [
        ({"question": "Who?", "answer": "", "passages": "Ada"}, "the label is empty"),
        ({"question": " ", "answer": "Ada", "passages": "Ada"}, "the text is empty"),
        ({"question": "Who?", "answer": "Ada", "passages": ["Bo"]}, "no passage 'Bo'"),
        ({"question": "Who?", "answer": "Eve", "passages": "Eve"}, "2 passages have the title 'Eve'"),
        ({"question": "Who?", "answer": "Ada", "hops": "two"}, "hops"),
        ({"question": "Who?", "answer": "Ada", "contexts": [{"title": "It"}]}, "a passage is empty"),
    ]
    for row, problem in rows:
        with pytest.raises(DataError, match=rf"q\.jsonl, row 1: .*{problem}"):
            load_task(tmp_path / "c.jsonl", questions=written(tmp_path / "q.jsonl", row))
    with pytest.raises(DataError, match="no column 'answer'"):
        load_task(tmp_path / "c.jsonl", questions=written(tmp_path / "q.jsonl", {"question": "Who?"}))
    good = {"question": "Who?", "answer": ["Ada", "A."], "passages": "Ada"}
    bad_and_good = written(tmp_path / "q.jsonl", rows[0][0], good)
    task = load_task(tmp_path / "c.jsonl", questions=bad_and_good, on_error="skip")
    assert [(row.target, row.references, row.gold) for row in task.test] == [("Ada", ("A.",), (passages[0].id,))]
    assert any("Skipped 1" in note for note in task.notes)


def test_validation_questions_are_held_out_and_every_passage_keeps_one() -> None:
    task = load_task("fact-corpus:20", validation_size=0.6)
    assert len(task.validation) == 36 and len(task.train) == 24
    assert {row.gold for row in task.train} == {(passage.id,) for passage in passages_in(task)}
    assert task.validation != load_task("fact-corpus:20:0", validation_size=0.6, seed=1).validation
    assert load_task("fact-corpus:20", validation_size=0).validation == ()
    assert len(load_task("fact-corpus:20", validation_size=50).validation) == 40, "no more can be spared"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    task = load_task("fact-corpus:5:3", validation_size=0)
    passages = passages_in(task)
    write_passages(tmp_path / "c.jsonl", passages, task.train)
    own = Passage.of("It is new.")
    questions = (*task.test, Example("Is it?", "Yes", "own", "k", contexts=(own.id, passages[0].id)))
    write_questions(tmp_path / "q.jsonl", questions, {passage.id: passage for passage in (own, *passages)})
    again = load_task(tmp_path / "c.jsonl", questions=tmp_path / "q.jsonl", validation_size=0)
    assert [(p.id, p.text, p.rewrite) for p in passages] == [(p.id, p.text, p.rewrite) for p in passages_in(again)[:-1]]

    def content(rows: tuple[Example, ...]) -> list[object]:
        return [(r.id, r.text, r.target, r.references, r.gold, r.hops, r.contexts, r.full_target) for r in rows]

    assert content(again.train) == content(task.train) and content(again.test) == content(questions)


def test_facts_are_the_same_by_seed_and_stand_in_their_passages() -> None:
    config = TaskConfig("fact-corpus", validation_size=0)
    task = build_corpus(fact_source(30, 1, distractors=6), config, Problems())
    assert task.store == build_corpus(fact_source(30, 1, distractors=6), config, Problems()).store
    assert task.store is not None and task.store[:30] != load_task("fact-corpus:30").store
    assert load_task("fact-corpus:30:1").store == load_task("fact-corpus:30", seed=1).store
    passages = {passage.id: passage for passage in passages_in(task)}
    assert len(passages) == 36 and len(task.train) == 3 * 36
    assert len(task.test) == 30 * 4 and len({row.id for row in task.test}) == 120
    trained = {row.text for row in task.train}
    for question in task.test:
        assert question.text not in trained, "a question is asked in other words than it was trained in"
        assert len(question.gold) == question.hops
        assert question.target in passages[question.gold[-1]].body
    for row in task.train:
        passage = passages[row.gold[0]]
        assert row.target in passage.body and row.target in passage.rewrite and row.target in row.full_target
        assert passage.title in passage.rewrite and passage.rewrite != passage.body
    assert {p.id for p in passages_in(task)[30:]}.isdisjoint(row.gold[0] for row in task.test)


def test_the_facts_of_a_seed_stay_what_they_were() -> None:
    task = load_task("fact-corpus:40")
    assert task.store is not None and task.store[0].id == "4bea1ab0951bf8b7" and task.test[-1].id == "a1ae0d5f2301338e"


def test_two_facts_lead_over_the_link() -> None:
    task = load_task("fact-corpus:12")
    passages = {passage.id: passage for passage in passages_in(task)}
    for question in (row for row in task.test if row.hops == 2):
        first, second = (passages[identity] for identity in question.gold)
        assert first.title in question.text and second.title in first.body and second.title not in question.text


def test_names_of_fact_corpora() -> None:
    with pytest.raises(ConfigError, match="entity of each kind"):
        load_task("fact-corpus:2")
    for wrong in ("fact-corpus:many", "fact-corpus:3:4:5"):
        with pytest.raises(ConfigError, match="no name of a fact corpus"):
            load_task(wrong)
    with pytest.raises(ConfigError, match="brings its own text"):
        load_task("fact-corpus", text="x")
    assert all("{s}" in relation.tested for relations in RELATIONS.values() for relation in relations)


def test_every_question_has_an_id_of_its_own() -> None:
    rows = [{"question": "Who?", "answer": "Ada"}, {"question": "Who?", "answer": "Ada"}]
    table = Table("q", ("question", "answer"), tuple(Row(i, row) for i, row in enumerate(rows, 1)))
    questions, _ = read_questions(table, Problems())
    assert len({question.id for question in questions}) == 2
    named = Table("q", ("id", "question", "answer"), tuple(Row(i, {**row, "id": 1}) for i, row in enumerate(rows, 1)))
    with pytest.raises(DataError, match="q, row 2: the row has the id of row 1"):
        read_questions(named, Problems())


def test_passages_have_the_id_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("n,title,body\n7,Box,It is blue.\n8,Ball,It is red.\n")
    read = read_passages(read_table(tmp_path / "b.csv", Problems()), Problems())
    assert read.passages[1].id == Passage.of(" It is red. ", "Ball").id != Passage.of("It is red.").id
    assert read.passages[1].row == 3


def test_some_questions_are_spread_over_all() -> None:
    rows = [Example(str(i), "x", str(i), str(i)) for i in range(9)]
    assert spread(rows, 20) == tuple(rows) and len(spread(rows, 4)) == 4
