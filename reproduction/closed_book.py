"""ComplexWebQuestions closed book: what a model answers by itself, where there are no passages to retrieve.

    python -m reproduction.closed_book smollm2 --data DIR --questions 500 --out runs/cwq-smollm2

The file has questions with one answer each and no passages. A question is put as to a corpus, with nothing retrieved,
and scored as there. OUT/answers.jsonl and OUT/results.json hold what came of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coldframe.errors import ColdframeError, DataError
from coldframe.evaluation.variants import METRICS
from coldframe.frozen.model import load_lm
from coldframe.inference.intervals import Interval, score_interval
from coldframe.inference.run import predict
from coldframe.methods.config import MethodContext
from coldframe.methods.text.zero_shot import ZeroShot
from coldframe.reports.numbers import MetricInfo
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.files import atomic_path
from coldframe.tasks.questions import QUESTION
from coldframe.tasks.task import Example, Schema, text_key
from reproduction.multi_document_qa import draw
from reproduction.question_sets.read import read_rows

FILE = Path("complexwebquestions", "test_3531.json.gz")


NAME = "complexwebquestions"


def complex_web_questions(data: Path) -> list[Example]:
    """The questions with their answers, in the file's order.

    Raises:
        DataError: If the file is missing or of another form.
    """
    rows = read_rows(data / FILE)
    try:
        return [
            Example(row["question"], row["answer"], f"{NAME}-{i}", text_key(row["question"]), i)
            for i, row in enumerate(rows, 1)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{data / FILE} is not in the expected form: {type(error).__name__} {error}") from error


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Answer, score and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2", help="built-in name, folder or hub id")
    parser.add_argument("--data", type=Path, required=True, help="holds complexwebquestions")
    parser.add_argument("--questions", type=int, default=500, help="how many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0, help="of the questions that are drawn")
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    questions = draw(complex_web_questions(options.data), options.questions, options.seed)
    lm = load_lm(options.model, dtype=options.dtype, device=options.device)
    schema = Schema(NAME, "generation", template=QUESTION, metric="token_f1", max_new_tokens=options.max_new_tokens)
    method, nothing = ZeroShot().setup(MethodContext(lm, schema)), Retrieved.nothing(Store.of([]), len(questions))
    answers = predict(method, lm, schema, questions, nothing, batch_size=options.batch_size)
    answers = dataclasses.replace(answers, method="closed-book")
    answers.save(options.out / "answers.jsonl")
    scores = {metric: score_interval([answers], metric).to_dict() for metric in METRICS}
    results = {
        "model": lm.provenance["name"],
        "dtype": str(lm.dtype),
        "questions": len(questions),
        "seconds_per_question": answers.seconds / len(questions),
        "scores": scores,
    }
    with atomic_path(options.out / "results.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def main() -> None:
    """Run, and print the scores."""
    points = MetricInfo("points", "Points")
    try:
        results = run()
    except ColdframeError as error:
        sys.exit(f"error: {error}")
    for metric, score in results["scores"].items():
        print(f"{metric}: {points.span(Interval.from_dict(score))}")


if __name__ == "__main__":
    main()
