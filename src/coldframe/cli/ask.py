"""``coldframe ask``: short for predicting one question, and for comparing an artifact with what it could be."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from coldframe.cli.options import Settings
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse, settings_of
from coldframe.cli.rows import labelled, own_test
from coldframe.cli.threads import start_threads
from coldframe.config import Config, local_path
from coldframe.errors import ConfigError
from coldframe.escape import visible
from coldframe.storage.files import to_json
from coldframe.tasks.table import OnError

if TYPE_CHECKING:
    from coldframe.evaluation.variants import VariantTable
    from coldframe.pipeline.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Ask(Config):
    """Answer a question with an artifact, or measure how well it answers questions with known answers.

    For example:
      coldframe ask runs/facts "Who is the mayor of Lovokor?"
      coldframe ask runs/facts "Who is the mayor of Lovokor?" --set k=3 --set combine=mean --json
      coldframe ask runs/facts --evaluate                             (the test questions of its own corpus)
      coldframe ask runs/mine --evaluate --questions questions.jsonl --rows 200 --predictions answers
      coldframe ask runs/facts "Who is the mayor of Lovokor?" --export runs/its-lora

    Args:
        artifact: Folder that `coldframe fit` or `coldframe encode` wrote.
        question: The question; - reads one per line from standard input.
        set: A setting that may change after training, KEY=VALUE (k, combine, routing); may be given several times.
        evaluate: Answer questions with known answers: the model alone, with passages in the prompt (text RAG), with the
            artifact's method, with both, and with the controls; F1, exact match, whether the answer is contained.
        questions: File with question and answer (or answers); the test questions of the artifact's corpus if none.
        rows: Evaluate so many of them, evenly over the file.
        controls: Leave out the controls: what was retrieved for other questions, and whatever else the method has.
        predictions: Also write the answers of every variant to this folder, a JSON lines file each.
        export: Also write the adapter for the question to this folder, as a LoRA that peft loads.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.
        allow_leaks: Evaluate questions that were trained on too, and say so.
        exact: Read one question at a time, so that a score does not depend on the batch, to the bit; much slower.
        json: Print the result as JSON.
        quiet: No progress.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    question: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="QUESTION")] = None
    set: Settings = ()
    evaluate: bool = False
    questions: str | None = None
    rows: int | None = None
    controls: bool = True
    predictions: str | None = None
    export: str | None = None
    on_error: OnError = "raise"
    allow_leaks: bool = False
    exact: bool = False
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Load, answer, print."""
    options = parse(Ask, "ask", argv)
    if options.evaluate == (options.question is not None):
        raise ConfigError("Ask one question, or pass --evaluate", got="both" if options.evaluate else "neither")
    start_threads(options.quiet)
    from coldframe.pipeline.pipeline import load

    pipeline = load(options.artifact)
    pipeline.lm.exact = options.exact
    if options.set:
        pipeline = pipeline.replace(**settings_of(options.set))
    if options.evaluate:
        _evaluate(options, pipeline)
        return
    stdin = options.question == "-"
    texts = [line.strip() for line in sys.stdin if line.strip()] if stdin else [str(options.question)]
    outcome, retrieved = pipeline.run(texts)
    if options.export is not None:
        pipeline.export(options.export, entries=[entry.id for entry in retrieved.examples(0)])
        tell([f"wrote {options.export}"], options.quiet)
    answers = pipeline.answers(outcome)
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        entries = retrieved.examples(row)
        passages = [
            {"id": entry.id, "similarity": float(score), "text": entry.text}
            for entry, score in zip(entries, retrieved.scores[row], strict=False)
        ]
        if options.json:
            record = {"question": text, "answer": answer, "method": pipeline.method.name, "passages": passages}
            print(to_json(record))
            continue
        print(visible(answer))
        tell((f"{passage['similarity']:.2f}  {str(passage['text'])[:100]}" for passage in passages), options.quiet)


def _evaluate(options: Ask, pipeline: Pipeline) -> None:
    from coldframe.evaluation.variants import measure_variants, variants_of
    from coldframe.tasks.corpora import spread

    if options.questions is None:
        questions, notes = own_test(pipeline, options.allow_leaks)
    else:
        questions, notes = labelled(pipeline, options.questions, None, None, options.on_error, options.allow_leaks)
    tell(notes, options.quiet)
    if not questions:
        raise ConfigError("The corpus came without test questions", fix="Pass --questions FILE.")
    questions = questions if options.rows is None else spread(questions, options.rows)
    table = measure_variants(variants_of(pipeline, options.controls), questions, options.quiet)
    if options.predictions is not None:
        for variant in table.variants:
            name = "".join(letter if letter.isalnum() else "-" for letter in variant.name)
            variant.predictions.save(local_path(options.predictions) / f"{name}.jsonl")
    summary = {
        "artifact": options.artifact,
        "method": pipeline.method.name,
        "task": pipeline.schema.name,
        "entries": len(pipeline.store),
        "bytes_per_entry": pipeline.method.entry_bytes,
        "settings": pipeline.method.config.to_dict(),
    }
    if options.json:
        print_json({**summary, **table.to_dict()})
        return
    _print(pipeline, table)


def _print(pipeline: Pipeline, measured: VariantTable) -> None:
    from coldframe.reports import terminal
    from coldframe.reports.blocks import Table
    from coldframe.reports.numbers import span

    title = f"{pipeline.schema.name}, {len(pipeline.store)} passages, n = {measured.n}, k = {pipeline.method.config.k}"
    head = ("answered by", "F1 [95%]", "exact [95%]", "contained [95%]", "s per question")
    rows = [(row.name, *map(span, row.scores.values()), f"{row.seconds:.3f}") for row in measured.variants]
    show(terminal.render([Table.plain(head, rows, title=title)]))
    if measured.recall is not None:
        print(f"retrieval found all passages of a question for {measured.recall:.0%} of them")
    if measured.cosine is not None:
        print(f"mean cosine between the adapters of different passages: {measured.cosine:.2f}")
    if measured.broken is not None:
        print(f"adapters of other passages make {measured.broken.value:.0f}% of the right answers wrong")
    if (entry_bytes := pipeline.method.entry_bytes) is not None:
        print(f"{entry_bytes:,.0f} bytes of adapters for each passage")
