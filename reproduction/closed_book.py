"""ComplexWebQuestions closed book: what a model answers by itself, where there are no passages to retrieve.

    python -m reproduction.closed_book smollm2 --data DIR --questions 500 --out runs/cwq-smollm2

The file has questions with one answer each and no passages. A question is put as ``coldframe ask --mode closed-book``
puts it, and scored as there. OUT/answers.jsonl and OUT/results.json hold what came of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coldframe.parametric.encoded import answers, as_predictions
from coldframe.parametric.evaluate import METRICS
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question

from coldframe.errors import ColdframeError, DataError
from coldframe.evaluation.intervals import Interval, score_interval
from coldframe.frozen.model import load_lm
from coldframe.frozen.ports import Conditioning
from coldframe.methods.weight_deltas.prag import PRAGConfig
from coldframe.reports.numbers import MetricInfo
from coldframe.storage.files import atomic_path
from coldframe.tasks.qa.read import read_rows
from reproduction.multi_document_qa import draw

FILE = Path("complexwebquestions", "test_3531.json.gz")


def complex_web_questions(data: Path) -> list[Question]:
    """The questions with their answers, in the file's order.

    Raises:
        DataError: If the file is missing or of another form.
    """
    rows = read_rows(data / FILE)
    try:
        return [Question.of(row["question"], [row["answer"]], row=i) for i, row in enumerate(rows, 1)]
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
    asked = parser.parse_args(argv)
    questions = draw(complex_web_questions(asked.data), asked.questions, asked.seed)
    config = AskConfig(mode="closed-book", max_new_tokens=asked.max_new_tokens, batch_size=asked.batch_size)
    lm, started = load_lm(asked.model, dtype=asked.dtype, device=asked.device), time.perf_counter()
    written = answers(lm, PRAGConfig().prompts, questions, config, lambda rows: Conditioning())
    n = len(questions)
    found = as_predictions(
        questions,
        written,
        method="closed-book",
        seed=0,
        task="complexwebquestions",
        neighbours=np.zeros((n, 0), np.str_),
        similarities=np.zeros((n, 0), np.float32),
        seconds=time.perf_counter() - started,
    )
    found.save(asked.out / "answers.jsonl")
    scores = {metric: score_interval([found], metric).to_dict() for metric in METRICS}
    about = {"model": lm.provenance["name"], "dtype": str(lm.dtype), "questions": n}
    done = {**about, "seconds_per_question": found.seconds / n, "scores": scores}
    with atomic_path(asked.out / "results.json") as path:
        path.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done


def main() -> None:
    """Run, and print the scores."""
    points = MetricInfo("points", "Points")
    try:
        done = run()
    except ColdframeError as error:
        sys.exit(f"error: {error}")
    for metric, score in done["scores"].items():
        print(f"{metric}: {points.span(Interval.from_dict(score))}")


if __name__ == "__main__":
    main()
