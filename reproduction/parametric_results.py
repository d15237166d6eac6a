"""What ``reproduction.parametric`` makes of the answers: scores, paired differences, what swapping breaks, sizes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coldframe.parametric.evaluate import METRICS, broken
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question

from coldframe.config import without_nan
from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.intervals import Interval, score_interval
from coldframe.inference.predictions import Predictions
from coldframe.reports.numbers import MetricInfo
from coldframe.storage.files import atomic_path

FACTS = {1: "one fact", 2: "two facts"}
POINTS = MetricInfo("points", "Points")


@dataclasses.dataclass
class System:
    """One way to answer, with a run for each seed.

    Attributes:
        name: Of the method and the way, without k.
        label: Of the method; empty where none is used.
        config: How questions were asked.
        runs: The answers, by seed.
    """

    name: str
    label: str
    config: AskConfig
    runs: list[Predictions] = dataclasses.field(default_factory=list)

    @property
    def title(self) -> str:
        """As in tables."""
        return self.name if self.config.mode == "closed-book" else f"{self.name}, k = {self.config.k}"


def summary(
    systems: Sequence[System],
    costs: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    recall: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """All that is told, as plain data."""
    hops = sorted({one.hops for one in questions})
    groups = {"all": np.arange(len(questions))}
    if len(hops) > 1:
        groups |= {FACTS.get(h, f"{h} facts"): np.flatnonzero([one.hops == h for one in questions]) for h in hops}
    parts = {
        group: [dataclasses.replace(one, runs=[_rows(run, rows) for run in one.runs]) for one in systems]
        for group, rows in groups.items()
    }
    return {
        "groups": {group: len(rows) for group, rows in groups.items()},
        "retrieval": dict(recall),
        "scores": [line for group, some in parts.items() for line in _scores(group, some)],
        "differences": [line for group, some in parts.items() for line in _differences(group, some)],
        "broken": list(_broken(systems)),
        "costs": [dict(one) for one in costs],
        "seconds_per_question": {one.title: _mean([r.seconds / len(r) for r in one.runs]) for one in systems},
    }


def pairs(systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Which systems are compared: each with the baselines, a method with its controls and with the first method."""
    closed = next((one for one in systems if one.config.mode == "closed-book"), None)
    first = next((one.label for one in systems if one.label), "")
    for one in systems:
        if not one.label:
            continue
        if closed is not None:
            yield one, closed
        for other in systems:
            same_k = other.config.k == one.config.k
            if other.config.mode == "passages" and same_k:
                yield one, other
            elif other.label == one.label and other is not one and same_k and _plain(one.config):
                yield one, other
            elif other.label == one.label and other.config == one.config.replace(swapped=True) != one.config:
                yield one, other
            elif other.label == first != one.label and other.config == one.config:
                yield one, other


def _plain(config: AskConfig) -> bool:
    """The method itself: parameters alone, and no control."""
    return config == AskConfig(k=config.k, **_same(config)) and config.mode == "parameters"


def _same(config: AskConfig) -> dict[str, Any]:
    return {"max_new_tokens": config.max_new_tokens, "batch_size": config.batch_size, "cut": config.cut}


def _rows(run: Predictions, rows: Any) -> Predictions:
    """Some of the rows."""
    return dataclasses.replace(
        run,
        ids=tuple(run.ids[i] for i in rows),
        texts=tuple(run.texts[i] for i in rows),
        targets=run.targets[rows],
        probabilities=run.probabilities[rows],
        neighbours=run.neighbours[rows],
        similarities=run.similarities[rows],
        references=tuple((run.references or ())[i] for i in rows),
        generated=tuple((run.generated or ())[i] for i in rows),
    )


def _scores(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for one in systems:
        found = {metric: score_interval(one.runs, metric).to_dict() for metric in METRICS}
        yield {"system": one.title, "method": one.label, "k": one.config.k, "group": group, **found}


def _differences(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for one, other in pairs(systems):
        for metric in ("token_f1", "contains"):
            gap = paired_difference(one.runs, other.runs, metric).to_dict()
            yield {"system": one.title, "minus": other.title, "group": group, "metric": metric, **gap}


def _broken(systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for one in systems:
        for other in systems if _plain(one.config) else ():
            if other.label == one.label and other.config == one.config.replace(swapped=True):
                shares = [broken(own, theirs) for own, theirs in zip(one.runs, other.runs, strict=True)]
                for run, share in zip(one.runs, shares, strict=True):
                    yield {"system": one.title, "seed": run.seed, "share": None if share is None else share.to_dict()}


def write(done: Mapping[str, Any], out: Path) -> None:
    """Both files, whole or not at all."""
    with atomic_path(out / "results.json") as path:
        text = json.dumps(without_nan(done), indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
    with atomic_path(out / "results.md") as path:
        path.write_text("\n".join(_markdown(done)) + "\n", encoding="utf-8")


def _markdown(done: Mapping[str, Any]) -> Iterator[str]:
    about = done["about"]
    yield f"# {about['corpus']}, {about['model']} ({about['dtype'].removeprefix('torch.')})"
    yield ""
    yield f"{about['passages']} passages, {about['questions']} questions. {' '.join(about['notes'])}"
    for k, shares in done["retrieval"].items():
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        yield f"Retrieved with k = {k}: {told}."
    for group, n in done["groups"].items():
        yield from ("", f"## {group}, n = {n}", "")
        yield "| answered by | F1 [95%] | exact [95%] | contained [95%] | s a question |"
        yield "|---|---:|---:|---:|---:|"
        for line in done["scores"]:
            if line["group"] == group:
                cells = [POINTS.span(Interval.from_dict(line[metric])) for metric in METRICS]
                seconds = done["seconds_per_question"][line["system"]]
                yield f"| {line['system']} | {' | '.join(cells)} | {seconds:.3f} |"
        yield from ("", "| paired difference of F1 | minus | [95%] | p |", "|---|---|---:|---:|")
        for line in done["differences"]:
            if line["group"] == group and line["metric"] == "token_f1":
                span = f"{line['value']:+.1f} [{line['low']:+.1f}, {line['high']:+.1f}]"
                yield f"| {line['system']} | {line['minus']} | {span} | {line['p_value']:.4f} |"
    yield from ("", "## Adapters of other passages", "")
    yield "| | seed | % of right answers that become wrong [95%] |"
    yield "|---|---:|---:|"
    for line in done["broken"]:
        told = "none was right" if line["share"] is None else POINTS.span(Interval.from_dict(line["share"]))
        yield f"| {line['system']} | {line['seed']} | {told} |"
    yield from ("", "## Cost", "")
    yield "| | seed | bytes | a passage | of the first | encoding, s | a passage | left out |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for line in done["costs"]:
        size, seconds, passages = line["bytes"], line["encode_seconds"], line["passages"]
        each = f"{seconds / line['trained']:.2f}" if line["trained"] else "–"  # after an interruption these are fewer
        share = size / done["costs"][0]["bytes"]
        yield (
            f"| {line['method']} | {line['seed']} | {size:,} | {size / passages:,.0f} | {share:.3f} "
            f"| {seconds:.0f} | {each} | {len(line['left_out'])} |"
        )
    yield from ("", "```bash", about["command"], "```")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
