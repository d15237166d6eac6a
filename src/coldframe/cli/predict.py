"""``coldframe predict``."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from coldframe.cli.backend import load
from coldframe.cli.coverage import CoverageFlags
from coldframe.cli.output import print_json, tell
from coldframe.cli.parsing import parse
from coldframe.cli.rows import Format, Query, texts_of
from coldframe.config import check
from coldframe.errors import DataError
from coldframe.escape import csv_cell
from coldframe.progress import Bar
from coldframe.storage.files import to_json
from coldframe.tasks.table import OnError, Problems

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coldframe.pipeline.pipeline import Pipeline

CHUNK = 256
"""Queries answered together: what comes through a pipe is answered while it comes."""


@dataclasses.dataclass(frozen=True)
class Predict(CoverageFlags):
    """Answer new inputs: label, probabilities and the exemplars that were looked at, one record for each.

    For example:
      coldframe predict runs/b3db molecules.csv > answers.jsonl
      echo 'CC(=O)OC1=CC=CC=C1C(=O)O' | coldframe predict runs/b3db -
      coldframe predict runs/mood new.jsonl --text comment --to csv
      coldframe predict runs/b3db molecules.csv --coverage 0.9
      coldframe predict runs/b3db molecules.csv --backend http://localhost:8000/v1

    Args:
        artifact: Folder that `coldframe fit` wrote, or a hub repository.
        file: CSV, TSV, JSON, Parquet or Excel with the text column of training, or plain text with one input per line;
            - is standard input. An id column is kept.
        read: Format of the input; auto goes by the file's ending, and reads lines of text from standard input.
        text: Input column, if it has another name than in training.
        to: Format of the output.
        exact: Read one query at a time, so that a score does not depend on the batch, to the bit; several times slower.
        json: Print one JSON list in the place of a record a line.
        quiet: No progress, and no notes on skipped rows.
        on_error: Stop at the first input that cannot be used, or skip such inputs and count them.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")] = "-"
    read: Annotated[Format, tyro.conf.arg(name="from")] = "auto"
    text: str | None = None
    to: Literal["jsonl", "csv"] = "jsonl"
    on_error: OnError = "raise"
    exact: bool = False
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Load, read, answer, write."""
    options = parse(Predict, "predict", argv)
    check(not (options.json and options.to == "csv"), "--json and --to csv are two formats", expected="one of them")
    pipeline = load(options.artifact, options, options.exact, options.quiet)
    limits = options.limits(pipeline)
    problems = Problems(options.on_error)
    rows = texts_of(pipeline, options.file, options.read, options.text, problems)
    with Bar(None, "predict", options.quiet or options.file == "-") as bar:
        _write(_records(pipeline, rows, problems, bar, limits), options)
    tell(problems.notes(), options.quiet)


def _write(records: Iterator[dict[str, Any]], options: Predict) -> None:
    """Print records as they come; a list, once all are there."""
    if options.json:
        print_json(list(records))
        return
    table = None
    for record in records:
        if options.to == "jsonl":
            print(to_json(record))
            continue
        flat = _flat(record)
        if table is None:
            table = csv.DictWriter(sys.stdout, list(flat))
            csv.writer(sys.stdout).writerow(map(csv_cell, flat))
        table.writerow({key: csv_cell(value) for key, value in flat.items()})


def _records(
    pipeline: Pipeline, queries: Iterator[Query], problems: Problems, bar: Bar, limits: NDArray[np.float64] | None
) -> Iterator[dict[str, Any]]:
    from coldframe.pipeline.conformal import label_sets

    while chunk := list(islice(queries, CHUNK)):
        usable = []
        for query in chunk:
            try:
                pipeline.queries([query.text])
                usable.append(query)
            except DataError as error:  # says "Query 1": here the row is known
                problem = f"{query.where}{error.problem.removeprefix('Query 1')}"
                problems.add(DataError(problem, got=error.got, expected=error.expected, fix=error.fix))
        if not usable:
            continue
        outcome, retrieved = pipeline.run([query.text for query in usable])
        bar.advance(len(usable))
        for i, query in enumerate(usable):
            record: dict[str, Any] = {"row": query.place} | ({} if query.id is None else {"id": query.id})
            record["text"] = query.text
            if outcome.generated is not None:
                record["answer"] = outcome.generated[i]
            else:
                shares = outcome.probabilities[i]
                record["label"] = pipeline.schema.labels[int(shares.argmax())]
                record["probabilities"] = dict(zip(pipeline.schema.labels, shares.tolist(), strict=True))
                if limits is not None:
                    (record["labels"],) = label_sets(pipeline.schema.labels, shares[None], limits)
                    record["abstains"] = len(record["labels"]) != 1
            record["neighbours"] = [
                {"id": e.id, "text": e.text, "label": e.target, "similarity": float(score)}
                for e, score in zip(retrieved.examples(i), retrieved.scores[i], strict=False)
            ]
            yield record


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record as one line of CSV: a column for each label's probability; a set of labels as JSON; neighbours by id."""
    flat = {key: value for key, value in record.items() if key not in ("probabilities", "neighbours")}
    if "labels" in flat:
        flat["labels"] = to_json(flat["labels"])
    flat |= {f"p({label})": value for label, value in record.get("probabilities", {}).items()}
    return flat | {"neighbours": " ".join(neighbour["id"] for neighbour in record["neighbours"])}
