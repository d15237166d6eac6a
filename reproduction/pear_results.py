"""What ``reproduction.pear`` measures besides questions, and what it writes."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from coldframe.cli.parsing import settings_of
from coldframe.errors import DataError
from coldframe.evaluation.head_gains import HeadGains
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.progress import say
from coldframe.storage.files import write_json, write_text
from coldframe.tasks.task import content_hash
from reproduction.answers.evaluate import QASet, Scores, cells, overall
from reproduction.answers.result_cache import ResultCache
from reproduction.answers.retained import Choice, choose, copy_curve, read_choices, text_losses
from reproduction.answers.scores import Floats, difference, level, ratio
from reproduction.answers.systems import LMSystem, System
from reproduction.multi_document_qa import draw
from reproduction.question_sets.read import read_rows
from reproduction.reweighted.data import QuestionSet, Reweighted
from reproduction.reweighted.report import render_markdown, render_page
from reproduction.reweighted.scores import Cell, Gap
from reproduction.reweighted.verdict import BASE, PEAR

Report = Callable[[str, int, int], None]
CURVE = "curve"


def check_sources(options: argparse.Namespace) -> None:
    """What ``--mmlu`` and ``--texts`` read can be read: told before the work.

    Raises:
        DataError: If it cannot.
    """
    if options.mmlu:
        _choices(options)
    if options.texts:
        _texts(options)


def retained(
    systems: Sequence[System], options: argparse.Namespace, out: Path, report: Report
) -> tuple[list[Cell], dict[str, list[list[float]]]]:
    """MMLU-Pro, ordinary text and the loss of a copy, for every system that is a model of ours."""
    models = [system for system in systems if isinstance(system, LMSystem)]
    table: list[Cell] = []
    curves: dict[str, list[list[float]]] = {}
    if options.mmlu:
        choices = draw(_choices(options), options.mmlu, options.seed)
        named = {f"{choice.id}/{content_hash(choice.text)[:10]}": choice for choice in choices}
        sizes = {name: len(models[0].lm.tokenize(choice.text)) for name, choice in named.items()} if models else {}
        longest = models[0].lm.anatomy.max_positions - 16 if models else 0
        sizes = {name: size for name, size in sizes.items() if size <= longest}
        if len(sizes) < len(named):
            say(f"MMLU-Pro: {len(named) - len(sizes)} of {len(named)} questions are longer than the context: left out")

        def letters(system: LMSystem) -> Callable[[list[str]], list[dict[str, Any]]]:
            return lambda ids: [
                {**row, "id": name} for name, row in zip(ids, choose(system, [named[i] for i in ids]), strict=True)
            ]

        rows = _rows("mmlu", models, sizes, letters, options, out, report)
        table += _cells("MMLU-Pro", "accuracy", _values(rows, "correct", 100), percent=True)
        table += _cells("MMLU-Pro", "letter_loss", _values(rows, "loss"), percent=False)
    if options.texts:
        texts = {f"text/{content_hash(text)[:10]}": text for text in draw(_texts(options), options.texts, options.seed)}
        sizes = {name: len(text) for name, text in texts.items()}

        def losses(system: LMSystem) -> Callable[[list[str]], list[dict[str, Any]]]:
            return lambda ids: text_losses(system, {name: texts[name] for name in ids})

        table += _token_loss(_rows("text", models, sizes, losses, options, out, report))
    for system in models:
        cache = ResultCache(out, f"{CURVE}-{system.name}-{system.seed}", {"system": system.fingerprint})
        if CURVE not in cache.rows:
            cache.add([{"id": CURVE, "losses": copy_curve(system)}])
        curves.setdefault(system.name, []).append(cache.rows[CURVE]["losses"])
    return table, curves


def summary(
    options: argparse.Namespace,
    lm: FrozenLM,
    sets: Sequence[QASet],
    systems: Sequence[System],
    scores: Scores,
    reweighting: Reweighting | None,
    measured: tuple[list[Cell], dict[str, list[list[float]]]],
    notes: Sequence[str],
    seconds: float,
) -> Reweighted:
    """Everything that was measured so far, as the page's data."""
    seeds: dict[str, list[int]] = {}
    for system in systems:
        seeds.setdefault(system.name, []).append(system.seed)
    others = [name for name in seeds if name != BASE]
    pairs = [(name, BASE) for name in others] + [(PEAR, name) for name in others if name != PEAR]
    words = {key: value for key, value in vars(options).items() if key not in ("out", "data")}
    effect = str(settings_of(options.set).get("effect", "difference"))
    settings = {**json.loads(json.dumps(words, default=str)), "dtype": str(lm.dtype)}
    return Reweighted(
        model=str(lm.provenance["name"]),
        gains=None if reweighting is None else HeadGains.of(reweighting, effect),
        systems=seeds,
        sets=tuple(map(_question_set, sets)),
        cells=tuple(cell for group in sets for cell in cells(group, scores[group.name], BASE)),
        overall=tuple(overall(sets, scores, pairs)),
        retained=tuple(measured[0]),
        curves=measured[1],
        settings={**settings, "weight_hash": lm.weight_hash[:12]},
        notes=tuple(notes),
        command=" ".join(["python -m reproduction.pear", *map(shlex.quote, sys.argv[1:])]),
        seconds=seconds,
    )


def write(data: Reweighted, out: Path) -> None:
    """``results.json``, ``results.md`` and, with the extra ``report``, ``report.html``."""
    write_json(out / "results.json", data.to_dict())
    write_text(out / "results.md", render_markdown(data))
    if find_spec("jinja2") is None:
        say("no report.html: pip install 'coldframe[report]'")
    else:
        write_text(out / "report.html", render_page(data, "results.json"))


def _choices(options: argparse.Namespace) -> list[Choice]:
    if options.data is None:
        raise DataError("MMLU-Pro is read out of a folder", fix="Name it with --data.")
    return read_choices(options.data / "mmlu-pro" / "test.jsonl.gz")


def _texts(options: argparse.Namespace) -> list[str]:
    if options.text_file is not None:
        try:
            texts = [line.strip() for line in options.text_file.read_text(encoding="utf-8").split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"Cannot read {options.text_file}: {error}") from error
    elif options.data is not None:
        texts = [str(row["text"]) for row in read_rows(options.data / "nq-open" / "passage_pool.jsonl.gz")]
    else:
        raise DataError("There is no ordinary text", fix="Name a file with --text-file, or a folder with --data.")
    return list(dict.fromkeys(texts))


def _rows(
    name: str,
    models: Sequence[LMSystem],
    sizes: Mapping[str, int],
    measure: Callable[[LMSystem], Callable[[list[str]], list[dict[str, Any]]]],
    options: argparse.Namespace,
    out: Path,
    report: Report,
) -> dict[str, list[list[dict[str, Any]]]]:
    """By system one list of rows for each seed, all in one order."""
    table: dict[str, list[list[dict[str, Any]]]] = {}
    for system in models:
        cache = ResultCache(out, f"{name}-{system.name}-{system.seed}", {"system": system.fingerprint})
        tell = partial(report, f"{name}: {system.name} {system.seed}")
        rows = cache.fill(sizes, measure(system), options.batch_tokens, tell)
        table.setdefault(system.name, []).append(list(rows.values()))
    return table


def _values(rows: Mapping[str, list[list[dict[str, Any]]]], key: str, scale: float = 1.0) -> dict[str, list[Floats]]:
    return {
        name: [np.array([scale * float(row[key]) for row in seed]) for seed in seeds] for name, seeds in rows.items()
    }


def _cells(title: str, metric: str, values: Mapping[str, list[Floats]], *, percent: bool) -> list[Cell]:
    return [
        Cell(
            title,
            name,
            metric,
            level(seeds),
            difference(seeds, values[BASE], percent=percent) if name != BASE and BASE in values else None,
        )
        for name, seeds in values.items()
    ]


def _token_loss(rows: Mapping[str, list[list[dict[str, Any]]]]) -> list[Cell]:
    """Mean loss of a token over all texts, texts being what is resampled."""
    sums, counts = _values(rows, "loss"), _values(rows, "tokens")
    table = []
    for name, seeds in sums.items():
        tokens, gap = counts[name][0], None
        if name != BASE and BASE in sums:
            base = np.mean(sums[BASE], axis=0)
            spreads = [((values - base) / tokens).std(ddof=1) for values in seeds] if len(tokens) > 1 else [0.0]
            gap = Gap(ratio([values - base for values in seeds], tokens), float(np.mean(spreads)))
        table.append(Cell("ordinary text", name, "token_loss", ratio(seeds, tokens), gap))
    return table


def _question_set(qa: QASet) -> QuestionSet:
    groups = len({question.group for question in qa.questions})
    places = sorted({question.gold for question in qa.questions if question.gold is not None})
    return QuestionSet(
        qa.name,
        len(qa.questions),
        groups,
        sum(len(question.passages) for question in qa.questions) / len(qa.questions),
        sum(tokens for _, tokens in qa.prompts.values()) / len(qa.prompts),
        qa.cut,
        tuple(places) if groups < len(qa.questions) else (),
    )
