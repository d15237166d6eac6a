"""``coldframe diagnose LOG [LOG]``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coldframe.cli.diagnose_pair import tell_pair
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import writable
from coldframe.config import local_path
from coldframe.diagnosis.endpoint import Endpoint
from coldframe.diagnosis.evidence import Outcome
from coldframe.diagnosis.grading import Grader, Judge
from coldframe.diagnosis.paired import compare_subjects, shared
from coldframe.diagnosis.rag import diagnose_subject, sampled, subject_of
from coldframe.diagnosis.rag_report import render_table, write_report
from coldframe.diagnosis.text_rag import TextRAG
from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.inference.client import Client
from coldframe.tasks.rag_log import LogColumns, RagLog, read_log

if TYPE_CHECKING:
    from coldframe.cli.diagnose import Diagnose


def run_log(options: Diagnose, command: str) -> Outcome:
    """Diagnose a log, or compare two; returns the verdict on the first."""
    columns = LogColumns(options.question, options.contexts, options.gold, options.written, options.gold_contexts)
    _refuse(options)
    paths = [options.artifact, *([options.data] if options.data else [])]
    logs = [read_log(local_path(path), columns, on_error=options.on_error) for path in paths]
    if len(logs) == 2:
        logs = list(shared(*logs))
    if options.rows is not None:
        logs = [sampled(log, options.rows) for log in logs]
    for log in logs:
        tell(log.notes, options.quiet)
    with writable(Path(options.out or f"{local_path(paths[-1]).with_suffix('')}-diagnosis")) as out:
        return _diagnosed(options, paths, logs, out, command)


def _diagnosed(options: Diagnose, paths: Sequence[str], logs: Sequence[RagLog], out: Path, command: str) -> Outcome:
    """Ask a model, write the report and print it; returns the verdict on the first log."""
    metric = _metric(options)
    model = options.model if options.endpoint else load_lm(options.model, exact=options.exact)
    subjects = [_subject(options, log, model, metric, out) for log in logs]
    results = [
        diagnose_subject(log, subject, resamples=options.resamples, out=out, quiet=options.quiet, command=command)
        for log, subject in zip(logs, subjects, strict=True)
    ]
    if len(results) == 1:
        write_report(results[0], out)
        if options.json:
            print_json(results[0].to_dict())
        else:
            show(render_table(results[0]))
            print(f"wrote {out}/diagnosis.html, diagnosis.json, questions.csv and passages.csv")
        return results[0].outcome
    names = [Path(path).stem for path in paths]
    if names[0] == names[1]:
        names = [f"{Path(path).absolute().parent.name}-{name}" for path, name in zip(paths, names, strict=True)]
    if names[0] == names[1]:
        names = [f"{name}-{place}" for place, name in enumerate(names, 1)]
    pair = compare_subjects(*subjects, names=tuple(names), resamples=options.resamples)
    for result, name in zip(results, names, strict=True):
        write_report(result, out / name)
    tell_pair(pair, out, options, command)
    return results[0].outcome


def _subject(
    options: Diagnose, log: RagLog, model: str | FrozenLM, metric: str | Grader, out: Path
) -> Endpoint | TextRAG:
    return subject_of(
        log,
        model,
        endpoint=options.endpoint,
        api_key=os.environ.get(options.key_variable),
        mode=options.mode,
        metric=metric,
        max_tokens=options.max_tokens,
        concurrency=options.concurrency,
        out=out,
        quiet=options.quiet,
    )


def _metric(options: Diagnose) -> str | Grader:
    if options.metric != "judge":
        return options.metric
    if options.endpoint is None:
        raise ConfigError("A judge is a model on a server", expected="--endpoint URL", fix="Name the server.")
    return Judge(Client(options.endpoint, options.judge or options.model, os.environ.get(options.key_variable)))


def _refuse(options: Diagnose) -> None:
    """Options that only an artifact has."""
    only: Sequence[tuple[str, object]] = (
        ("--retrain", options.retrain),
        ("--ladder", options.ladder),
        ("--seed-artifacts", options.seed_artifacts),
    )
    for flag, value in only:
        if value:
            raise ConfigError(f"{flag} is for an artifact", got=options.artifact, fix="Leave it out for a log.")
