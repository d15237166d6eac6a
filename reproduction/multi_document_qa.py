"""Questions with ten or twenty documents of which one has the answer, at chosen places (lost in the middle).

    python -m reproduction.multi_document_qa DATA runs/mdqa10.jsonl --documents 10 --gold 0 4 9 --seed 0

DATA is a folder with ``oracle_2655.jsonl.gz`` (questions of NQ-Open, one gold passage each) and
``passage_pool.jsonl.gz`` (other passages of Wikipedia), or that folder's parent. The published 10 and 20 document files
cannot be had, so their distractors are chosen here: by BM25, those passages of the pool that are most like the
question, hold no accepted answer and are not of the gold passage's page. Structure: Liu et al. 2023, arXiv 2307.03172.
Deviates: BM25 on a pool of 4,759 passages instead of Contriever on all of Wikipedia; the distractors' order is drawn.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from coldframe.config import check
from coldframe.errors import DataError
from coldframe.retrieval.bm25 import BM25
from reproduction.question_sets.read import oracle, question_task, read_rows
from reproduction.questions import Passage, Question, answered_by, questions_of, write_questions

T = TypeVar("T")


def build(
    questions: Sequence[Question],
    pool: Sequence[Passage],
    *,
    documents: int = 10,
    gold: Sequence[int] = (0, 4, 9),
    seed: int = 0,
    count: int | None = None,
) -> list[Question]:
    """Every question once for each place, always with the same distractors in the same order.

    Args:
        questions: With their gold passage.
        pool: Where distractors come from.
        documents: In all, the gold passage among them.
        gold: Places of the gold passage, from 0.
        seed: Of the order of the distractors, and of the questions that are taken.
        count: How many questions are taken, drawn; all if None.

    Raises:
        ConfigError: If a place does not exist.
        DataError: If a question has no gold passage, or the pool too few passages without an answer.
    """
    check(documents >= 2, "There must be a distractor", got=documents, expected="documents >= 2")
    known = all(0 <= place < documents for place in gold) and len(set(gold)) == len(gold) > 0
    check(known, "A place of the gold passage does not exist", got=list(gold), expected=f"0 to {documents - 1}, once")
    taken = draw(questions, count, seed)
    built = []
    for question, near in zip(taken, _hard(taken, pool, documents - 1), strict=True):
        order = list(near)
        random.Random(f"{seed} {question.id}").shuffle(order)
        for place in gold:
            passages = (*order[:place], _gold_of(question), *order[place:])
            name = f"{question.id}@{place}"
            built.append(Question(name, question.question, question.answers, passages, place, question.id))
    return built


def draw(rows: Sequence[T], count: int | None, seed: int) -> list[T]:
    """The first ``count`` of some rows in an order that the seed draws, so that a larger draw holds the smaller."""
    if count is None:
        return list(rows)
    return random.Random(seed).sample(list(rows), len(rows))[:count]


def _hard(questions: Sequence[Question], pool: Sequence[Passage], count: int) -> Iterator[list[Passage]]:
    """The passages most like each question that do not answer it."""
    index = BM25([f"{passage.title} {passage.text}" for passage in pool])
    for question, scores in zip(questions, index.scan([question.question for question in questions]), strict=True):
        title, near = _gold_of(question).title.casefold(), list[Passage]()
        for i in np.argsort(-scores, kind="stable"):
            if len(near) == count:
                break
            passage = pool[i]
            if passage.title.casefold() != title and not answered_by(passage, question.answers) and passage not in near:
                near.append(passage)
        if len(near) < count:
            raise DataError(
                f"The pool has too few passages without an answer to {question.id}", got=len(near), expected=count
            )
        yield near


def _gold_of(question: Question) -> Passage:
    if question.gold is None:
        raise DataError(f"The question {question.id} has no gold passage", fix="Leave it out, or mark its passage.")
    return question.passages[question.gold]


def load(data: Path) -> tuple[list[Question], list[Passage]]:
    """Questions and pool out of the folder of NQ, or its parent."""
    home = data / "nq-open" if (data / "nq-open").is_dir() else data
    pool = [Passage(str(row["title"]), str(row["text"])) for row in read_rows(home / "passage_pool.jsonl.gz")]
    return questions_of(question_task("nq", oracle(home / "oracle_2655.jsonl.gz"))), pool


def main(argv: Sequence[str] | None = None) -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of NQ-Open's oracle file and the pool")
    parser.add_argument("out", type=Path, help="file to write (JSON lines)")
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--gold", type=int, nargs="+", default=[0, 4, 9], help="places of the gold passage, from 0")
    parser.add_argument("--questions", type=int, default=None, help="how many are drawn; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    settings = {name: getattr(options, name) for name in ("documents", "gold", "seed")}
    built = build(*load(options.data), count=options.questions, **settings)
    write_questions(built, options.out)
    print(f"wrote {len(built)} questions with {options.documents} documents to {options.out}")


if __name__ == "__main__":
    main()
