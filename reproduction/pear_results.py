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

from coldframe.cli.options import settings_of
from coldframe.config import without_nan
from coldframe.errors import DataError
from coldframe.evaluation.answers.evaluate import Cell, QASet, Scores, cells, overall
from coldframe.evaluation.answers.result_cache import ResultCache
from coldframe.evaluation.answers.retained import Choice, choose, copy_curve, read_choices, text_losses
from coldframe.evaluation.answers.scores import Floats, Gap, difference, level, ratio
from coldframe.evaluation.answers.systems import LMSystem, System
from coldframe.evaluation.reweighted.data import Asked, Found, Reweighted
from coldframe.evaluation.reweighted.markdown import render_markdown
from coldframe.evaluation.reweighted.verdict import BASE, PEAR
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.pear import Reweighting
from coldframe.progress import say
from coldframe.storage.files import atomic_path
from coldframe.tasks.qa.read import read_rows
from coldframe.tasks.task import content_hash
from reproduction.multi_document_qa import draw

Report = Callable[[str, int, int], None]
CURVE = "curve"


def check_sources(asked: argparse.Namespace) -> None:
    """What ``--mmlu`` and ``--texts`` read can be read: told before the work.

    Raises:
        DataError: If it cannot.
    """
    if asked.mmlu:
        _choices(asked)
    if asked.texts:
        _texts(asked)


def retained(
    systems: Sequence[System], asked: argparse.Namespace, out: Path, said: Report
) -> tuple[list[Cell], dict[str, list[list[float]]]]:
    """MMLU-Pro, ordinary text and the loss of a copy, for every system that is a model of ours."""
    models = [one for one in systems if isinstance(one, LMSystem)]
    table: list[Cell] = []
    curves: dict[str, list[list[float]]] = {}
    if asked.mmlu:
        choices = draw(_choices(asked), asked.mmlu, asked.seed)
        named = {f"{one.id}/{content_hash(one.text)[:10]}": one for one in choices}
        sizes = {name: len(models[0].lm.tokenize(one.text)) for name, one in named.items()} if models else {}
        longest = models[0].lm.anatomy.max_positions - 16 if models else 0
        sizes = {name: size for name, size in sizes.items() if size <= longest}
        if len(sizes) < len(named):
            say(f"MMLU-Pro: {len(named) - len(sizes)} of {len(named)} questions are longer than the context: left out")

        def letters(system: LMSystem) -> Callable[[list[str]], list[dict[str, Any]]]:
            return lambda ids: [
                {**row, "id": one} for one, row in zip(ids, choose(system, [named[i] for i in ids]), strict=True)
            ]

        rows = _rows("mmlu", models, sizes, letters, asked, out, said)
        table += _cells("MMLU-Pro", "accuracy", _values(rows, "correct", 100), percent=True)
        table += _cells("MMLU-Pro", "letter_loss", _values(rows, "loss"), percent=False)
    if asked.texts:
        texts = {f"text/{content_hash(text)[:10]}": text for text in draw(_texts(asked), asked.texts, asked.seed)}
        sizes = {name: len(text) for name, text in texts.items()}

        def losses(system: LMSystem) -> Callable[[list[str]], list[dict[str, Any]]]:
            return lambda ids: text_losses(system, {one: texts[one] for one in ids})

        table += _token_loss(_rows("text", models, sizes, losses, asked, out, said))
    for system in models:
        kept = ResultCache(out, f"{CURVE}-{system.name}-{system.seed}", {"system": system.fingerprint})
        if CURVE not in kept.rows:
            kept.add([{"id": CURVE, "losses": copy_curve(system)}])
        curves.setdefault(system.name, []).append(kept.rows[CURVE]["losses"])
    return table, curves


def summary(
    asked: argparse.Namespace,
    lm: FrozenLM,
    sets: Sequence[QASet],
    systems: Sequence[System],
    scores: Scores,
    shown: Reweighting | None,
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
    words = {key: value for key, value in vars(asked).items() if key not in ("out", "data")}
    effect = str(settings_of(asked.set).get("effect", "difference"))
    settings = {**json.loads(json.dumps(words, default=str)), "dtype": str(lm.dtype)}
    return Reweighted(
        model=str(lm.provenance["name"]),
        found=None if shown is None else Found.of(shown, effect),
        systems=seeds,
        sets=tuple(_asked(one) for one in sets),
        cells=tuple(cell for one in sets for cell in cells(one, scores[one.name], BASE)),
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
    values = json.dumps(without_nan(data.to_dict()), ensure_ascii=False, allow_nan=False, indent=1)
    pages = {"results.json": values, "results.md": render_markdown(data)}
    if find_spec("jinja2") is None:
        say("no report.html: pip install 'coldframe[report]'")
    else:
        from coldframe.evaluation.reweighted.page import render_page

        pages["report.html"] = render_page(data, "results.json")
    for name, text in pages.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _choices(asked: argparse.Namespace) -> list[Choice]:
    if asked.data is None:
        raise DataError("MMLU-Pro is read out of a folder", fix="Name it with --data.")
    return read_choices(asked.data / "mmlu-pro" / "test.jsonl.gz")


def _texts(asked: argparse.Namespace) -> list[str]:
    if asked.text_file is not None:
        try:
            found = [line.strip() for line in asked.text_file.read_text(encoding="utf-8").split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"Cannot read {asked.text_file}: {error}") from error
    elif asked.data is not None:
        found = [str(row["text"]) for row in read_rows(asked.data / "nq-open" / "passage_pool.jsonl.gz")]
    else:
        raise DataError("There is no ordinary text", fix="Name a file with --text-file, or a folder with --data.")
    return list(dict.fromkeys(found))


def _rows(
    name: str,
    models: Sequence[LMSystem],
    sizes: Mapping[str, int],
    measure: Callable[[LMSystem], Callable[[list[str]], list[dict[str, Any]]]],
    asked: argparse.Namespace,
    out: Path,
    said: Report,
) -> dict[str, list[list[dict[str, Any]]]]:
    """By system one list of rows for each seed, all in one order."""
    table: dict[str, list[list[dict[str, Any]]]] = {}
    for system in models:
        kept = ResultCache(out, f"{name}-{system.name}-{system.seed}", {"system": system.fingerprint})
        tell = partial(said, f"{name}: {system.name} {system.seed}")
        found = kept.fill(sizes, measure(system), asked.batch_tokens, tell)
        table.setdefault(system.name, []).append(list(found.values()))
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
    found = []
    for name, seeds in sums.items():
        tokens, gap = counts[name][0], None
        if name != BASE and BASE in sums:
            base = np.mean(sums[BASE], axis=0)
            each = float(np.mean([((one - base) / tokens).std(ddof=1) for one in seeds])) if len(tokens) > 1 else 0.0
            gap = Gap(ratio([one - base for one in seeds], tokens), each)
        found.append(Cell("ordinary text", name, "token_loss", ratio(seeds, tokens), gap))
    return found


def _asked(one: QASet) -> Asked:
    groups = len({question.group for question in one.questions})
    places = sorted({question.gold for question in one.questions if question.gold is not None})
    return Asked(
        one.name,
        len(one.questions),
        groups,
        sum(len(question.passages) for question in one.questions) / len(one.questions),
        sum(tokens for _, tokens in one.prompts.values()) / len(one.prompts),
        one.cut,
        tuple(places) if groups < len(one.questions) else (),
    )
