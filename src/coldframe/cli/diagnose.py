"""``coldframe diagnose``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import tyro

from coldframe.cli.options import parse, writable
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.rows import labelled, own_test
from coldframe.config import Config
from coldframe.errors import ConfigError, nearest
from coldframe.tasks.rows import OnError

#: Exit status of a diagnosis whose verdict is among ``--fail-on``.
UNWANTED = 3


@dataclasses.dataclass(frozen=True)
class Diagnose(Config):
    """Is it the retrieval that helps, or would a fixed prompt do? A verdict with its reasons, and a report.

    For example:
      coldframe diagnose runs/b3db
      coldframe diagnose runs/b3db --retrain random fixed --ladder
      coldframe diagnose runs/b3db --seed-artifacts runs/b3db-1 runs/b3db-2
      coldframe diagnose runs/mood new.csv --fail-on prompt-tuning-like,cannot-tell --json

    Verdicts: retrieval-driven, query-driven, prompt-tuning-like, mixed, cannot-tell. Exit status: 0, or 3 if the
    verdict is among --fail-on.

    Without --retrain and --ladder nothing is trained. What they train, and for how long, is said before it starts.

    Args:
        artifact: Folder that `coldframe fit` wrote, or a hub repository.
        data: A file whose rows are all asked (columns as in training), or a built-in task; the test rows of the
            artifact's own task if you name none.
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
        json: Print the diagnosis as JSON.
        quiet: No progress.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    data: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="DATA")] = None
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
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> int:
    """Load, diagnose, write the report, print; the exit status."""
    options = parse(Diagnose, "diagnose", argv)
    from coldframe.diagnosis.diagnose import diagnose
    from coldframe.diagnosis.evidence import Outcome
    from coldframe.diagnosis.report import render_table, write_report
    from coldframe.evaluation.runs import sample
    from coldframe.pipeline.pipeline import load
    from coldframe.reports.html import environment

    unwanted = _chosen("--fail-on", options.fail_on, get_args(Outcome))
    if options.rows is not None and options.rows < 2:
        raise ConfigError("--rows is too small", got=options.rows, expected="at least 2; 30 for a verdict")
    environment()  # what the report needs is missed now, not after the work
    pipeline = load(options.artifact)
    out = writable(Path(options.out or f"{options.artifact.rstrip('/')}-diagnosis"))
    others = [load(folder, pipeline.lm) for folder in options.seed_artifacts]
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
        command=shlex.join(["coldframe", "diagnose", *argv]),
    )
    write_report(diagnosis, out / "diagnosis.html")
    if options.json:
        print_json(diagnosis.to_dict())
    else:
        show(render_table(diagnosis))
        print(f"wrote {out / 'diagnosis.html'} and {out / 'diagnosis.json'}")
    return UNWANTED if diagnosis.verdict.outcome in unwanted else 0


def _words(words: Sequence[str]) -> list[str]:
    """Words that were separated by spaces, by commas or by both."""
    return [word for part in words for word in part.split(",") if word]


def _chosen(flag: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    chosen = _words(words)
    for word in chosen:
        if word not in known:
            raise ConfigError(f"{flag} takes verdicts", got=repr(word), fix=nearest(word, known))
    return chosen
