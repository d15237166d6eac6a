"""``coldframe diagnose``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from coldframe.cli.backend import BackendFlags, load, refuse_without_server
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse, writable
from coldframe.cli.rows import labelled, own_test
from coldframe.config import check, local_path
from coldframe.errors import ConfigError, nearest
from coldframe.tasks.table import OnError

if TYPE_CHECKING:
    from coldframe.diagnosis.evidence import Outcome
    from coldframe.pipeline.pipeline import Pipeline

#: Exit status of a diagnosis whose verdict is among ``--fail-on``.
UNWANTED = 3


@dataclasses.dataclass(frozen=True)
class Diagnose(BackendFlags):
    """Is it the retrieval that helps, or would a fixed prompt do? A verdict with its reasons, and a report.

    What is diagnosed is a log of your own pipeline (questions, what it retrieved, right answers), or an artifact that
    `coldframe fit` wrote.

    For example:
      coldframe diagnose rag.jsonl --endpoint http://localhost:8000/v1 --model NAME
      coldframe diagnose rag.jsonl --model smollm2 --rows 100
      coldframe diagnose old.jsonl new.jsonl --model smollm2
      coldframe diagnose runs/b3db
      coldframe diagnose runs/b3db --retrain random fixed --ladder
      coldframe diagnose runs/b3db --seed-artifacts runs/b3db-1 runs/b3db-2
      coldframe diagnose runs/b3db --backend http://localhost:8000/v1
      coldframe diagnose runs/mood new.csv --fail-on prompt-tuning-like,cannot-tell --json

    Verdicts: retrieval-driven, query-driven, prompt-tuning-like, mixed, cannot-tell. Exit status: 0, or 3 if the
    verdict is among --fail-on.

    A log is asked again with the passages of other questions, without any, and without one of them; the columns of
    ragas, deepeval, LangChain and LlamaIndex are known. An answer that the pipeline wrote is no right answer: without
    right ones the verdict speaks of use. A second log is compared with the first, question by question.

    Without --retrain and --ladder nothing is trained. What they train, and for how long, is said before it starts.

    Args:
        artifact: A log (JSONL, JSON, CSV, TSV, Parquet), a folder that `coldframe fit` wrote, or a hub repository.
        data: For a log: a second log, or nothing. For an artifact: a second artifact; a file whose rows are all asked
            (columns as in training); a built-in task; or nothing for the test rows of the artifact's own task.
        model: For a log: a local model, or as the server at --endpoint names it.
        endpoint: For a log: address of a server that speaks OpenAI's protocol, such as http://localhost:8000/v1.
        key_variable: Environment variable with the server's key.
        mode: For a log: measure the probability of the right answer (logprobs) or what the model writes (answers).
        metric: For a log, of a written answer: contains, exact_match, token_f1 or judge. auto is contains, and token_f1
            without right answers.
        judge: The model at --endpoint that judges, with --metric judge; --model if you name none.
        max_tokens: For a log, of a written answer, at most.
        concurrency: For a log: requests at a time.
        question: For a log: the column with the question, if it has an unusual name.
        contexts: Likewise, what was retrieved.
        gold: Likewise, the right answers.
        written: Likewise, the answers that the pipeline wrote.
        gold_contexts: Likewise, the passages that hold the answer.
        seed_artifacts: The same method, settings and task, trained with other seeds: intervals then hold over seeds
            too.
        retrain: Also train the method again with this in the place of what is retrieved: random, fixed, shuffled,
            gaussian, mean.
        ladder: Also train the prompt-tuning ladder: how far does a fixed prompt get, and one from the query alone?
        ladder_seeds: Training seeds of each of its rungs.
        fail_on: Verdicts that end with exit status 3.
        rows: Queries (a random sample); all if you name none. Fewer than 30 get no verdict.
        resamples: Of every bootstrap and permutation test.
        text: Input column of the file, if it has another name than in training.
        label: Label column of the file, likewise.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.
        allow_leaks: Ask rows that are among the exemplars too, and say so.
        out: Folder of diagnosis.html, diagnosis.json and the ladder's runs; DIR-diagnosis if you name none.
        exact: Read one query at a time, so that a score does not depend on the batch, to the bit; several times slower.
        json: Print the diagnosis as JSON.
        quiet: No progress.
    """

    groups = {
        **BackendFlags.groups,
        "log": ("question", "contexts", "gold", "written", "gold_contexts"),
        "answers": ("mode", "metric", "judge", "max_tokens", "concurrency"),
        "artifact": ("seed_artifacts", "retrain", "ladder", "ladder_seeds", "text", "label", "allow_leaks"),
    }

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LOG|DIR")]
    data: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="DATA")] = None
    model: str = "smollm2"
    endpoint: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    mode: Literal["auto", "logprobs", "answers"] = "auto"
    metric: Literal["auto", "contains", "exact_match", "token_f1", "judge"] = "auto"
    judge: str | None = None
    max_tokens: int = 64
    concurrency: int = 8
    question: str | None = None
    contexts: str | None = None
    gold: str | None = None
    written: str | None = None
    gold_contexts: str | None = None
    seed_artifacts: tuple[str, ...] = ()
    retrain: tuple[str, ...] = ()
    ladder: bool = False
    ladder_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    fail_on: tuple[str, ...] = ()
    rows: int | None = None
    resamples: int = 10_000
    text: str | None = None
    label: str | None = None
    on_error: OnError = "raise"
    allow_leaks: bool = False
    out: str | None = None
    exact: bool = False
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> int:
    """Load, diagnose, write the report, print; the exit status."""
    options = parse(Diagnose, "diagnose", argv)
    from coldframe.diagnosis.evidence import Outcome
    from coldframe.pipeline import pipeline as artifacts
    from coldframe.reports.html import environment
    from coldframe.storage.artifact import MANIFEST

    unwanted = _chosen("--fail-on", options.fail_on, get_args(Outcome))
    if options.rows is not None and options.rows < 2:
        raise ConfigError("--rows is too small", got=options.rows, expected="at least 2; 30 for a verdict")
    command = shlex.join(["coldframe", "diagnose", *argv])
    environment()  # what the report needs is missed now, not after the work
    trains = bool(options.retrain) or options.ladder
    check(options.backend is None or not trains, "What is trained needs the model here", got="--backend")
    if is_log(options.artifact):
        from coldframe.cli.diagnose_log import run_log

        check(options.backend is None, "A log is asked of an endpoint", got="--backend", expected="--endpoint URL")
        refuse_without_server(options)
        outcome = run_log(options, command)
        return UNWANTED if outcome in unwanted else 0
    pipeline = load(options.artifact, options, options.exact, options.quiet)
    if options.data is not None and (local_path(options.data) / MANIFEST).is_file():
        from coldframe.cli.diagnose_pair import run_pair

        run_pair(options, pipeline, artifacts.load(options.data, pipeline.lm), command)
        return 0
    with writable(Path(options.out or f"{options.artifact.rstrip('/')}-diagnosis")) as out:
        outcome = _diagnosed(options, pipeline, out, command)
    return UNWANTED if outcome in unwanted else 0


def _diagnosed(options: Diagnose, pipeline: Pipeline, out: Path, command: str) -> Outcome:
    """Diagnose an artifact, write the report and print it; returns the verdict."""
    from coldframe.diagnosis.diagnose import diagnose
    from coldframe.diagnosis.report import render_table, write_report
    from coldframe.evaluation.runs import sample
    from coldframe.pipeline import pipeline as artifacts

    others = [artifacts.load(folder, pipeline.lm) for folder in options.seed_artifacts]
    if options.data is None:
        examples, notes = own_test(pipeline, options.allow_leaks)
    else:
        names = options.text, options.label
        examples, notes = labelled(pipeline, options.data, *names, options.on_error, options.allow_leaks)
    if options.rows is not None and options.rows < len(examples):
        notes = [*notes, f"Asked were {options.rows} of {len(examples)} rows, drawn at random."]
        examples = sample(examples, options.rows)
    tell(notes, options.quiet)
    diagnosis = diagnose(
        [pipeline, *others],
        examples,
        retrain=_words(options.retrain),
        ladder=options.ladder,
        ladder_seeds=options.ladder_seeds,
        resamples=options.resamples,
        out=out,
        notes=notes,
        quiet=options.quiet,
        command=command,
    )
    write_report(diagnosis, out / "diagnosis.html")
    if options.json:
        print_json(diagnosis.to_dict())
    else:
        show(render_table(diagnosis))
        print(f"wrote {out / 'diagnosis.html'} and {out / 'diagnosis.json'}")
    return diagnosis.verdict.outcome


def is_log(path: str) -> bool:
    """Whether a path is a file, where an artifact is a folder."""
    return local_path(path).is_file()


def _words(words: Sequence[str]) -> list[str]:
    """Words that were separated by spaces, by commas or by both."""
    return [word for part in words for word in part.split(",") if word]


def _chosen(flag: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    chosen = _words(words)
    for word in chosen:
        if word not in known:
            raise ConfigError(f"{flag} takes verdicts", got=repr(word), fix=nearest(word, known))
    return chosen
