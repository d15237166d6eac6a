"""``coldframe ask``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.options import Flat, parse
from coldframe.cli.output import print_json, show, tell
from coldframe.config import Config
from coldframe.errors import ConfigError
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.rows import OnError

if TYPE_CHECKING:
    from coldframe.inference.predictions import Predictions
    from coldframe.parametric.encoded import Encoded
    from coldframe.parametric.evaluate import Evaluation
    from coldframe.tasks.corpus import Question


@dataclasses.dataclass(frozen=True)
class Ask(Config):
    """Answer questions with an encoded corpus, or measure how well it answers.

    For example:
      coldframe ask runs/facts "Who is the mayor of Lovokor?"
      coldframe ask runs/facts "Who is the mayor of Lovokor?" --mode both --k 1 --json
      coldframe ask runs/facts --evaluate                             (the questions that came with the corpus)
      coldframe ask runs/mine --evaluate --questions questions.jsonl --rows 200 --predictions answers.jsonl
      coldframe ask runs/facts "Who is the mayor of Lovokor?" --export runs/its-lora

    Args:
        folder: What `coldframe encode` wrote.
        question: The question; - reads one per line from standard input.
        evaluate: Answer questions with known answers, closed book, with passages in the prompt, in the weights and in
            both, and with the controls; F1, exact match and whether the answer is contained.
        questions: File with question, answer (or answers) and, if known, passages; those of the folder if none.
        rows: Evaluate so many of them, evenly over the file.
        controls: Also evaluate with adapters of other questions, and poly-prag with uniform and random routing.
        predictions: Also write the answers of every way to this folder, a JSON lines file each.
        export: Also write the question's adapter to this folder, as a LoRA that peft loads.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.
        json: Print the result as JSON.
        quiet: No progress.
    """

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    question: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="QUESTION")] = None
    settings: Annotated[AskConfig, Flat] = dataclasses.field(default_factory=AskConfig)
    evaluate: bool = False
    questions: str | None = None
    rows: int | None = None
    controls: bool = True
    predictions: str | None = None
    export: str | None = None
    on_error: OnError = "raise"
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Load, answer, print."""
    asked = parse(Ask, "ask", argv)
    if asked.evaluate == (asked.question is not None):
        raise ConfigError("Ask one question, or pass --evaluate", got="both" if asked.evaluate else "neither")
    from coldframe.parametric.encoded import Encoded
    from coldframe.tasks.corpus import Question

    encoded = Encoded.load(asked.folder)
    if asked.evaluate:
        _evaluate(asked, encoded)
        return
    texts = [line.strip() for line in sys.stdin if line.strip()] if asked.question == "-" else [str(asked.question)]
    questions = [Question.of(text, [""]) for text in texts]
    answers = encoded.answer(questions, asked.settings)
    if asked.export is not None:
        nearest = [str(one) for one in answers.neighbours[0] if one]
        encoded.export(nearest, asked.export, asked.settings.combine)
        tell([f"wrote {asked.export}"], asked.quiet)
    for record in _records(encoded, answers):
        if asked.json:
            print(json.dumps(record, ensure_ascii=False))
            continue
        print(record["answer"])
        tell((f"{one['similarity']:.2f}  {one['text'][:100]}" for one in record["passages"]), asked.quiet)


def _records(encoded: Encoded, answers: Predictions) -> list[dict[str, Any]]:
    records = []
    for row, (text, answer) in enumerate(zip(answers.texts, answers.generated or (), strict=True)):
        near = zip(answers.neighbours[row], answers.similarities[row], strict=True)
        passages = [
            {"id": str(one), "similarity": float(score), "text": encoded.corpus.by_id[str(one)].shown}
            for one, score in near
            if one
        ]
        records.append({"question": text, "answer": answer, "way": answers.method, "passages": passages})
    return records


def _evaluate(asked: Ask, encoded: Encoded) -> None:
    from coldframe.parametric.evaluate import evaluate, ways
    from coldframe.parametric.folder import QUESTIONS
    from coldframe.tasks.corpus import read_questions
    from coldframe.tasks.fact_corpus import spread

    path = Path(asked.questions) if asked.questions is not None else Path(asked.folder) / QUESTIONS
    if asked.questions is None and not path.is_file():
        raise ConfigError("The corpus came without questions", fix="Pass --questions FILE.")
    questions, notes = read_questions(path, encoded.corpus, on_error=asked.on_error)
    tell(notes, asked.quiet)
    chosen: Sequence[Question] = questions if asked.rows is None else spread(questions, asked.rows)
    found = evaluate(encoded, chosen, ways(encoded, asked.settings, asked.controls), asked.quiet)
    if asked.predictions is not None:
        for way in found.ways:
            way.predictions.save(Path(asked.predictions) / f"{way.name.replace(' ', '-')}.jsonl")
    if asked.json:
        print_json({**encoded.summary(), "settings": asked.settings.to_dict(), **found.to_dict()})
        return
    _print(encoded, asked, found)


def _print(encoded: Encoded, asked: Ask, found: Evaluation) -> None:
    from rich.table import Table

    title = f"{encoded.corpus.name}, {len(encoded.corpus)} passages, n = {found.n}, k = {asked.settings.k}"
    table = Table("answered by", "F1 [95%]", "exact [95%]", "contained [95%]", "s per question", title=title)
    for way in found.ways:
        spans = [f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" for one in way.scores.values()]
        table.add_row(way.name, *spans, f"{way.seconds:.3f}")
    show(table)
    if found.recall is not None:
        print(f"retrieval found all passages of a question for {found.recall:.0%} of them")
    if found.cosine is not None:
        print(f"mean cosine between the adapters of different passages: {found.cosine:.2f}")
    if found.broken is not None:
        print(f"adapters of other passages make {found.broken.value:.0f}% of the right answers wrong")
    size = encoded.summary()
    print(f"{size['bytes']:,} bytes of adapters, {size['bytes_per_passage']:,.0f} for each passage")
